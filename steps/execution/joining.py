"""Adding this process to trainings that another process leads.

One process runs the graph, holds the leases and commits. Where a training spans machines, each of
the others builds the same graph, waits until that training is under way, works as ranks of it, and
goes on to the next when its result stands in the workspace that they share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tango.common.logging import cli_logger
from tango.step import Step

from pipeline.core.errors import PipelineError
from pipeline.core.stopping import stop_requested, stopping_signals
from pipeline.store.results import Results
from pipeline.train.ranks.launches import Joining, Launch, Slurm, SlurmTask
from steps.base import PipelineStep

LOOK_SECONDS = 1.0


def spanning(steps: Iterable[Step[Any]]) -> list[PipelineStep]:
    """The trainings that ranks of several processes make, in their order."""
    return [
        step
        for step in steps
        if isinstance(step, PipelineStep) and step.SERIES and step.kwargs["launch"].SPANS
    ]


def is_task_beside(steps: Iterable[Step[Any]]) -> bool:
    """Whether srun started this process beside the one that runs the graph, to be a rank.

    Raises:
        ValueError: its variables are not those of a task of the launch.
    """
    launches = [each.kwargs["launch"] for each in spanning(steps)]
    tasks = [each for each in launches if isinstance(each, Slurm)]
    if not tasks or os.environ.get("SLURM_PROCID", "0") == "0":
        return False
    return all(SlurmTask.read(each).rank > 0 for each in tasks)


def join_trainings(steps: Iterable[Step[Any]], workspace: Any) -> None:
    """Work as ranks of each training that spans machines, until all their results stand.

    Raises:
        PipelineError: a rank failed, here or elsewhere.
        Stopped: this process was asked to stop.
    """
    with stopping_signals():
        for step in spanning(steps):
            _join(step, workspace)


def _join(step: PipelineStep, workspace: Any) -> None:
    results: Results = workspace.results
    launch: Launch = step.kwargs["launch"]
    joined, told = None, False
    while step.unique_id not in results:
        under_way = _under_way(step, workspace)
        if under_way is None or under_way[1] == joined:
            if not told:
                cli_logger.info('[blue]Waiting for the training of step "%s"[/]', step.name)
                told = True
            time.sleep(LOOK_SECONDS)
            continue
        args, joined = under_way
        cli_logger.info('[blue]Ranks for step "%s"[/]', step.name)
        with TemporaryDirectory(prefix="olmo-tango-joined-") as folder:
            step.out = Path(folder)
            step.series = results.series(step.series_name(results, args))
            same = {name: getattr(launch, name) for name in ("threads", "timeout_seconds")}
            try:
                step.run(**args | {"launch": Joining(**same, of=launch)})
            except PipelineError as error:
                if _attempt(step, results, args) in (joined, None):
                    raise
                cli_logger.warning("%s", error)  # another run has begun, and may be joined
        told = stop_requested() is not None


def _under_way(step: PipelineStep, workspace: Any) -> tuple[dict[str, Any], str] | None:
    """What the step reads, and which attempt at its training ranks may join now, if one."""
    results: Results = workspace.results
    if not all(each in workspace.step_cache for each in step.dependencies):
        return None
    args = step._replace_steps_with_results(step.kwargs, workspace)
    name, attempt = step.series_name(results, args), _attempt(step, results, args)
    if attempt is None or results.lease(f"series-{name}").holder() is None:
        return None  # it has not begun, or was killed
    return args, attempt


def _attempt(step: PipelineStep, results: Results, args: dict[str, Any]) -> str | None:
    """The attempt at the step's training that is open, if one is."""
    from pipeline.train.ranks.meeting import open_attempt

    return open_attempt(results.series(step.series_name(results, args)))
