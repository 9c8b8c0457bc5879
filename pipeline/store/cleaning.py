"""What can be removed from a workspace, and its removal.

A run is kept until it is removed itself, and so is what its steps made; what no kept run names, and
nothing that is kept draws on, can go. What somebody works on, and what that work reads, never goes.
Every removal is one rename to `trash/` before anything is deleted, so a kill leaves no half result.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import Inaccessible, PipelineError
from pipeline.store.discarding import discard
from pipeline.store.inventory import is_id
from pipeline.store.leases import clear_leftovers, live_leases, run_lease
from pipeline.store.memo import read_entry
from pipeline.store.results import Results
from pipeline.store.series import USERS, forget_users, read_users
from pipeline.store.survey import UNUSED, Place, Survey, keeps_series, read_runs

OF_STEPS = ("result", "work")  # places that have the name of a step's id
YOUNG_SECONDS = 600  # somebody may still be writing it
BEGUN_SECONDS = 1.0  # a younger file may be that of a run which begins now


class InUse(PipelineError):
    """Somebody works on this now, or reads it."""


@dataclass(frozen=True)
class Removal:
    """What can go, by kind, and what the disk gets back."""

    places: list[Place]
    num_bytes: int
    ids: set[str]  # of the steps that go, finished or not
    in_use: list[str] = field(default_factory=list)  # ids that only somebody's work keeps
    staying: dict[str, str] = field(default_factory=dict)  # series of these steps alone -> why

    def by_kind(self) -> dict[str, list[Place]]:
        found: dict[str, list[Place]] = {}
        for each in self.places:
            found.setdefault(each.kind, []).append(each)
        return found


def plan_cleaning(survey: Survey) -> Removal:
    """Everything that no kept run needs."""
    used = survey.in_use()
    wanted = {id for run in survey.runs.values() for id in run.steps.values()}
    kept = survey.drawn_on(wanted | used)
    doomed = []
    for place in survey.places:
        if (
            (place.kind == "result" and place.name not in kept)
            or (place.kind == "series" and not keeps_series(survey, place.name, kept))
            or (place.kind == "work" and not _is_wanted_work(survey, place.name, wanted))
            or (place.kind in UNUSED and not _is_being_saved(survey, place))
        ):
            doomed.append(place)
    staying = {p for p in survey.places if p.kind in OF_STEPS} - set(doomed)
    digests = _digests(survey, staying)
    for place in survey.places:
        if place.kind == "memory" and not _is_needed_memory(survey, place, staying, digests):
            doomed.append(place)
    ids = {each.name for each in doomed if each.kind in OF_STEPS}
    return Removal(doomed, survey.freed(doomed), ids, sorted(used - survey.drawn_on(wanted)))


def plan_removal(survey: Survey, ids: Iterable[str]) -> Removal:
    """Some steps, finished or not, and what is there for them alone: series, what the memo keeps.

    A series stays where another result shows it, and where another step trains it that has not
    finished; then it is among the `staying`.
    """
    ids = set(ids)
    gone = {place for id in ids for kind in OF_STEPS if (place := survey.place(kind, id))}
    staying = {}
    for series in [each for each in survey.places if each.kind == "series"]:
        users = read_users(series.path)
        shown = {id for id, each in survey.results_by_id.items() if series.name in each.series}
        if not ids & (shown | set(users or [])):
            continue
        if not keeps_series(survey, series.name, (shown | set(users or [])) - ids):
            gone |= {series, *survey.leftovers_of(series)}
        elif not shown - ids:
            staying[series.name] = _why_it_stays(survey, series, users, ids)
    others = {each for each in survey.places if each.kind in OF_STEPS} - gone
    for place in survey.places:
        if place.kind == "memory" and survey.shares_a_file(place, gone):
            if not survey.shares_a_file(place, others):
                gone.add(place)
    ordered = [each for each in survey.places if each in gone]
    return Removal(ordered, survey.freed(ordered), ids, staying=staying)


def _why_it_stays(survey: Survey, series: Place, users: list[str] | None, ids: set[str]) -> str:
    """Why a series stays that no result shows but those removed, and what would remove it."""
    if f"series-{series.name}" in survey.live:
        return "a run trains it now"
    if users is None:
        return f"its {USERS} is damaged, so a step may train it; without that file `olmo gc` has it"
    said = []
    for id in sorted(set(users) - ids):
        runs = ", ".join(survey.named_by_runs(id))
        said.append(f"{id}{f' ({runs})' if runs else ''}")
    rest = " ".join(sorted(set(users) - ids))
    return f"not finished and trained there: {', '.join(said)}; `olmo rm {rest}` removes it too"


def remove(results: Results, removal: Removal) -> list[InUse]:
    """Remove what was planned; gives what came into use meanwhile and stays."""
    refused = []
    for place in removal.places:
        try:
            with _held(results, place):
                _discard_folder(results, place.path)
        except InUse as error:
            refused.append(error)
    if any(place.kind == "result" for place in removal.places):
        _forget_results(results)
    _forget_users(results, removal.ids)
    return refused


def came_free(survey: Survey, removal: Removal) -> int:
    """Bytes of disk that a removal gave back: what was refused is there still."""
    return survey.freed(each for each in removal.places if not os.path.lexists(each.path))


def clear_after_kills(results: Results) -> None:
    """Remove what kills left: the leases of owners that are gone and, where nobody else works here,
    what they had in the memo under a temporary name."""
    leases = results.root / "leases"
    if not clear_leftovers(leases) or live_leases(leases):
        return
    for each in (results.root / "memo").rglob(".*.tmp"):
        with suppress(OSError):
            if time.time() - each.stat().st_mtime > BEGUN_SECONDS:
                each.unlink()


def remove_run(results: Results, name: str) -> None:
    """Let a run go; what it alone needed is then removed by a cleaning.

    Raises:
        KeyError: there is no such run.
        InUse: it is not ended, or one of its steps is being worked on.
    """
    folder = results.root / "runs" / name
    if "/" in name or name in ("", ".", "..") or not (folder / "steps.json").is_file():
        raise KeyError(name)
    runs = read_runs(results)
    run = runs.pop(name, None)
    for id in run.steps.values() if run else []:
        if id not in results:
            with _leased(results, id):
                pass
    with _leased(results, run_lease(name)):
        _discard_folder(results, folder)
    latest = results.root / "latest"
    if os.path.islink(latest) and not latest.exists():
        latest.unlink()
        newest = max(runs.values(), key=lambda each: each.registered, default=None)
        if newest is not None:
            latest.symlink_to(os.path.join("runs", newest.name))


def discard_data(results: Results, id: str) -> int:
    """Drop the data of a result that nobody reads now; gives the bytes that came free.

    Raises:
        InUse: somebody works on it, or reads it.
        ValueError: it has no data that could be made again.
    """
    survey = Survey(results)
    if id in survey.in_use():
        raise InUse(f"{id} is in use; it can be discarded when that work is done")
    before = survey.freed(plan_removal(survey, [id]).places)
    with _leased(results, id):
        discard(results, id)
    after = Survey(results)
    return max(0, before - after.freed(plan_removal(after, [id]).places))


def _is_wanted_work(survey: Survey, id: str, wanted: set[str]) -> bool:
    """Whether a folder of work will be gone on with: somebody is at it, or a kept run lacks it."""
    if id in survey.live:
        return True
    standing = survey.results_by_id.get(id)
    return id in wanted and (standing is None or standing.fault is not None)


def _is_being_saved(survey: Survey, place: Place) -> bool:
    """Whether a hidden folder of a series may be a checkpoint that is written now."""
    return f"series-{place.name.split('/')[0]}" in survey.live


def _digests(survey: Survey, places: set[Place]) -> set[str]:
    """The digests of the files of results, for file systems on which the memo holds copies."""
    found = set()
    for place in places:
        standing = survey.results_by_id.get(place.name)
        if standing is not None and standing.inventory is not None and not standing.discarded:
            found |= {state.sha256 for state in standing.inventory.files.values()}
    return found


def _is_needed_memory(survey: Survey, place: Place, staying: set[Place], digests: set[str]) -> bool:
    """Whether work that stays rests on a memory; one without files is too small to be removed."""
    try:
        entry = read_entry(place.path)
    except Inaccessible:
        return True
    if entry is None:
        return abs(time.time() - place.path.stat().st_mtime) < YOUNG_SECONDS
    if not entry.files:
        return True
    return survey.shares_a_file(place, staying) or any(
        each.sha256 in digests for each in entry.files
    )


def _forget_results(results: Results) -> None:
    """Drop from the memo the content keys of results that are gone."""
    for path in (results.root / "memo" / "results").glob("*/*.json"):
        with suppress(OSError, ValueError, LookupError, TypeError):
            id = json.loads(path.read_text(encoding="utf-8"))["result"]
            if not is_id(id) or not results.folder(id).exists():
                path.unlink()


def _forget_users(results: Results, ids: set[str]) -> None:
    """Let steps that are gone, with all that they began, keep no series any more."""

    def is_gone(id: str) -> bool:
        places = (results.root / name / id for name in ("cache", "work"))
        return results.lease(id).holder() is None and not any(map(os.path.lexists, places))

    for series in results.series_root.glob("*"):
        if ids & set(read_users(series) or []):
            forget_users(series, ids, is_gone)


@contextmanager
def _held(results: Results, place: Place) -> Iterator[None]:
    """Work on a place alone; raises InUse where somebody else does."""
    name = f"series-{place.name}" if place.kind == "series" else place.name
    if place.kind in ("series", "work", "result"):
        with _leased(results, name):
            yield
    else:
        yield


@contextmanager
def _leased(results: Results, name: str) -> Iterator[None]:
    def refuse(owner: dict[str, object]) -> None:
        pid, host = owner.get("pid"), owner.get("host")
        raise InUse(f"{name} is in use: process {pid} on {host} works on it")

    with results.lease(name, refuse):
        yield


def _discard_folder(results: Results, path: Path) -> None:
    """Delete a folder so that it is there whole or not at all."""
    if path.parent.name != "trash":
        trash = results.root / "trash"
        trash.mkdir(exist_ok=True)
        number = 0
        while os.path.lexists(target := trash / f"{path.name}-{os.getpid()}-{number}"):
            number += 1
        try:
            os.replace(path, target)
        except FileNotFoundError:
            return
        path = target
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    with suppress(OSError):
        (results.root / "trash").rmdir()
