"""Steps as tasks of a Ray cluster; results go through the workspace, which every node sees.

What travels is JSON: the configuration of a step and of those that it reads, and their ids. A node
builds the step anew and works on it only if its id comes out as here, so that another Python or
other code there is found before it has made anything.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from tango.executor import Executor
from tango.step import Step
from tango.step_graph import StepGraph
from tango.workspace import Workspace

from pipeline.core.errors import MismatchedInputs, PipelineError, Unavailable
from pipeline.core.ray_engine import connect, require_address
from pipeline.core.stopping import Stopped, stop_requested, stopping_signals
from steps.execution.executor import LocalExecutor
from steps.execution.live import Display
from steps.execution.logs import num_bytes_in
from steps.execution.needs import Needs, demand_of, lacking
from steps.execution.pool import ENDING_SECONDS, GRACE_SECONDS
from steps.execution.running import log_of, lost, progress_of, run_step, told
from steps.execution.scheduling import Demand, Failure, Outcome, Scheduler
from steps.execution.worker import prepare
from steps.graph.wiring import WiringError, build_steps
from steps.workspace import ResultWorkspace, require_writable

SIGHT_SECONDS = 60.0  # for a network file system to show what another node wrote
POLL_SECONDS = 1.0  # a signal is heard between two looks at the cluster


@Executor.register("ray")
class RayExecutor(LocalExecutor):
    """Independent steps on a Ray cluster, each on a node that has what its `step_resources` say.

    The working directory and the workspace must be on a file system that every node shares. A step
    without `cpu_count` takes one processor; one without `gpu_count` gets no GPU.

    Args:
        address: `host:port` of the cluster. Without it: RAY_ADDRESS, or the cluster that runs on
            this machine, or one that is started here.
        workers: steps that run at once; without it as many as the cluster has room for.
        retries: how often a step is started again after its worker or node died.
        autoscales: the cluster may grow, so that a step larger than every node waits for one.
    """

    def __init__(
        self,
        workspace: Workspace,
        include_package: Sequence[str] | None = None,
        parallelism: int | None = None,
        address: str | None = None,
        workers: int | None = None,
        retries: int = 3,
        autoscales: bool = False,
    ) -> None:
        super().__init__(workspace, include_package, parallelism, 1 if workers is None else workers)
        self.slots = parallelism or workers
        self.address, self.retries, self.autoscales = address, retries, autoscales
        if retries < 0:
            raise WiringError(f"the executor's retries are {retries}; it must be at least 0")
        try:
            require_address(address)
        except ValueError as error:
            raise WiringError(f"the executor's {error}") from error

    def _require_machine(self, steps: Iterable[Step[Any]]) -> None:
        """Raises WiringError if a step that would run fits no node, or there is no cluster."""
        missing = self._missing(steps)
        if not missing:
            return
        require_writable(self._folder)
        try:
            ray = connect(self.address)
        except PipelineError as error:
            raise WiringError(str(error)) from error
        lines = lacking(missing, self._folder, elsewhere=True)
        nodes = [each["Resources"] for each in ray.nodes() if each["Alive"]]
        if not self.autoscales:
            lines += [line for step in missing if (line := _fault(step, nodes))]
        if lines:
            raise WiringError(
                "the cluster cannot carry the experiment; nothing was run\n  " + "\n  ".join(lines)
            )

    def _run(
        self,
        graph: StepGraph,
        reads: dict[str, list[str]],
        known: dict[str, Outcome],
        folder: Path,
        display: Display,
    ) -> dict[str, Outcome]:
        assert isinstance(self.workspace, ResultWorkspace)
        config = graph.to_config()
        common = {
            "folder": os.getcwd(),
            "run": str(folder),
            "workspace": self.workspace.as_config(),
            "packages": list(self.include_package or []),
            "level": logging.getLogger().getEffectiveLevel(),
            "made_by": _here(),
        }

        def order(name: str) -> dict[str, Any]:
            step = graph[name]
            above = sorted(each.name for each in step.recursive_dependencies)
            return {
                **common,
                "name": name,
                "id": step.unique_id,
                "steps": {each: config[each] for each in [*above, name]},
                "ids": {each: graph[each].unique_id for each in above},
                "reads": [graph[each].unique_id for each in reads[name]],
                "log": str(log_of(folder, name)),
                "credentials": (getattr(step, "needs", None) or Needs()).credentials,
            }

        tasks = _Tasks(connect(self.address), order, lambda name: _options(graph[name]), display)
        try:
            return Scheduler(
                reads,
                tasks,
                known=known,
                slots=self.slots or len(reads),
                retries=self.retries,
                watcher=display,
            ).run()
        except BaseException as error:
            signum = stop_requested()
            tasks.stop(GRACE_SECONDS[signal.Signals(signum)] if signum else ENDING_SECONDS)
            if signum and isinstance(error, KeyboardInterrupt):
                raise Stopped(signum) from None  # Ray hides which signal it was
            raise


class _Tasks:
    """The runner: a task of the cluster for each attempt at a step."""

    def __init__(
        self,
        ray: Any,
        order: Callable[[str], dict[str, Any]],
        options: Callable[[str], dict[str, Any]],
        display: Display,
    ) -> None:
        self.ray, self.order, self.options, self.display = ray, order, options, display
        # Attempts are the scheduler's: it tells of them, and counts those that were lost. A worker
        # is kept for more steps, as the local ones are (a new one takes seconds to import what it
        # needs), but for one that held a GPU, whose memory only its end gives back.
        self._kept = ray.remote(max_retries=0)(run_ordered)
        self._once = ray.remote(max_retries=0, max_calls=1)(run_ordered)
        self._running: dict[Any, tuple[str, float, Path, int]] = {}  # name, start, log, its size

    def submit(self, name: str) -> None:
        order = self.order(name)
        log = Path(order["log"])
        _tell(progress_of(log), "waits for a node of the cluster")
        options = self.options(name)
        task = self._once if options.get("num_gpus") else self._kept
        reference = task.options(name=name, **options).remote(json.dumps(order))
        self._running[reference] = name, time.monotonic(), log, num_bytes_in(log)

    def finished(self, timeout: float | None) -> Sequence[tuple[str, Outcome]]:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = POLL_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
            done, _ = self.ray.wait(list(self._running), timeout=min(POLL_SECONDS, left))
            if done or left == 0.0:
                return [self._end(each) for each in done]

    def stop(self, seconds: float) -> None:
        """Have the steps stop as Ctrl-C would, and kill those that have not after some seconds."""
        with suppress(self.ray.exceptions.RayError):
            for each in self._running:
                self.ray.cancel(each, force=False)
            references = list(self._running)
            _, left = self.ray.wait(references, num_returns=len(references), timeout=seconds)
            for each in left:
                self.ray.cancel(each, force=True)

    def _end(self, reference: Any) -> tuple[str, Outcome]:
        name, started, log, start = self._running.pop(reference)
        progress_of(log).unlink(missing_ok=True)
        seconds = time.monotonic() - started
        errors = self.ray.exceptions
        try:
            answer = json.loads(self.ray.get(reference))
        except errors.RayTaskError as error:  # the node could not even begin
            reason = str(error).strip().splitlines()[-1]
            message = f"a node of the cluster cannot run steps: {reason}"
            return name, Outcome("failed", seconds, Failure("Unavailable", message))
        except errors.RayError as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
            return name, lost(f"{type(error).__name__}: {reason}", seconds, log, start)
        for line in answer["said"]:
            self.display.warn(f"{name}: {line}")
        return name, Outcome.from_json(answer["outcome"])


def run_ordered(text: str) -> str:
    """What a node does: build the step of an order, run it, and say how it ended; JSON both ways.

    An order names everything by value, so nothing of ours is ever unpickled.
    """
    order = json.loads(text)
    log = Path(order["log"])
    said: list[str] = []
    try:
        with stopping_signals():
            step, workspace = _prepared(order)
            _tell(progress_of(log), f"on {socket.gethostname()}")
            outcome = run_step(step, workspace, log, said.append)
    except Exception as error:  # none of the step's, which `run_step` puts into words
        outcome = Outcome("failed", failure=told(error, [], log))
    return json.dumps({"outcome": outcome.to_json(), "said": said[:20]})


def _prepared(order: dict[str, Any]) -> tuple[Step[Any], ResultWorkspace]:
    """The step and the workspace of an order, on a node that sees what the driver sees.

    Raises:
        Unavailable: the node does not see the shared folders, or lacks a credential.
        MismatchedInputs: the step has another id here.
    """
    for each in (order["folder"], order["run"]):
        if not _appears(Path(each), Path(each).parent):
            raise Unavailable(
                f"{each} is not there on {socket.gethostname()}; the working directory and the "
                "workspace must be on a file system that every node shares"
            )
    os.chdir(order["folder"])
    for each in order["credentials"]:
        if not os.environ.get(each):
            raise Unavailable(f"{each} must be set on {socket.gethostname()}")
    prepare(order["packages"], order["level"])
    graph = build_steps(order["steps"])
    for name, id in order["ids"].items():  # each was held against its own id before it ran
        graph[name].unique_id_cache = id
    step = graph[order["name"]]
    if step.unique_id != order["id"]:
        raise MismatchedInputs(
            f"{order['id']} ({order['made_by']})",
            f"{step.unique_id} ({_here()})",
            "the step has another id on the node; Python, packages and code must be the same",
        )
    workspace = Workspace.from_params(order["workspace"])
    assert isinstance(workspace, ResultWorkspace)
    for id in order["reads"]:
        if not _appears(workspace.results.folder(id), workspace.dir):
            raise Unavailable(f"the result {id} is not seen on {socket.gethostname()}")
    return step, workspace


def _appears(folder: Path, shared: Path) -> bool:
    """Whether a folder is there, when a file system that has `shared` had time to show it."""
    deadline = time.monotonic() + SIGHT_SECONDS
    while not folder.is_dir():
        with suppress(OSError):
            os.listdir(folder.parent)  # has a network file system look again
        if not shared.is_dir() or time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _options(step: Step[Any]) -> dict[str, Any]:
    """The resources of a step, in Ray's words."""
    demand = demand_of(step)
    options: dict[str, Any] = {"num_cpus": demand.cpus or 1.0}
    if demand.gpus:
        options["num_gpus"] = demand.gpus
    if demand.memory:
        options["memory"] = int(demand.memory)
    if step.resources.gpu_type:
        options["accelerator_type"] = step.resources.gpu_type
    return options


def _fault(step: Step[Any], nodes: Sequence[dict[str, float]]) -> str | None:
    """Why no node can run the step; None where one can."""
    demand, kind = demand_of(step), step.resources.gpu_type
    sizes = [
        Demand(each.get("CPU", 0.0), each.get("memory", 0.0), each.get("GPU", 0.0))
        for each in nodes
        if kind is None or f"accelerator_type:{kind}" in each
    ]
    wanted = Demand(demand.cpus or 1.0, demand.memory, demand.gpus)
    if any(wanted.within(each) for each in sizes):
        return None
    of_kind = "" if kind is None else f" with {kind}"
    has = "; ".join(sorted({str(each) for each in sizes})) or "none"
    return f"{step.name} takes {wanted}; the nodes{of_kind} have {has}"


def _here() -> str:
    """This host, its Python and our version."""
    version = metadata.version("olmo-tango")
    return f"{socket.gethostname()}, Python {platform.python_version()}, olmo-tango {version}"


def _tell(state: Path, line: str) -> None:
    """Say where a step is, for whoever watches it."""
    with suppress(OSError):
        state.parent.mkdir(parents=True, exist_ok=True)
        state.write_text(line, encoding="utf-8")
