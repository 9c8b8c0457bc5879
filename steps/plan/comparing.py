"""Two results beside each other: where their keys part, and through which steps it reached them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tango.step import Step

from pipeline.core.errors import nearest
from pipeline.core.keys import Json
from pipeline.store.code import Code
from pipeline.store.earlier import Cause, Earlier, first_causes
from pipeline.store.finding import NotFound, find_result
from pipeline.store.inventory import is_id
from pipeline.store.results import Results
from steps.base import PipelineStep
from steps.plan.planning import reason_of

EXPERIMENTS = (".jsonnet", ".json", ".yml", ".yaml")
MAX_CAUSES, MAX_PARTS = 40, 10  # that are named


class UnknownResult(ValueError):
    """What was asked about is not there."""


class Comparison:
    """Results of a workspace, and steps of experiments that need not have run.

    Args:
        build: the steps of an experiment file.
    """

    def __init__(self, results: Results, build: Callable[[str], Mapping[str, Step[Any]]]) -> None:
        self.results, self.build = results, build
        self.earlier = Earlier(results)
        self.steps: dict[str, PipelineStep] = {}  # id -> step of the experiments that were named

    def why(self, a: str, b: str | None) -> list[str]:
        """The lines that say why two results are not one.

        Raises:
            UnknownResult: one of them cannot be found, or there is no earlier one.
        """
        new = self.id_of(a)
        old = self.id_of(b) if b is not None else self._nearest(new)
        if b is not None:
            old, new = new, old
        if old == new:
            return [f"{self._named(old)} is one result", *self._other_code(old, new)]
        causes = [self._told(each) for each in first_causes(old, new, self.key)]
        if len(causes) > MAX_CAUSES:
            causes = [*causes[:MAX_CAUSES], f"and {len(causes) - MAX_CAUSES} more"]
        named = [f"old  {self._named(old)}", f"new  {self._named(new)}"]
        return [*named, *causes, *self._other_code(old, new)]

    def id_of(self, text: str) -> str:
        """The id that `experiment.jsonnet:step`, or what `find_result` takes, stands for."""
        place, colon, name = text.rpartition(":")
        if text.endswith(EXPERIMENTS):
            raise UnknownResult(f"{text} names no step; it must be {text}:STEP")
        if colon and place.endswith(EXPERIMENTS):
            built = self.build(place)
            for step in built.values():
                if isinstance(step, PipelineStep):
                    self.steps[step.unique_id] = step
            if name not in built:
                raise UnknownResult(f"{place} has no step {name!r}{nearest(name, built)}")
            return built[name].unique_id
        try:
            return find_result(self.results, text)
        except NotFound as error:
            raise UnknownResult(str(error)) from error

    def key(self, id: str) -> dict[str, Json] | None:
        """The key of a step that was built or of a result that is there."""
        return self.steps[id].key() if id in self.steps else self.earlier.key(id)

    def _nearest(self, id: str) -> str:
        key = self.key(id)
        name = self.steps[id].name if id in self.steps else self.earlier.name(id)
        beside = set(self.steps)
        for _, ids in self.earlier.runs:
            if id in ids.values():
                beside.update(ids.values())
        found = self.earlier.nearest(name or "", id, key, beside) if key is not None else None
        if found is None:
            raise UnknownResult(f"there is no earlier result to compare {self._named(id)} with")
        return found

    def _named(self, id: str) -> str:
        name = self.steps[id].name if id in self.steps else self.earlier.name(id)
        return f"{name} ({id})" if name else id

    def _told(self, cause: Cause) -> str:
        """A change, after the steps that lead to it."""
        way = [self._short(new) for _, new in cause.steps]
        change = cause.change
        if change.path == "step" and is_id(change.old):
            return f"{' <- '.join(way)}: the key of {change.old} or of {change.new} is gone"
        return f"{' <- '.join(way)}: {reason_of(change, {})}"

    def _short(self, id: str) -> str:
        name = self.steps[id].name if id in self.steps else self.earlier.name(id)
        return name or id[: id.index("-")]

    def _code(self, id: str) -> Code | None:
        """The code that made a result; of a step that has none, the code that is here."""
        made = self.earlier.code(id) if id in self.results else None
        return made or (self.steps[id].code if id in self.steps else None)

    def _other_code(self, old: str, new: str) -> Iterator[str]:
        one, two = self._code(old), self._code(new)
        if old == new and new in self.steps:
            two = self.steps[new].code
        parts: list[str] = []
        if one is not None and two is not None:
            parts = one.changes(two) if old == new else one.edited(two)
        if parts:
            more = f" and {len(parts) - MAX_PARTS} more" if len(parts) > MAX_PARTS else ""
            yield f"code: {', '.join(parts[:MAX_PARTS])}{more}"
