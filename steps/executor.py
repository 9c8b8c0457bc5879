"""Our executor: one step after the other; what does not depend on a failed step still runs."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import traceback
from pathlib import Path

from tango.common.logging import cli_logger
from tango.executor import ExecutionMetadata, Executor, ExecutorOutput
from tango.step_graph import StepGraph

from pipeline.core.artifacts import Report
from pipeline.core.errors import PipelineError
from steps.needs import lacking
from steps.planning import say_plan
from steps.wiring import WiringError, made_by

logger = logging.getLogger(__name__)


@Executor.register("olmo")
class SerialExecutor(Executor):
    """Steps in this process, in order; a failure is told in a few lines and in the log."""

    def execute_step_graph(
        self, step_graph: StepGraph, run_name: str | None = None
    ) -> ExecutorOutput:
        self._require_machine(step_graph)
        say_plan(step_graph, self.workspace)
        output = ExecutorOutput()
        pages: list[Report] = []
        for step in step_graph.values():
            stopped = {**output.failed, **output.not_run}
            if any(each.name in stopped for each in step.dependencies):
                output.not_run[step.name] = ExecutionMetadata()
                continue
            try:
                self.execute_step(step)
                place = self.workspace.step_info(step).result_location
                output.successful[step.name] = ExecutionMetadata(result_location=_short(place))
                if made_by(step) is Report:
                    pages.append(self.workspace.step_cache[step])
            except Exception as error:
                output.failed[step.name] = ExecutionMetadata()
                self._tell(step.name, error, run_name)
        for each in pages:
            page = _short(str(each.root / each.page.path))
            cli_logger.info("[green]\N{CHECK MARK} Open in a browser: [bold]%s[/][/]", page)
        return output

    def _require_machine(self, step_graph: StepGraph) -> None:
        """Raises WiringError if a step that would run needs what this machine has not."""
        missing = [each for each in step_graph.values() if each not in self.workspace.step_cache]
        lines = lacking(missing, Path(getattr(self.workspace, "dir", ".")))
        if lines:
            raise WiringError(
                "this machine cannot carry the experiment; nothing was run or fetched\n  "
                + "\n  ".join(lines)
                + "\nRun it where these are, or see all of it at small size: "
                "tango run experiments/tiny.jsonnet"
            )

    def _tell(self, name: str, error: Exception, run_name: str | None) -> None:
        logger.debug("step %s failed", name, exc_info=error)
        lines = []
        if not isinstance(error, (PipelineError, ValueError)):
            frames = traceback.extract_tb(error.__traceback__)
            lines = [f"  {_short(f.filename)}:{f.lineno} {f.line}" for f in frames[-2:]]
        log = getattr(self.workspace, "dir", Path(".")) / "runs" / str(run_name) / "out.log"
        with open(log, "a", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(error)))
        again = " ".join(shlex.quote(each) for each in [Path(sys.argv[0]).name, *sys.argv[1:]])
        cli_logger.error(
            '[red]\N{BALLOT X} Step [bold]"%s"[/] failed:[/] %s: %s',
            name,
            type(error).__name__,
            str(error).replace("[", r"\["),
        )
        for line in lines:
            cli_logger.error("%s", line.replace("[", r"\["))
        cli_logger.error("  log: %s\n  to go on: %s", _short(str(log)), again)


def _short(path: str | None) -> str | None:
    if path is None:
        return None
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
