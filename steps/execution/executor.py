"""Our executor: independent steps side by side, and what a failure leaves standing still runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tango.executor import ExecutionMetadata, Executor, ExecutorOutput
from tango.step import Step
from tango.step_graph import StepGraph
from tango.workspace import Workspace

from pipeline.core.artifacts import Report
from pipeline.core.stopping import (
    INTERRUPTED,
    Stopped,
    kill_children,
    stop_requested,
    stopping_signals,
)
from pipeline.core.terminal import counted, duration
from pipeline.store.cleaning import clear_after_kills
from pipeline.store.leases import run_lease
from pipeline.store.remote import Remote
from pipeline.store.results import Results
from steps.execution.here import Here
from steps.execution.live import Display, say
from steps.execution.needs import demand_of, lacking, machine
from steps.execution.pool import Pool
from steps.execution.running import command_line, in_process, log_of, shown
from steps.execution.scheduling import Demand, Outcome, Runner, Scheduler
from steps.execution.worker import free_of_garbage
from steps.graph.wiring import WiringError, made_by
from steps.plan.planning import StepPlan, plan_steps, say_plan
from steps.workspace import ResultWorkspace, link_name, require_writable

ENDING_SECONDS = 10.0  # for children of a stopped step to end in


@Executor.register("olmo")
class LocalExecutor(Executor):
    """Steps of one machine in worker processes, so that no end of a step is the end of the run.

    With OLMO_IN_PROCESS=1 in the environment they run in this process, one after the other, for a
    debugger; so do those of classes that a notebook or script defines itself.

    Args:
        workers: steps that run at once; `-j` on the command line counts more.
    """

    def __init__(
        self,
        workspace: Workspace,
        include_package: Sequence[str] | None = None,
        parallelism: int | None = None,
        workers: int = 1,
    ) -> None:
        super().__init__(workspace, include_package, parallelism)
        self.workers = workers if parallelism is None else parallelism
        if self.workers < 1:
            raise WiringError(f"the executor's workers are {self.workers}; at least 1 is needed")
        if not isinstance(workspace, ResultWorkspace):
            raise WiringError(
                f"the workspace is a {type(workspace).__name__}; results need a folder: -w PATH"
            )
        workspace.preflight = self._preflight  # before it notes a run
        self._passed = False

    def execute_step_graph(
        self, step_graph: StepGraph, run_name: str | None = None
    ) -> ExecutorOutput:
        workspace = self.workspace
        assert isinstance(workspace, ResultWorkspace)
        if run_name is None:
            run_name = workspace.register_run(step_graph.values()).name
        elif not self._passed:  # the run was noted before there was an executor
            self._preflight(step_graph.values())
        free_of_garbage()
        say_plan(step_graph, workspace)
        clear_after_kills(workspace.results)
        folder = workspace.run_dir(run_name)
        reads = _reads(step_graph)
        there = _there(step_graph, reads, workspace)
        known = {name: Outcome("cached") for name in there}
        display = Display(
            len(reads) - len(known),
            len(known),
            lambda name: log_of(folder, name),
            alone=not in_process(),
        )
        try:
            with stopping_signals(), _alive(workspace, run_name), display:
                outcomes = known
                if len(known) < len(reads):
                    outcomes = self._run(step_graph, reads, known, folder, display)
        except KeyboardInterrupt as stop:
            say(f"\N{BALLOT X} {stop or 'stopped'}; what is finished is kept", "yellow")
            say(f"  to go on: {command_line()}")
            raise SystemExit(stop.status if isinstance(stop, Stopped) else INTERRUPTED) from None
        output = RunOutput(folder, display.began)
        for name, outcome in outcomes.items():
            output.add(name, step_graph[name], outcome, workspace.results)
        return output

    def _run(
        self,
        graph: StepGraph,
        reads: dict[str, list[str]],
        known: dict[str, Outcome],
        folder: Path,
        display: Display,
    ) -> dict[str, Outcome]:
        slots = min(self.workers, len(reads) - len(known))
        here = in_process() or any(type(step).__module__ == "__main__" for step in graph.values())
        demands = {name: demand_of(graph[name]) for name in reads}
        capacity = machine(any(each.gpus for each in demands.values()))
        if not all(each.within(capacity) for each in demands.values()):
            planned = self._planned(graph.values())
            demands |= {each.name: Demand() for each in planned if each.makes_nothing}
        scheduled: dict[str, Any] = {
            "known": known,
            "slots": 1 if here else slots,
            "demands": demands,
            "capacity": capacity,
            "watcher": display,
        }
        if here:
            runner: Runner = Here(graph, self.workspace, folder, display)
            try:
                return Scheduler(reads, runner, **scheduled).run()
            except KeyboardInterrupt:
                kill_children(ENDING_SECONDS)
                raise
        pool = Pool(
            self._setup(graph),
            slots,
            log=lambda name: log_of(folder, name),
            say=display.warn,
        )
        try:
            outcomes = Scheduler(reads, pool, **scheduled).run()
        except BaseException:
            pool.stop(stop_requested() or 0)
            raise
        pool.close()
        return outcomes

    def _setup(self, graph: StepGraph) -> dict[str, Any]:
        """What a worker needs to build the same graph: values only."""
        assert isinstance(self.workspace, ResultWorkspace)
        packages = list(self.include_package or [])
        modules = sorted({type(step).__module__ for step in graph.values()})
        packages += [name for name in modules if name.split(".")[0] not in ("steps", *packages)]
        return {
            "steps": graph.to_config(),
            "ids": {name: step.unique_id for name, step in graph.items()},
            "packages": packages,
            "workspace": self.workspace.as_config(),
            "level": logging.getLogger().getEffectiveLevel(),
        }

    @property
    def _folder(self) -> Path:
        return Path(getattr(self.workspace, "dir", "."))

    def _missing(self, steps: Iterable[Step[Any]]) -> list[Step[Any]]:
        """The steps whose results stand neither in the workspace nor in its remote."""
        missing = [each for each in steps if each not in self.workspace.step_cache]
        remote: Remote | None = getattr(self.workspace, "remote", None)
        if remote is None:
            return missing
        there = remote.reachable(each.unique_id for each in missing)
        return [each for each in missing if each.unique_id not in there]

    def _planned(self, steps: Iterable[Step[Any]]) -> list[StepPlan]:
        assert isinstance(self.workspace, ResultWorkspace)
        return plan_steps(steps, self.workspace.results)

    def _preflight(self, steps: Iterable[Step[Any]]) -> None:
        self._require_machine(steps)
        self._passed = True

    def _require_machine(self, steps: Iterable[Step[Any]]) -> None:
        """Raises WiringError if a step that would run needs what this machine has not."""
        steps = list(steps)
        missing = self._missing(steps)
        lines = lacking(missing, self._folder)
        if lines:  # a training that only shows what stands needs nothing
            planned = {each.name: each for each in self._planned(steps)}
            missing = [each for each in missing if not planned[each.name].makes_nothing]
            perhaps = [name for name, each in planned.items() if each.state == "maybe linked"]
            lines = lacking(missing, self._folder, perhaps=perhaps)
        if missing and not lines:
            require_writable(self._folder)
        if lines:
            raise WiringError(
                "this machine cannot carry the experiment; nothing was run or fetched\n  "
                + "\n  ".join(lines)
                + "\nRun it where these are, or see all of it at small size: "
                "tango run experiments/tiny.jsonnet"
            )


@contextmanager
def _alive(workspace: ResultWorkspace, run_name: str) -> Iterator[None]:
    """Hold the lease of a run, so that nobody removes it, or what it reads, between two steps."""
    with ExitStack() as stack:
        with suppress(OSError):  # on a disk that cannot be written nobody can remove anything
            stack.enter_context(workspace.results.lease(run_lease(run_name)))
        yield


class RunOutput(ExecutorOutput):
    """The end of a run in a few lines, where Tango has a table of every step."""

    def __init__(self, folder: Path, began: float) -> None:
        super().__init__()
        self._folder, self._began = folder, began
        self._counts: dict[str, int] = {}
        self._pages: list[Path] = []

    def add(self, name: str, step: Step[Any], outcome: Outcome, results: Results) -> None:
        """What became of a step."""
        self._counts[outcome.state] = self._counts.get(outcome.state, 0) + 1
        if not outcome.there:
            log = outcome.failure.log if outcome.failure else None
            ended = self.not_run if outcome.state == "not run" else self.failed
            ended[name] = ExecutionMetadata(logs_location=log)
            return
        place = results.folder(step.unique_id) if step.cache_results else None
        self.successful[name] = ExecutionMetadata(result_location=shown(place))
        if made_by(step) is Report:
            made = results.load(step.unique_id)
            assert isinstance(made, Report)
            linked = self._folder / link_name(name) / made.page.path
            noted = linked.exists()  # not on a disk that takes no notes of a run
            place = linked if noted else results.folder(step.unique_id) / made.page.path
            self._pages.append(place)

    def display(self) -> None:
        """How many steps came out how, and where the results are."""
        words = {"ran": "run", "not run": "not run"}
        counts = [f"{count} {words.get(state, state)}" for state, count in self._counts.items()]
        spent = duration(time.monotonic() - self._began)
        num_steps = sum(self._counts.values())
        mark, style = ("\N{BALLOT X}", "red") if self.failed else ("\N{CHECK MARK}", "green")
        said = f": {', '.join(counts)}" if counts else ""
        say(f"{mark} {counted(num_steps, 'step')} in {spent}{said}", style)
        place = self._folder if self._folder.is_dir() else self._folder.parents[1]
        say(f"  results: {shown(place)}")
        for page in self._pages:
            say(f"  open in a browser: {shown(page)}", "bold")


def _there(graph: StepGraph, reads: dict[str, list[str]], workspace: ResultWorkspace) -> list[str]:
    """Steps whose results are there and stay: none that was made of one that is made again."""
    there = {name for name in reads if graph[name] in workspace.step_cache}
    held = [name for name in reads if graph[name].unique_id in workspace.results]
    replaced = set(held) - there  # what other code made, in a strict workspace
    while more := {n for n in held if n not in replaced and replaced & set(reads[n])}:
        replaced |= more
    return [name for name in reads if name in there - replaced]


def _reads(graph: StepGraph) -> dict[str, list[str]]:
    """What each step reads; a step that is not cached is made by those that read it, not apart."""
    apart = {step.name for step in graph.uncacheable_leaf_steps()}

    def through(step: Step[Any]) -> Iterator[str]:
        for each in step.dependencies:
            if each.cache_results:
                yield each.name
            else:
                yield from through(each)

    return {
        name: sorted(set(through(step)))
        for name, step in graph.items()
        if step.cache_results or name in apart
    }
