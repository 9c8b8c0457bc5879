"""What `olmo ls` lists: runs, and the steps of one; sizes of disk, ages, and who needs what."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from pipeline.browse.views import Block, Bytes, Cell, Facts, View, grid
from pipeline.browse.visible import as_age
from pipeline.core.errors import Inaccessible
from pipeline.core.terminal import counted
from pipeline.store.cleaning import plan_cleaning
from pipeline.store.survey import Place, Standing, Survey

SHORT = 8  # hexadecimal digits of an id in a table


def list_workspace(survey: Survey) -> View:
    """The runs, what they share, and what nobody needs."""
    every = set(survey.places)
    unneeded = plan_cleaning(survey)
    rows: list[dict[str, Cell]] = []
    for run in survey.runs.values():
        places = _places(survey, run.steps.values())
        alone = places - _places(
            survey,
            (i for other in survey.runs.values() if other is not run for i in other.steps.values()),
        )
        there = sum(
            (found := survey.results_by_id.get(id)) is not None and found.fault is None
            for id in run.steps.values()
        )
        rows.append(
            {
                "run": run.name,
                "age": as_age(run.registered),
                "steps": f"{there} of {len(run.steps)}",
                "size": Bytes(survey.size(places)),
                "of it alone": Bytes(survey.freed(alone)),
            }
        )
    facts: dict[str, Cell] = {
        "workspace": str(survey.results.root),
        "size": Bytes(survey.size(every)),
        "results": len(survey.results_by_id),
        "training series": sum(each.kind == "series" for each in every),
        "memo": Bytes(survey.size(each for each in every if each.kind == "memory")),
        "damaged, set aside": sum(each.kind == "damaged" for each in every),
        "worked on now": ", ".join(sorted(survey.live)) or "nothing",
        "no run needs": Bytes(unneeded.num_bytes),
    }
    named = {id for run in survey.runs.values() for id in run.steps.values()}
    others = [each for id, each in survey.results_by_id.items() if id not in named]
    blocks: list[Block] = [Facts(facts), grid("runs", rows)]
    if others:
        blocks.append(
            grid("results that no run names", [_row(survey, "", each.id, {}) for each in others])
        )
    return View("workspace", blocks)


def list_steps(survey: Survey, title: str, steps: Mapping[str, str]) -> View:
    """The steps of a run or of an experiment, in order, whether their results are there or not."""
    names = {id: name for name, id in steps.items()}
    rows = [_row(survey, name, id, names) for name, id in steps.items()]
    places = _places(survey, steps.values())
    facts: dict[str, Cell] = {
        "steps": len(steps),
        "size, each file once": Bytes(survey.size(places)),
        "would come free": Bytes(survey.freed(places)),
    }
    return View(title, [Facts(facts), grid("steps", rows)])


def _row(survey: Survey, name: str, id: str, names: Mapping[str, str]) -> dict[str, Cell]:
    standing = survey.results_by_id.get(id)
    own = [each for each in (survey.place("result", id),) if each is not None]
    series = _series(survey, [standing] if standing else [])
    row: dict[str, Cell] = {"step": name} if name else {}
    return {
        **row,
        "id": short_id(id),
        "kind": standing.kind if standing else None,
        "state": _state(survey, id, standing),
        "size": Bytes(survey.size({*own, *series})) if standing else None,
        "age": as_age(standing.made) if standing else None,
        "needed by": _needed_by(survey, id, names) if standing else None,
    }


def short_id(id: str) -> str:
    """An id with the first of its digits, as a command takes it."""
    return id[: len(id) - 32 + SHORT]


def _state(survey: Survey, id: str, standing: Standing | None) -> str:
    if id in survey.live:
        return "worked on"
    if standing is None:
        return "begun" if survey.place("work", id) is not None else "not there"
    if standing.fault is not None:
        if isinstance(standing.fault, Inaccessible):
            return f"unknown: {standing.fault}"
        folder = f"{survey.results.folder(id)}{os.sep}"
        return f"damaged: {standing.fault.reason.replace(folder, '')}"
    return "discarded" if standing.discarded else "there"


def _needed_by(survey: Survey, id: str, names: Mapping[str, str]) -> str:
    readers = [names.get(each, short_id(each)) for each in survey.used_by_results(id)]
    runs = sorted({each.split(":")[0] for each in survey.named_by_runs(id)})
    said = readers[:4] + ([f"{len(readers) - 4} more"] if len(readers) > 4 else [])
    if runs:
        said.append(f"run {runs[0]}" if len(runs) == 1 else counted(len(runs), "run"))
    return ", ".join(said)


def _places(survey: Survey, ids: Iterable[str]) -> set[Place]:
    """The results of some ids, what they draw on, and their series."""
    every = survey.drawn_on(ids)
    found = {place for id in every if (place := survey.place("result", id)) is not None}
    standing = [survey.results_by_id[id] for id in every & survey.results_by_id.keys()]
    return found | _series(survey, standing)


def _series(survey: Survey, standing: Iterable[Standing]) -> set[Place]:
    names = {name for each in standing for name in each.series}
    return {place for name in names if (place := survey.place("series", name)) is not None}
