"""Outside data, pinned: what a graph will fetch, and the lock file beside its experiment.

The lock of `experiments/x.jsonnet` is `experiments/x.lock.json`. Whoever builds a graph hands its
pins to `build_steps`, which gives them to the components that read the data: there they enter the
keys, travel to other processes with the component, and are held against what is fetched. `tango
run` builds its graph without saying of which file, so we ask click, which read the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import click
from tango.step import Step

from pipeline.core.errors import PipelineError, Unavailable
from pipeline.core.files import file_sha256
from pipeline.core.outside import look_up, read_through
from pipeline.core.pins import Outside, Pin, outside_in, read_lock, write_lock
from steps.graph.wiring import WiringError

AT_ONCE = 8  # look-ups
State = Literal["locked", "not locked", "moved", "unreachable", "contradicted"]


@dataclass(frozen=True)
class Item:
    """A piece of outside data that a graph reads.

    Args:
        known: what the experiment and its lock say of it.
        state: whether it is locked; `moved` and `unreachable` only where somebody looked.
        says: what is to be said of the state.
    """

    locator: str
    steps: tuple[str, ...]
    known: Pin
    component: Outside
    state: State
    says: str = ""


def lock_path(experiment: str | Path) -> Path:
    """The lock file of an experiment, whether or not it is there."""
    return Path(experiment).with_suffix(".lock.json")


def pins_beside(experiment: str | Path) -> dict[str, Pin]:
    """What the lock of an experiment says; nothing where it has none.

    Raises:
        WiringError: the file is no lock.
    """
    try:
        return read_lock(lock_path(experiment))
    except ValueError as error:
        raise WiringError(str(error)) from error


def pins_of_command() -> dict[str, Pin]:
    """The pins of the experiment that Tango's command line was asked to run."""
    context = click.get_current_context(silent=True)
    experiment = context.params.get("experiment") if context is not None else None
    return pins_beside(experiment) if isinstance(experiment, str) else {}


def outside_of(steps: Iterable[Step[Any]]) -> list[Item]:
    """The outside data that steps read, each piece once."""
    found: dict[str, Item] = {}
    for step in steps:
        for component in outside_in(step.kwargs):
            for locator, known in component.outside().items():
                names = found[locator].steps if locator in found else ()
                state: State = "locked" if str(known) else "not locked"
                names = tuple(dict.fromkeys([*names, step.name]))
                found[locator] = Item(locator, names, known, component, state)
    return list(found.values())


def looked_at(items: Iterable[Item]) -> list[Item]:
    """The items, each with what is there now beside what is known of it."""

    def look(item: Item) -> Item:
        try:
            moved = _moved(item.known, look_up(item.locator))
        except Unavailable as error:
            return replace(item, state="unreachable", says=str(error))
        return replace(item, state="moved", says=moved) if moved else item

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(look, items))


def lock(steps: Iterable[Step[Any]], path: Path, *, with_digests: bool = False) -> list[Item]:
    """Look at all that steps will fetch and write it down.

    What cannot be reached keeps what the lock said of it. A digest is kept as long as size and
    state are the same.

    Args:
        steps: built without the lock.
        with_digests: read all of it once; else sizes and states are asked for.

    Returns:
        Each item with its new pin; `moved` where the lock said something else before.

    Raises:
        WiringError: the file that is there is no lock.
    """
    try:
        old = read_lock(path)
    except ValueError as error:
        raise WiringError(str(error)) from error

    def work(item: Item) -> Item:
        before = old.get(item.locator, Pin())
        try:
            now = _learned(item, before, with_digests)
        except ValueError as error:  # by the experiment itself, or by data that moved meanwhile
            return replace(item, state="contradicted", says=str(error))
        except PipelineError as error:
            known = before if str(before) else item.known
            return replace(item, known=known, state="unreachable", says=str(error))
        moved = _moved(before, now)
        state: State = "moved" if moved else "locked" if str(now) else "not locked"
        return replace(item, known=now, state=state, says=moved)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        made = list(pool.map(work, outside_of(steps)))
    pins = {each.locator: each.known for each in made if str(each.known)}
    if pins or old:
        write_lock(path, pins)
    return made


def _learned(item: Item, before: Pin, with_digests: bool) -> Pin:
    now = item.known.joined(look_up(item.locator))
    if before.sha256 and not _moved(replace(before, sha256=""), now):
        now = now.joined(Pin(sha256=before.sha256))
    if not with_digests or now.sha256 or now.revision:
        return now
    fetched = getattr(item.component, "fetched", None)
    if fetched is not None:
        path = fetched(item.locator)
        return now.joined(Pin(num_bytes=path.stat().st_size, sha256=file_sha256(path)))
    return now.joined(read_through(item.locator))


def _moved(known: Pin, now: Pin) -> str:
    """In what the data is not as it was known; "" where all that both say is the same."""
    told = []
    for name in ("num_bytes", "etag", "revision", "sha256"):
        old, new = getattr(known, name), getattr(now, name)
        if old not in (None, "", new) and new not in (None, ""):
            told.append(f"{name} {old} -> {new}")
    return ", ".join(told)


def told(items: list[Item], experiment: str) -> Iterator[str]:
    """What a plan says of its outside data; nothing where there is none."""
    if not items:
        return
    by_state: dict[State, list[Item]] = {}
    for each in items:
        by_state.setdefault(each.state, []).append(each)
    open_ = by_state.get("not locked", [])
    yield f"outside data: {len(items) - len(open_)} of {len(items)} locked"
    yield from (f"  not locked yet: {each}" for each in shortened(open_, most=2))
    if open_:
        yield f"  to lock: olmo lock {experiment}"
    for state in ("moved", "unreachable"):
        yield from (f"  {state}: {each}" for each in shortened(by_state.get(state, [])))


def shortened(items: list[Item], most: int = 5) -> Iterator[str]:
    """Items in a line each, the last of many as their number."""
    for each in items[:most]:
        yield f"{each.locator}{f' ({each.says})' * bool(each.says)}"
    if len(items) > most:
        yield f"and {len(items) - most} more"


def as_forms(items: list[Item]) -> list[dict[str, Any]]:
    """The items as JSON values."""
    return [
        {
            "locator": each.locator,
            "steps": list(each.steps),
            "known": str(each.known),
            "state": each.state,
            "says": each.says,
        }
        for each in items
    ]
