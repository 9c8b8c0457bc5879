"""A process that runs steps for an executor, which gives the number of a socket.

It reads lines of JSON from a socket. The first one describes the graph, which it builds for itself;
after it `{"run": name, "log": path}` runs a step. It answers with `{"said": line}` for warnings and
`{"ended": name, "outcome": ...}`, with `"last": true` where it is not to be used again; and
`{"stopping": true}`, at any time, with `{"heeds": ...}`: whether its step stops by itself. Results
go through the workspace, and nothing is ever pickled.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import os
import queue
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from tango.common.logging import cli_logger
from tango.common.util import import_extra_module
from tango.step import Step
from tango.workspace import Workspace

from pipeline.core.stopping import (
    Stopped,
    is_heeding,
    kill_children,
    stop_requested,
    stopping_signals,
)
from steps.execution.running import NO_TERMINAL, as_line, run_step, told
from steps.execution.scheduling import Outcome
from steps.graph.wiring import build_steps

ENDING_SECONDS = 5.0  # for children of a step to end in


class _Line:
    """The socket, for answers of two threads."""

    def __init__(self, number: int) -> None:
        self.socket = socket.socket(fileno=number)
        self.socket.set_inheritable(False)  # what a step starts may outlive us, and would hold it
        self._whole = threading.Lock()

    def answer(self, **message: Any) -> None:
        with self._whole:
            self.socket.sendall(as_line(message))


def main(number: int) -> int:
    """Run steps until the socket closes or a signal comes; the exit status says which."""
    line = _Line(number)
    orders: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(line, orders), daemon=True).start()
    faulthandler.enable(all_threads=False)  # a crash in native code leaves its place in the log
    if "PYTHONBREAKPOINT" not in os.environ:
        sys.breakpointhook = _refuse_breakpoint
    with stopping_signals():
        try:
            _work(line, orders)
        except Stopped as stop:
            kill_children(ENDING_SECONDS)
            return stop.status
    return 0


def _work(line: _Line, orders: queue.Queue[dict[str, Any]]) -> None:
    setup = orders.get()
    fault: Exception | None = None
    graph: Mapping[str, Step[Any]] = {}
    try:
        graph, workspace = _built(setup)
    except Exception as error:  # told of each step that was to run here
        fault = error
    free_of_garbage()
    while "run" in (order := orders.get()):
        name, log = order["run"], Path(order["log"])

        def say(said: str, name: str = name) -> None:
            line.answer(said=f"{name}: {said}")

        if fault is None:
            outcome = run_step(graph[name], workspace, log, say)
        else:
            outcome = Outcome("failed", failure=told(fault, [], log))
        last = outcome.state == "failed" and outcome.note != ""
        line.answer(ended=name, outcome=outcome.to_json(), last=last)
        if signum := stop_requested():  # heeded by work that was at its end
            raise Stopped(signum)
        if last:  # what was ended under it may be what it still counts on
            return


def _built(setup: dict[str, Any]) -> tuple[Mapping[str, Step[Any]], Workspace]:
    """The graph and the workspace that an executor described."""
    prepare(setup["packages"], setup["level"])
    graph = build_steps(setup["steps"])
    for name, id in setup["ids"].items():
        graph[name].unique_id_cache = id
    return graph, Workspace.from_params(setup["workspace"])


def free_of_garbage() -> None:
    """Have what was imported not looked through again and again: it is there to the end."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    gc.enable()


def _refuse_breakpoint(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError(f"breakpoint() was called; {NO_TERMINAL}")


def prepare(packages: list[str], level: int) -> None:
    """Have a process that is to run steps know their classes, and log as who starts them does."""
    logging.getLogger().setLevel(level)
    logging.captureWarnings(True)
    cli_logger.disabled = False
    cli_logger.setLevel(logging.DEBUG)
    for package in packages:
        if package != "steps":  # which is imported, without its commands
            import_extra_module(package)


def _listen(line: _Line, orders: queue.Queue[dict[str, Any]]) -> None:
    """Pass on orders; the end of the executor, by a kill too, is ours and that of our children."""
    with suppress(OSError), line.socket.makefile("rb") as lines:
        for each in lines:
            if "stopping" in (order := json.loads(each)):
                line.answer(heeds=is_heeding())
            else:
                orders.put(order)
    kill_children(0.0)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
