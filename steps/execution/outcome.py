"""Run a graph in a workspace of its own and say, step by step, how it went."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tango.common.logging import initialize_logging, teardown_logging
from tango.executor import Executor
from tango.step_graph import StepGraph

from pipeline.core.terminal import counted, visible
from pipeline.store.results import FAILURE, RECORD, Results
from steps.graph.wiring import build_steps
from steps.workspace import ResultWorkspace

EXECUTOR = "olmo"


class Outcome(NamedTuple):
    """How one step went: ok, linked, cached, failed or not run; and how long its work took."""

    step: str
    state: str
    seconds: float | None


def execute(steps: Mapping[str, Any], folder: Path) -> list[Outcome]:
    """Run every step of an experiment in the workspace at `folder`; what fails stops what reads it.

    Raises:
        WiringError: the experiment has a fault, or needs what this machine has not.
    """
    graph = StepGraph(build_steps(steps))
    workspace = ResultWorkspace(str(folder))
    before = {name for name, step in graph.items() if step.unique_id in workspace.results}
    executor = Executor.by_name(EXECUTOR)(workspace, include_package=["steps"])
    initialize_logging(log_level="warning", enable_cli_logs=True)
    try:
        run = workspace.register_run(graph.values())
        with workspace.capture_logs_for_run(run.name):
            output = executor.execute_step_graph(graph, run_name=run.name)
    finally:
        teardown_logging()
    found = []
    for name, step in graph.items():
        state = "failed" if name in output.failed else "not run"
        if name in output.successful:
            state = "cached" if name in before else "ok"
        found.append(_outcome(name, state, workspace.results, step.unique_id))
    return found


def _outcome(name: str, state: str, results: Results, id: str) -> Outcome:
    try:
        place = results.work(id) / FAILURE if state == "failed" else results.folder(id) / RECORD
        record = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {}
    if state == "ok" and "linked_from" in record:
        state = "linked"
    seconds = record.get("seconds")
    return Outcome(name, state, seconds if state in ("ok", "failed") else None)


def outcome_table(outcomes: Sequence[Outcome]) -> str:
    """A line a step: its name, the seconds of its work, and how it went."""
    width = max([4, *(len(visible(each.step)) for each in outcomes)])
    lines = [f"{'step':{width}}  {'seconds':>8}  state"]
    for each in outcomes:
        seconds = "" if each.seconds is None else f"{each.seconds:.1f}"
        lines.append(f"{visible(each.step):{width}}  {seconds:>8}  {each.state}")
    total = sum(each.seconds or 0 for each in outcomes)
    counts: dict[str, int] = {}
    for each in outcomes:
        counts[each.state] = counts.get(each.state, 0) + 1
    said = ", ".join(f"{count} {state}" for state, count in counts.items())
    return "\n".join([*lines, f"{counted(len(outcomes), 'step')}, {total:.1f} s of work: {said}"])
