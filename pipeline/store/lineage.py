"""What a result was made of, down to its sources, read from the keys and records beside results."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.artifacts import MANIFEST
from pipeline.core.keys import Json
from pipeline.store.results import KEY, RECORD, Results
from pipeline.store.survey import read_runs

ID = re.compile(r"([A-Za-z0-9]+)-([A-Za-z0-9]+)-[0-9a-f]{32}")


@dataclass(frozen=True)
class Made:
    """One result of a lineage.

    Args:
        name: what the run that made it called it; its step's class where that is not known.
        args: its key's arguments, without those that are results.
        inputs: where in the arguments -> id of the result that stands there.
        record: how it was made; of a linked result, how the earlier one was.
        linked_from: the earlier result that it has its files from.
        manifest: what it is, as JSON; empty where it is gone or damaged.
        damage: why what stands there cannot be used; "" if it can, or is gone.
    """

    id: str
    name: str
    step: str
    version: str
    folder: Path
    args: dict[str, Json] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    linked_from: str | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    damage: str = ""

    @property
    def is_here(self) -> bool:
        return bool(self.manifest)

    @property
    def sources(self) -> dict[str, dict[str, Json]]:
        """Where in the arguments -> what reads outside data there, with its fingerprint."""
        return dict(_places(self.args, _has_fingerprint))


def lineage(results: Results, id: str) -> list[Made]:
    """A result and all that it was made of; each stands after those that it was made of."""
    names = _names(results)
    entered: dict[str, Made] = {}
    done: dict[str, Made] = {}
    waiting = [id]
    while waiting:
        each = waiting[-1]
        if each not in entered:
            entered[each] = _made(results, each, names)
            below = dict.fromkeys(entered[each].inputs.values())
            waiting += [other for other in reversed(below) if other not in entered]
            continue
        done.setdefault(each, entered[each])
        waiting.pop()
    return list(done.values())


def _made(results: Results, id: str, names: dict[str, str]) -> Made:
    folder = results.folder(id)
    kind = ID.fullmatch(id)
    assert kind is not None  # `folder` refuses any other
    key, record = _object(folder / KEY), _object(folder / RECORD)
    key = key or _object(results.root / "work" / id / KEY)  # of a step that was not finished
    args = key.get("args")
    inputs = dict(_inputs(args)) if isinstance(args, dict) else {}
    kept = {n: v for n, v in args.items() if n not in inputs} if isinstance(args, dict) else {}
    earlier = record.get("linked_from")
    if isinstance(earlier, str) and ID.fullmatch(earlier):
        record = _object(results.folder(earlier) / RECORD) | {"name": record.get("name")}
    else:
        earlier = None
    fault = results.fault(id) if os.path.lexists(folder) else None
    name = names.get(id) or record.get("name") or kind[1]
    return Made(
        id=id,
        name=str(name),
        step=kind[1],
        version=kind[2],
        folder=folder,
        args={n: v for n, v in kept.items() if not any(_inputs(v))},
        inputs=inputs,
        record=record,
        linked_from=earlier,
        manifest=_object(folder / MANIFEST) if fault is None else {},
        damage=fault.reason if fault else "",
    )


def _inputs(value: Json) -> Iterator[tuple[str, str]]:
    return ((path, str(form["step"])) for path, form in _places(value, _is_input))


def _is_input(form: dict[str, Json]) -> bool:
    id = form.get("step")
    return isinstance(id, str) and ID.fullmatch(id) is not None and len(form) == 1


def _has_fingerprint(form: dict[str, Json]) -> bool:
    return bool(form.get("fingerprint"))


def _places(
    value: Json, wanted: Callable[[dict[str, Json]], bool], path: str = ""
) -> Iterator[tuple[str, dict[str, Json]]]:
    """Where the objects that are wanted stand in a value; none is looked for inside of one."""
    if isinstance(value, dict):
        if wanted(value):
            yield path, value
            return
        for name, item in value.items():
            yield from _places(item, wanted, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _places(item, wanted, f"{path}[{place}]")


def _names(results: Results) -> dict[str, str]:
    """Id -> step, as the newest run that names it does."""
    runs = reversed(read_runs(results).values())
    return {id: name for run in runs for name, id in run.steps.items()}


def _object(path: Path) -> dict[str, Any]:
    """A JSON file of a workspace; empty where it is none that can be read."""
    try:
        form = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return form if isinstance(form, dict) else {}
