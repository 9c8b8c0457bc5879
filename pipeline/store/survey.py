"""What stands in a workspace, who needs it, and what it takes of the disk.

A file may have several names (results of equal content, the memo), so sizes are of files and not of
names: `size` counts each file once, `freed` only those that have no name elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.artifacts import MANIFEST
from pipeline.core.errors import UNUSABLE, CorruptShard, Inaccessible
from pipeline.core.untrusted import read_json
from pipeline.store.inventory import Inventory, is_id
from pipeline.store.leases import live_leases, run_lease
from pipeline.store.results import FAILURE, Results, inputs_of
from pipeline.store.series import read_users

UNUSED = ("damaged", "replaced", "trash")  # folders of what was put out of use


@dataclass(frozen=True)
class Place:
    """One thing that is kept or removed as a whole.

    Args:
        kind: "result", "series", "work", "memory", or the name of a folder in `UNUSED`.
    """

    kind: str
    name: str
    path: Path = field(compare=False)


@dataclass(frozen=True)
class RunOf:
    """One run: its steps in order, with the ids of their results, there or not."""

    name: str
    steps: dict[str, str]
    registered: float


@dataclass
class Standing:
    """A result as it stands, whole or not."""

    id: str
    kind: str  # of artifact
    made: float
    fault: CorruptShard | Inaccessible | None
    inventory: Inventory | None
    inputs: list[str]
    series: set[str]  # that it shows, as its manifest says, whether they are whole or not

    @property
    def discarded(self) -> bool:
        return self.inventory is not None and self.inventory.discarded

    @property
    def references(self) -> list[str]:
        """Results whose files it reads from where they stand."""
        return self.inventory.references if self.inventory else []


def read_runs(results: Results) -> dict[str, RunOf]:
    """The runs of a workspace, the newest first; one that cannot be read is left out."""
    found = []
    for path in (results.root / "runs").glob("*/steps.json"):
        try:
            form = read_json(path)
            registered = path.stat().st_mtime
        except (OSError, ValueError):
            continue
        if isinstance(form, dict):
            steps = {str(name): id for name, id in form.items() if is_id(id)}
            found.append(RunOf(path.parent.name, steps, registered))
    latest = os.path.basename(os.path.realpath(results.root / "latest"))
    found.sort(key=lambda run: (run.name != latest, -run.registered, run.name))
    return {run.name: run for run in found}


class Survey:
    """A look at everything below one workspace; what changes afterwards is not seen."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.runs = read_runs(results)
        self.results_by_id = {id: look_at(results, id) for id in results.standing()}
        self.live = live_leases(results.root / "leases")
        self._bytes: dict[tuple[int, int], int] = {}
        self._owners: dict[tuple[int, int], set[Place]] = {}
        self._num_names: dict[tuple[int, int], int] = {}
        self._links: dict[tuple[int, int], int] = {}
        self._inodes: dict[Place, set[tuple[int, int]]] = {}
        self._by_name = {(each.kind, each.name): each for each in self._places()}
        for place in self._by_name.values():
            self._measure(place)

    @property
    def unknown(self) -> list[Inaccessible]:
        """Why it is not known of some results what they need."""
        faults = (each.fault for each in self.results_by_id.values())
        return [each for each in faults if isinstance(each, Inaccessible)]

    @property
    def places(self) -> list[Place]:
        """Everything that can be kept or removed."""
        return list(self._inodes)

    def place(self, kind: str, name: str) -> Place | None:
        return self._by_name.get((kind, name))

    def leftovers_of(self, series: Place) -> list[Place]:
        """What stands in the folder of a series and is no part of it: it is a place of its own."""
        return [each for each in self.places if each.path.parent == series.path]

    def size(self, places: Iterable[Place]) -> int:
        """Bytes of disk that places take, a file of several names counted once."""
        inodes = set().union(*(self._inodes.get(each, set()) for each in places))
        return sum(self._bytes[each] for each in inodes)

    def freed(self, places: Iterable[Place]) -> int:
        """Bytes of disk that come free when places are removed, all of them."""
        gone = set(places)
        inodes = set().union(*(self._inodes.get(each, set()) for each in gone))
        return sum(
            self._bytes[each]
            for each in inodes
            if self._owners[each] <= gone and self._num_names[each] >= self._links[each]
        )

    def shares_a_file(self, place: Place, others: set[Place]) -> bool:
        """Whether a file of `place` is a file of one of the others as well."""
        return any(self._owners[each] & others for each in self._inodes[place])

    def used_by_results(self, id: str) -> list[str]:
        """Standing results that were made from one, or that draw on it."""
        return [
            each.id
            for each in self.results_by_id.values()
            if id in each.references or (id in each.inputs and each.id != id)
        ]

    def named_by_runs(self, id: str) -> list[str]:
        """`run:step` for each run that names a result, the newest run first."""
        return [
            f"{run.name}:{step}"
            for run in self.runs.values()
            for step, named in run.steps.items()
            if named == id
        ]

    def drawn_on(self, ids: Iterable[str]) -> set[str]:
        """The ids, and those of all results whose files they read from where they stand."""
        found, left = set(), list(ids)
        while left:
            id = left.pop()
            if id not in found:
                found.add(id)
                standing = self.results_by_id.get(id)
                left += standing.references if standing else []
        return found

    def in_use(self) -> set[str]:
        """Ids of what is worked on now, and of what that work reads."""
        working = {name for name in self.live if is_id(name)}
        for run in self.runs.values():
            if run_lease(run.name) in self.live:
                working |= set(run.steps.values())
        read = {id for name in working for id in inputs_of(self.results.root / "work" / name)}
        return self.drawn_on(working | read)

    def _places(self) -> Iterator[Place]:
        root = self.results.root
        for id in self.results_by_id:
            yield Place("result", id, self.results.folder(id))
        for kind, name in (("series", "series"), ("work", "work"), *((u, u) for u in UNUSED)):
            above = root / name
            for path in sorted(above.iterdir()) if above.is_dir() else []:
                yield Place(kind, path.name, path)
        for path in root.glob("series/*/.*"):
            if path.is_dir() and _is_leftover(path.name):
                yield Place("damaged", f"{path.parent.name}/{path.name}", path)
        for path in self.results.files.folders():
            yield Place("memory", path.name, path)

    def _measure(self, place: Place) -> None:
        inodes = self._inodes.setdefault(place, set())
        for found in _stats(place.path, leftovers=place.kind != "series"):
            inode = found.st_dev, found.st_ino
            inodes.add(inode)
            self._bytes[inode] = found.st_blocks * 512
            self._links[inode] = found.st_nlink
            self._num_names[inode] = self._num_names.get(inode, 0) + 1
            self._owners.setdefault(inode, set()).add(place)


