"""Results of earlier runs beside a key: the nearest of them, and why two results are not one."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from pipeline.core.artifacts import MANIFEST
from pipeline.core.keys import Change, Json, changes
from pipeline.store.code import Code
from pipeline.store.inventory import is_id
from pipeline.store.results import FAILURE, Results

Key = dict[str, Json]


@dataclass(frozen=True)
class Cost:
    """What a result took, as far as it was noted."""

    seconds: float | None = None
    num_bytes: int | None = None


class Attempt(NamedTuple):
    """How an attempt ended: by an error or by a signal that asked it to stop; else by a kill."""

    error: str = ""
    stopped: str = ""


class Earlier:
    """What stands in a workspace, read when it is asked for and then kept."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self._keys: dict[str, Key | None] = {}
        self._records: dict[str, dict[str, Json]] = {}

    @cached_property
    def by_class(self) -> dict[str, list[str]]:
        """Class of a step -> ids of its results."""
        found: dict[str, list[str]] = {}
        for id in self.results:
            found.setdefault(id.split("-")[0], []).append(id)
        return found

    @cached_property
    def runs(self) -> list[tuple[str, dict[str, str]]]:
        """Name of each run, and its steps with their ids; the newest run first."""
        found = []
        for path in (self.results.root / "runs").glob("*/steps.json"):
            try:
                ids = json.loads(path.read_text(encoding="utf-8"))
                when = path.stat().st_mtime_ns
            except (OSError, ValueError, RecursionError):
                continue
            if isinstance(ids, dict):
                kept = {name: id for name, id in ids.items() if isinstance(id, str)}
                found.append((when, path.parent.name, kept))
        return [(name, ids) for _, name, ids in sorted(found, key=lambda each: -each[0])]

    def key(self, id: str) -> Key | None:
        if id not in self._keys:
            self._keys[id] = self.results.key(id) if is_id(id) else None
        return self._keys[id]

    def name(self, id: str) -> str | None:
        """What the newest run that had a result calls it."""
        return next((n for _, ids in self.runs for n, each in ids.items() if each == id), None)

    def nearest(self, name: str, id: str, key: Key, beside: Collection[str] = ()) -> str | None:
        """The earlier result that differs least from a key.

        Of those that a run had under this step's name, else of all of its class; of equally near
        ones the newest run's.

        Args:
            beside: ids of the same graph, whose results are other steps' and no earlier ones.
        """
        named = [ids[name] for _, ids in self.runs if name in ids]
        stem = f"{key['step']}-"
        for ids in (named, self.by_class.get(str(key["step"]), [])):
            found = [
                (len(changes(old, key)), place, each)
                for place, each, old in self._with_keys(
                    each
                    for each in ids
                    if each != id and each not in beside and each.startswith(stem)
                )
            ]
            if found:
                return min(found)[2]
        return None

    def like(self, key: Key, beside: Collection[str] = ()) -> bool:
        """Whether an earlier result differs from a key in nothing but the ids of what it reads."""
        form = _without_ids(key)
        ids = [each for each in self.by_class.get(str(key["step"]), []) if each not in beside]
        return any(_without_ids(old) == form for _, _, old in self._with_keys(ids))

    def _with_keys(self, ids: Iterable[str]) -> Iterator[tuple[int, str, Key]]:
        for place, id in enumerate(dict.fromkeys(ids)):
            key = self.key(id)
            if key is not None:
                yield place, id, key

    def record(self, id: str) -> dict[str, Json]:
        """How a result was made; empty where nothing is known of it."""
        if id not in self._records:
            self._records[id] = self.results.record(id) if is_id(id) else {}
        return self._records[id]

    def code(self, id: str) -> Code | None:
        """The code that made a result, where it was recorded."""
        return Code.from_json(self.record(id).get("code"))

    def cost(self, id: str) -> Cost:
        """What a result took; of a linked one, what the earlier one did."""
        record = self.record(id)
        if isinstance(record.get("linked_from"), str):
            record = self.record(record["linked_from"])
        seconds = record.get("seconds")
        try:
            form = json.loads((self.results.folder(id) / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            form = {}
        known = float(seconds) if isinstance(seconds, (int, float)) else None
        return Cost(known, sum(_sizes(form)))

    def unfinished(self, id: str) -> Attempt | None:
        """How the attempt at a result ended of which something is left, if there is any."""
        folder = self.results.root / "work" / id
        try:
            if not os.listdir(folder):
                return None
        except OSError:
            return None
        try:
            form = json.loads((folder / FAILURE).read_text(encoding="utf-8"))
            if "stopped" in form:
                return Attempt(stopped=str(form["stopped"]))
            return Attempt(error=str(form["error"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return Attempt()


def _without_ids(form: Json) -> Json:
    """A key with what it reads left open."""
    if isinstance(form, dict):
        if isinstance(form.get("step"), str) and len(form) == 1:
            return {"step": None}
        return {name: _without_ids(each) for name, each in form.items()}
    return [_without_ids(each) for each in form] if isinstance(form, list) else form


def _sizes(form: Json) -> Iterator[int]:
    """The sizes of the files that a manifest names."""
    if isinstance(form, dict):
        for name, each in form.items():
            if name in ("num_bytes", "index_bytes") and isinstance(each, int):
                yield each
            else:
                yield from _sizes(each)
    elif isinstance(form, list):
        for each in form:
            yield from _sizes(each)


@dataclass(frozen=True)
class Cause:
    """A place where two keys differ on their own account, and the steps that lead to it.

    Args:
        steps: the ids on both sides, from what was asked about to where the change is.
    """

    steps: tuple[tuple[str, str], ...]
    change: Change


def is_input(change: Change) -> bool:
    """Whether a change is only that another result is read."""
    return change.path.endswith(".step") and is_id(change.old) and is_id(change.new)


def first_causes(old: str, new: str, key_of: Callable[[str], Key | None]) -> list[Cause]:
    """The changes at which two results part, followed through the results that they read.

    A pair of results that is reached in several ways is looked at once, on its shortest way. The
    search ends where the key of one is gone, and where steps of two kinds stand beside each other.
    """
    found: list[Cause] = []
    seen = {(old, new)}
    todo: deque[tuple[tuple[str, str], ...]] = deque([((old, new),)])
    while todo:
        steps = todo.popleft()
        before, after = (key_of(id) for id in steps[-1])
        if before is None or after is None:
            found.append(Cause(steps, Change("step", *steps[-1])))
            continue
        if before["step"] != after["step"]:
            found.append(Cause(steps, Change("step", before["step"], after["step"])))
            continue
        for change in changes(before, after):
            if not is_input(change):
                found.append(Cause(steps, change))
            elif (change.old, change.new) not in seen:
                seen.add((change.old, change.new))
                todo.append((*steps, (change.old, change.new)))
    return found
