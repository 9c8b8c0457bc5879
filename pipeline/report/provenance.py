"""A lineage as text: what a result was made of, by what code, on which machine, how long."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from pipeline.core.keys import Json
from pipeline.core.terminal import counted, visible
from pipeline.store.lineage import Made

Arguments = Callable[[Made], dict[str, Json]]
COUNTS = ("documents", "questions", "examples", "pairs", "tokens", "text_bytes", "steps")
MAX_VALUE = 400  # characters of an argument


def provenance_tree(lineage: Sequence[Made], arguments: Arguments) -> list[str]:
    """Lines: the last of a lineage on top, below it what it was made of, each once in full.

    Args:
        arguments: those of a result that are worth showing.
    """
    by_id = {each.id: each for each in lineage}
    numbers: dict[str, int] = {}
    environments = [_environment(each) for each in lineage]
    for each in environments:
        if each:
            numbers.setdefault("\n".join(each), len(numbers) + 1)
    marks = {
        made.id: numbers.get("\n".join(each), 0)
        for made, each in zip(lineage, environments, strict=True)
    }
    lines: list[str] = []
    shown: set[str] = set()
    # what is yet to be drawn: a result, its place in what reads it, and what stands left of it
    todo: list[tuple[str, str, str, str]] = [(lineage[-1].id, "", "", "")]
    while todo:
        id, place, left, below = todo.pop()
        made, again = by_id[id], id in shown
        shown.add(id)
        label = f"{visible(place)}: " if place and place != made.name else ""
        mark = f" [{marks[id]}]" if marks[id] else ""
        if again:
            lines.append(f"{left}{label}{visible(made.name)} · see above")
            continue
        lines.append(f"{left}{label}{_headline(made)}{mark}")
        inputs = list(made.inputs.items())
        rail = below + ("│   " if inputs else "    ")
        lines += [rail + each for each in _details(made, arguments(made))]
        for number, (name, other) in reversed(list(enumerate(inputs))):
            last = number == len(inputs) - 1
            corner, under = ("└─ ", "   ") if last else ("├─ ", "│  ")
            todo.append((other, name, below + corner, below + under))
    for text, number in numbers.items():
        first, *rest = text.split("\n")
        lines += [f"[{number}] {first}", *(f"    {each}" for each in rest)]
    return [*lines, _total(lineage)]


def moment(seconds: Any) -> datetime | None:
    """The time of a record's number; None where it is no time."""
    if not is_number(seconds):
        return None
    try:
        return datetime.fromtimestamp(float(seconds), timezone.utc)
    except (OverflowError, ValueError, OSError):
        return None