def look_at(results: Results, id: str) -> Standing:
    """One result as it stands."""
    folder = results.folder(id)
    inventory = None
    kind, series = "?", set()
    try:
        form = read_json(folder / MANIFEST)
        kind = str(form["artifact"])
        series = {form["series"]} if isinstance(form.get("series"), str) else set()
        inventory = results.inventory(id)
    except (*UNUSABLE, OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    fault: CorruptShard | Inaccessible | None
    try:
        fault = results.fault(id)
    except Inaccessible as error:
        fault = error
    return Standing(id, kind, _made(results, id), fault, inventory, inputs_of(folder), series)


def keeps_series(survey: Survey, name: str, ids: set[str]) -> bool:
    """Whether a series is shown by one of some results, or trained by a step that is wanted.

    One whose users cannot be read is kept: it may be a training that was killed.
    """
    if f"series-{name}" in survey.live:
        return True
    if any(name in survey.results_by_id[id].series for id in ids & survey.results_by_id.keys()):
        return True
    users = read_users(survey.results.series(name))
    return users is None or bool(ids & set(users))


def _made(results: Results, id: str) -> float:
    """When a result was made; by the time of its key where the record does not say."""
    record = results.record(id)
    try:
        return float(record["started"]) + float(record.get("seconds", 0))
    except (LookupError, ValueError, TypeError):
        pass
    for name in ("key.json", MANIFEST, FAILURE):
        try:
            return os.lstat(results.folder(id) / name).st_mtime
        except OSError:
            continue
    return 0.0


def _is_leftover(name: str) -> bool:
    """Whether a folder of a series is a checkpoint set aside, or one that a kill or pull cut off.

    What a run left that was asked to stop is hidden too, and is gone on with.
    """
    return name.startswith((".damaged-", ".pull-")) or name.endswith(".tmp")


def _stats(path: Path, leftovers: bool) -> Iterator[os.stat_result]:
    """The status of a folder and of every file below it; links are not followed."""
    try:
        yield os.lstat(path)
    except OSError:
        return
    for place, folders, names in os.walk(path):
        if not leftovers:
            folders[:] = [each for each in folders if not _is_leftover(each)]
        for name in (*folders, *names):
            try:
                yield os.lstat(os.path.join(place, name))
            except OSError:
                continue
