"""A result by what a person calls it: a step of a run, or the beginning of its id."""

from __future__ import annotations

from pipeline.core.errors import PipelineError, nearest
from pipeline.store.inventory import is_id
from pipeline.store.results import Results
from pipeline.store.survey import read_runs

MIN_PREFIX = 4  # hexadecimal digits of an id that stand for it
LATEST = "latest"  # a name of the latest run beside its own


class NotFound(PipelineError, KeyError):
    """Nothing in the workspace is called this, or several things are."""

    def __str__(self) -> str:
        return str(self.args[0])


def find_result(results: Results, name: str) -> str:
    """The id that `run:step`, a step of the latest run, or the beginning of an id stands for.

    The result need not be there.

    Raises:
        NotFound: there is none, or an id has several ends.
    """
    runs = read_runs(results)
    latest = next(iter(runs.values()), None)
    if latest is not None and name in latest.steps:
        return latest.steps[name]
    run_name, colon, step = name.rpartition(":")
    if colon:
        found = latest if run_name == LATEST and latest else runs.get(run_name)
        if found is None:
            raise NotFound(f"{run_name!r} is no run{nearest(run_name, runs)}")
        if step not in found.steps:
            raise NotFound(f"run {found.name} has no step {step!r}{nearest(step, found.steps)}")
        return found.steps[step]
    if is_id(name):
        return name
    begun = [id for id in results.standing() if _begins(name, id)]
    if len(begun) == 1:
        return begun[0]
    if begun:
        raise NotFound(f"{name!r} begins {len(begun)} ids: {', '.join(begun[:5])}")
    known = latest.steps if latest else ()
    if with_it := [run.name for run in runs.values() if name in run.steps]:
        raise NotFound(f"the latest run has no step {name!r}; {with_it[0]}:{name} is one")
    raise NotFound(f"{name!r} is no step of the latest run and no id{nearest(name, known)}")


def _begins(name: str, id: str) -> bool:
    """Whether a name is the beginning of an id, or of the digits that end it."""
    if "-" in name:
        return id.startswith(name)
    digits = len(name) >= MIN_PREFIX and set(name) <= set("0123456789abcdef")
    return digits and id.rpartition("-")[2].startswith(name)