def is_number(value: object) -> bool:
    """Whether a value of a record is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _without(record: Mapping[str, Any]) -> str:
    """What the energy in a record does not count, in words; "" where nothing is known to lack."""
    kinds = {"devices_not_measured": "GPU", "updates_not_measured": "update"}
    numbers = {kind: record.get(name) for name, kind in kinds.items()}
    said = [counted(n, kind) for kind, n in numbers.items() if isinstance(n, int) and n > 0]
    return f" without {' and '.join(said)}" if said else ""


def _headline(made: Made) -> str:
    parts = [made.name, f"{made.step} {made.version}", made.id.rpartition("-")[2][:8]]
    record = made.record
    if not made.is_here:
        parts.append("no longer here")
    if is_number(record.get("seconds")):
        parts.append(f"{record['seconds']:.1f} s")
    if is_number(record.get("energy_kwh")):
        parts.append(f"{record['energy_kwh']:.3g} kWh{_without(record)}")
    if is_number(record.get("co2_kilograms")):
        parts.append(f"{record['co2_kilograms']:.3g} kg CO2e")
    started = moment(record.get("started"))
    if started is not None:
        parts.append(f"{started:%Y-%m-%d %H:%M:%S} UTC")
    if made.linked_from:
        parts.append(f"linked from {made.linked_from.rpartition('-')[2][:8]}")
    code = record.get("code")
    if isinstance(code, dict) and isinstance(code.get("digest"), str):
        parts.append(f"code {code['digest'][:8]}")
    return " · ".join(map(visible, parts))


def _details(made: Made, arguments: dict[str, Json]) -> Iterator[str]:
    for name, value in arguments.items():
        yield f"{visible(name)} = {visible(_cut(shown_value(value)))}"
    for name, source in made.sources.items():
        yield f"{visible(name)}: fingerprint {visible(_cut(str(source['fingerprint'])))}"
    if made.damage:
        yield visible(f"damaged: {made.damage}")
    manifest = made.manifest
    sources, licences = manifest.get("sources"), manifest.get("licences")
    known = (
        [each for each in sources if isinstance(each, dict)] if isinstance(sources, list) else []
    )
    if len(known) == 1:
        each = known[0]
        yield visible(
            f"{each.get('source')}: licence {each.get('licence')}, {each.get('provenance')}"
        )
    elif known:
        found = dict.fromkeys(str(each.get("licence")) for each in known)
        yield visible(f"{len(known)} sources: licences {', '.join(found)}")
    if isinstance(licences, dict):
        said = "; ".join(f"{name} {licence}" for name, licence in licences.items())
        yield visible(f"licences: {said}")
    if manifest:
        kind, content = manifest.get("artifact"), str(manifest.get("content"))[:12]
        yield visible(f"{kind}, content {content}; {_counted(manifest)}".rstrip("; "))


def shown_value(value: Json) -> str:
    """A canonical value as it might be written: components as calls, the rest as JSON."""
    if isinstance(value, dict):
        inner = (
            f"{name}={shown_value(each)}"
            for name, each in value.items()
            if name not in ("is", "version", "fingerprint")
        )
        return f"{value.get('is', '')}({', '.join(inner)})"
    if isinstance(value, list):
        return f"[{', '.join(map(shown_value, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _counted(form: dict[str, Any]) -> str:
    found = []
    for name in COUNTS:
        value = form.get(f"num_{name}", form.get(name))
        count = len(value) if isinstance(value, list) else value
        if is_number(count):
            said = {"text_bytes": "bytes of text", "steps": "checkpoints"}.get(name, name)
            found.append(f"{count:,} {said}")
    return ", ".join(found)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"


def _environment(made: Made) -> list[str]:
    """With what and on what a result was made, in lines; none where nothing was recorded."""
    record, lines = made.record, []
    packages = record.get("packages")
    if isinstance(packages, dict):
        said = ", ".join(f"{name} {version}" for name, version in packages.items())
        lines.append(f"Python {record.get('python')}; {said}")
    git = record.get("git")
    if isinstance(git, dict):
        where = "" if git.get("of") == "code" else f" of the {git.get('of')}"
        said = f"commit {git.get('commit') or 'none yet'}{where}"
        if "diff_sha256" in git:
            size, digest = git.get("diff_bytes"), str(git["diff_sha256"])[:12]
            said += f", changed: a diff of {size} bytes, SHA-256 {digest}"
        elif git.get("dirty"):
            said += ", with files that are in no commit"
        lines.append(said)
    hardware = record.get("hardware")
    if isinstance(hardware, dict):
        parts = [str(hardware.get("processor")), f"{hardware.get('cores')} cores"]
        if is_number(hardware.get("memory_bytes")):
            parts.append(f"{hardware['memory_bytes'] / 1e9:.1f} GB")
        gpus = hardware.get("gpus")
        named = [str(each) for each in gpus] if isinstance(gpus, list) else []
        counts = [f"{named.count(each)} {each}" for each in dict.fromkeys(named)]
        parts += [*(counts or ["no GPU"]), str(hardware.get("system"))]
        lines.append(f"{record.get('host')}: {', '.join(parts)}")
    return [visible(each) for each in lines]


def _total(lineage: Sequence[Made]) -> str:
    """The work of all of them; what several results share was done once."""
    made = {each.linked_from or each.id: each.record for each in lineage}
    seconds = [each["seconds"] for each in made.values() if is_number(each.get("seconds"))]
    energy = [each["energy_kwh"] for each in made.values() if is_number(each.get("energy_kwh"))]
    said = f"{counted(len(lineage), 'result')}, {sum(seconds):.1f} s of work"
    if energy:
        by = sorted({visible(each["energy_by"]) for each in made.values() if each.get("energy_by")})
        how = f" (by {'; '.join(by)})" if by else ""
        said += f", {sum(energy):.3g} kWh in {len(energy)} of them{how}"
    gone = sum(not each.is_here for each in lineage)
    return said + (f"; {gone} are no longer here" if gone else "")
