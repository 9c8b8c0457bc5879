"""What a run would do, and why: each step's state, told from the workspace alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tango.common.logging import cli_logger
from tango.step import Step
from tango.workspace import Workspace

from pipeline.core.errors import UNUSABLE
from pipeline.core.keys import MISSING, Change, Json, changes, digest
from pipeline.core.terminal import counted, duration, one_line, size
from pipeline.store.earlier import Cost, Earlier, is_input
from pipeline.store.remote import Remote
from pipeline.store.results import Results
from pipeline.train.ranks.launches import Slurm
from steps.base import PipelineStep
from steps.execution.needs import Needs
from steps.plan.telling import difference
from steps.train import TrainingStep, Updates

State = Literal[
    "cached",  # its result is there
    "code changed",  # its result is there, made by other code
    "linked",  # a result of the same content is there under another id
    "in remote",  # it will be pulled from the cache that machines share
    "maybe linked",  # the same, if what it reads comes out as it did before
    "will run",
    "waits",  # it will run once what it reads is there
    "uncacheable",  # it runs whenever it is asked for
]
STATES: tuple[State, ...] = (
    "cached",
    "code changed",
    "linked",
    "in remote",
    "maybe linked",
    "will run",
    "waits",
    "uncacheable",
)
RUNS = ("maybe linked", "will run", "waits", "uncacheable")
Kind = Literal[
    "parameter",
    "input",
    "outside data",
    "version",
    "code",
    "new",
    "attempt",
    "discarded",
    "damaged",
]


@dataclass(frozen=True)
class Reason:
    """One cause for a step to run: what differs from the nearest earlier result."""

    kind: Kind
    path: str = ""
    old: Json = None
    new: Json = None

    def __str__(self) -> str:
        if self.kind == "new":
            return "there is no earlier result"
        if self.kind == "damaged":
            return f"its result is damaged: {self.old}"
        if self.kind == "discarded":
            return f"its data was discarded, and {self.new} reads it"
        if self.kind == "attempt":
            if self.old:
                return f"its last attempt failed: {one_line(self.old)}"
            was = f"was stopped ({one_line(self.new)}); " if self.new else ""
            return f"{was}goes on where it stopped"
        if self.kind == "input" and self.old is None:
            return f"reads {self.new}, which is made again"
        if self.kind == "input":
            return f"reads {self.new}, which is not the earlier one"
        if self.kind == "code":
            return f"code of {self.path}"
        name = "" if self.kind == "parameter" else f"{self.kind}: "
        return f"{name}{self.path}: {difference(self.old, self.new)}"


@dataclass(frozen=True)
class StepPlan:
    """One step of a plan.

    `nearest` is the earlier result that `reasons` compare with, and whose `cost` is the one that is
    expected; of a result that is there, `cost` is its own. `updates` are those of a training, where
    it is known how many are left.
    """

    name: str
    id: str
    state: State
    reads: list[str] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    nearest: str | None = None
    cost: Cost = Cost()
    needs: dict[str, Any] = field(default_factory=dict)
    updates: Updates | None = None

    @property
    def runs(self) -> bool:
        """Whether it would, or may, compute."""
        return self.state in RUNS

    @property
    def makes_nothing(self) -> bool:
        """Whether all stands that it makes: its result, or every update of what it is a view of."""
        return not self.runs or (self.updates is not None and not self.updates.left)

    @property
    def goes_on(self) -> bool:
        """Whether it will train the rest of a series that stands in part."""
        return self.runs and self.updates is not None and self.updates.left < self.updates.of


def plan_steps(
    steps: Iterable[Step[Any]], results: Results, remote: Remote | None = None
) -> list[StepPlan]:
    """What a run of these steps would do, in an order in which each follows those it reads.

    Args:
        remote: asked for what is missing here, as a run does that has one.
    """
    ordered = _ordered(steps)
    ids = {each.unique_id for each in ordered}
    missing = [id for id in sorted(ids) if remote is not None and id not in results]
    planner = _Planner(results, ids, remote.reachable(missing) if remote else set())
    for each in ordered:
        planner.plan(each)
    planner.refill_discarded()
    return list(planner.plans.values())


def say_plan(steps: Mapping[str, Step[Any]], workspace: Workspace) -> None:
    """Tell the short form of a plan on the terminal, if the workspace is one of ours."""
    results = getattr(workspace, "results", None)
    if not isinstance(results, Results):
        return
    for line in short_plan(steps, results, getattr(workspace, "remote", None)):
        cli_logger.info("[blue]%s[/]", line.replace("[", r"\["))


def short_plan(
    steps: Mapping[str, Step[Any]], results: Results, remote: Remote | None = None
) -> list[str]:
    """A plan in one to three lines, for the start of a run."""
    planned = plan_steps(steps.values(), results, remote)
    lines = [summary(planned)]
    first = next((each for each in planned if each.runs), None)
    if first is not None and first.reasons:
        more = f" (and {len(first.reasons) - 1} more)" if len(first.reasons) > 1 else ""
        left = f"; {first.updates}" if first.goes_on else ""
        lines.append(f"first {first.name}: {first.reasons[0]}{more}{left}")
    other = [each for each in planned if each.state == "code changed"]
    if other:
        names = ", ".join(each.name for each in other[:3]) + (", …" if len(other) > 3 else "")
        lines.append(
            f"code changed and no VERSION did: {names} ({other[0].reasons[0]}); these results are "
            "used, unless OLMO_STRICT=1"
        )
    return lines


def summary(planned: list[StepPlan]) -> str:
    """How many steps are in each state, and what running the others took before."""
    counts = Counter(each.state for each in planned)
    words = {"waits": "wait", "code changed": "cached by other code"}
    told = ", ".join(f"{counts[s]} {words.get(s, s)}" for s in STATES if counts[s])
    known = [each.cost for each in planned if each.runs and each.cost.seconds is not None]
    took = ""
    if known:
        seconds = sum(each.seconds or 0 for each in known)
        num_bytes = sum(each.num_bytes or 0 for each in known)
        took = f"; {len(known)} of them took {duration(seconds)} and {size(num_bytes)} before"
    return f"{counted(len(planned), 'step')}: {told or 'nothing to do'}{took}"


def _ordered(steps: Iterable[Step[Any]]) -> list[Step[Any]]:
    """The steps in their order, but none before what it reads; a part of a graph has no order."""
    done: dict[str, Step[Any]] = {}
    todo = list(reversed(list(steps)))
    while todo:
        step = todo[-1]
        first = sorted((e for e in step.dependencies if e.name not in done), key=lambda e: e.name)
        if first and step.name not in done:
            todo += first
        else:
            done.setdefault(step.name, todo.pop())
    return list(done.values())


class _Planner:
    def __init__(self, results: Results, ids: set[str], in_remote: set[str]) -> None:
        self.results, self.ids, self.in_remote = results, ids, in_remote
        self.earlier = Earlier(results)
        self.plans: dict[str, StepPlan] = {}
        self.standing: dict[str, str] = {}  # step -> id of a result with the content it will have

    def plan(self, step: Step[Any]) -> None:
        reads = sorted({each.name for each in step.dependencies})
        made = StepPlan(step.name, step.unique_id, "uncacheable", reads, needs=_needs(step))
        if isinstance(step, PipelineStep) and step.cache_results:
            made = self._state(step, made)
            if isinstance(step, TrainingStep):
                made = replace(made, updates=self._updates(step, made))
        self.plans[step.name] = made

    def _updates(self, step: TrainingStep, plan: StepPlan) -> Updates | None:
        """What is left of a training; None where what it reads is to be made before."""
        if not plan.runs:
            return Updates(0, step.kwargs["train"].last_step)
        form = self._content_form(step) if plan.state == "will run" else None
        return None if form is None else step.updates(self.results, form)

    def refill_discarded(self) -> None:
        """What was discarded is made again where a step that will run reads it."""
        for plan in reversed(list(self.plans.values())):
            if self.plans[plan.name].state not in ("will run", "waits"):
                continue
            for name in plan.reads:
                read = self.plans.get(name)
                if read is None or read.id not in self.results or read.runs:
                    continue
                if self.results.inventory(read.id).discarded:
                    reasons = [Reason("discarded", "", None, plan.name)]
                    self.plans[name] = replace(read, state="will run", reasons=reasons)

    def _state(self, step: PipelineStep, plan: StepPlan) -> StepPlan:
        again = [name for name in plan.reads if name in self.plans and self.plans[name].runs]
        if plan.id in self.results:
            cost = self.earlier.cost(plan.id)
            different = self._other_code(step, plan.id)
            stale = self.results.is_stale(plan.id, step.code)
            plan = replace(plan, cost=cost, nearest=plan.id, reasons=different)
            if not stale:
                remade = [name for name in again if self._replaces(name)]
                if remade:
                    reasons = [Reason("input", "", None, name) for name in remade]
                    return replace(plan, state="maybe linked", reasons=reasons)
                self.standing[step.name] = plan.id
                return replace(plan, state="code changed" if different else "cached")
            return replace(plan, state="waits" if again else "will run")
        if plan.id in self.in_remote:
            return replace(plan, state="in remote")
        key = step.key()
        if os.path.lexists(self.results.folder(plan.id)):
            fault = self.results.fault(plan.id)
            plan = replace(plan, reasons=[Reason("damaged", "", fault.reason if fault else "")])
        else:
            plan = self._explained(step, plan, key)
        if again:
            return replace(
                plan, state="maybe linked" if self.earlier.like(key, self.ids) else "waits"
            )
        linked = self._same_content(step)
        if linked is None:
            return replace(plan, state="will run")
        self.standing[step.name] = linked
        return replace(plan, state="linked", nearest=linked, cost=self.earlier.cost(linked))

    def _replaces(self, name: str) -> bool:
        """Whether a step that will run takes the place of a result of its own."""
        return self.plans[name].id in self.results

    def _same_content(self, step: PipelineStep) -> str | None:
        """The earlier result that will be linked, as its inputs have the same content."""
        form = self._content_form(step)
        return None if form is None else self.results.find_earlier(digest(form), step.code)

    def _content_form(self, step: PipelineStep) -> dict[str, Json] | None:
        """The content key of a step; None where a result that it reads cannot be had."""
        try:
            return step.content_key({n: self._loaded(v) for n, v in step.kwargs.items()})
        except (KeyError, *UNUSABLE):
            return None

    def _loaded(self, value: Any) -> Any:
        """A value with each step in it replaced by the result that it will have."""
        if isinstance(value, Step):
            return self.results.load(self.standing[value.name])
        if isinstance(value, (list, tuple)):
            return [self._loaded(each) for each in value]
        if isinstance(value, dict):
            return {name: self._loaded(each) for name, each in value.items()}
        return value

    def _other_code(self, step: PipelineStep, id: str) -> list[Reason]:
        """The parts of the code that made a result and that are not the same today."""
        made, now = self.earlier.code(id), step.code
        if made is None or now is None:
            return []
        names = made.changes(now) if id == step.unique_id else made.edited(now)
        return [
            Reason("code", name, made.parts.get(name, MISSING), now.parts.get(name, MISSING))
            for name in names
        ]

    def _explained(self, step: PipelineStep, plan: StepPlan, key: dict[str, Json]) -> StepPlan:
        nearest = self.earlier.nearest(step.name, plan.id, key, self.ids)
        attempt = self.earlier.unfinished(plan.id)
        reasons = []
        if attempt is not None:
            reasons = [Reason("attempt", "", attempt.error or None, attempt.stopped or None)]
        if nearest is None:
            return replace(plan, reasons=[*reasons, Reason("new")])
        names = {each.unique_id: each.name for each in step.dependencies}
        found = changes(self.earlier.key(nearest), key)
        reasons += [reason_of(each, names) for each in found]
        reasons += self._other_code(step, nearest)
        return replace(plan, reasons=reasons, nearest=nearest, cost=self.earlier.cost(nearest))


def reason_of(change: Change, names: Mapping[str, str]) -> Reason:
    """What a place where two keys differ says about a step; `names` are those of what it reads."""
    path = change.path.removeprefix("args.")
    if is_input(change):
        return Reason("input", path.removesuffix(".step"), change.old, names.get(change.new, ""))
    kind: Kind = "parameter"
    last = path.rsplit(".", 1)[-1]
    if last == "fingerprint":
        kind, path = "outside data", path.removesuffix(".fingerprint")
    elif last in ("version", "format") and change.path != "args.version":
        kind, path = "version", path.removesuffix(".version")
    return Reason(kind, path, change.old, change.new)


def _needs(step: Step[Any]) -> dict[str, Any]:
    """What a step asks of a machine; what it leaves open is left out."""
    resources = step.resources
    needs: Needs = getattr(step, "needs", None) or Needs()
    launch = step.kwargs.get("launch")
    asked = {
        "gpus": resources.gpu_count,
        "cpus": resources.cpu_count,
        "memory": resources.memory,
        "machine": resources.machine,
        "disk": needs.disk if needs.disk != "0" else None,
        "credentials": needs.credentials,
        "srun": launch.world_sizes[0] if isinstance(launch, Slurm) else None,
    }
    return {name: each for name, each in asked.items() if each}
