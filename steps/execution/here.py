"""Steps in the process of the run, one after the other: for a debugger, where it is asked for.

What ends such a step natively ends the run, which is why it is not the rule.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tango.step_graph import StepGraph
from tango.workspace import Workspace

from pipeline.core.stopping import Stopped, stop_requested
from steps.execution.live import Display
from steps.execution.running import log_of, run_step
from steps.execution.scheduling import Outcome


class Here:
    """The runner of one step after the other in this process."""

    def __init__(self, graph: StepGraph, workspace: Workspace, folder: Path, face: Display) -> None:
        self.graph, self.workspace, self.folder, self.face = graph, workspace, folder, face
        self._next = ""

    def submit(self, name: str) -> None:
        self._next = name

    def finished(self, timeout: float | None) -> list[tuple[str, Outcome]]:
        name = self._next
        log = log_of(self.folder, name)
        with debugger_on_terminal():
            outcome = run_step(self.graph[name], self.workspace, log, self._warn)
        if signum := stop_requested():  # heeded by work that was at its end
            raise Stopped(signum)
        return [(name, outcome)]

    def _warn(self, line: str) -> None:
        self.face.warn(f"{self._next}: {line}")


@contextmanager
def debugger_on_terminal() -> Iterator[None]:
    """Within, `breakpoint()` talks to the terminal, though standard output is led into a log."""
    before = sys.breakpointhook
    if "PYTHONBREAKPOINT" not in os.environ and before is sys.__breakpointhook__:
        sys.breakpointhook = _break
    try:
        yield
    finally:
        sys.breakpointhook = before


def _break(*_: Any, **__: Any) -> None:
    import pdb

    try:
        heard, said = open("/dev/tty"), open("/dev/tty", "w")  # as long as the debugger is used
    except OSError:
        raise RuntimeError("breakpoint() was called, and there is no terminal for it") from None
    pdb.Pdb(stdin=heard, stdout=said).set_trace(sys._getframe(1))
