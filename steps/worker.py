"""A process that runs steps for an executor, which gives the number of a socket.

It reads lines of JSON from a socket. The first one describes the graph, which it builds for itself;
after it `{"run": name, "log": path}` runs a step. It answers with `{"said": line}` for warnings and
`{"ended": name, "outcome": ...}`. Results go through the workspace, and nothing is ever pickled.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from tango.common.logging import cli_logger
from tango.common.util import import_extra_module
from tango.step import Step
from tango.workspace import Workspace

from pipeline.core.stopping import Stopped, end_children, kill_children, stopping_signals
from steps.running import as_line, run_step
from steps.wiring import build_steps

ENDING_SECONDS = 5.0  # for children of a step to end in


def main(number: int) -> int:
    """Run steps until the socket closes or a signal comes; the exit status says which."""
    connection = socket.socket(fileno=number)
    orders: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(connection, orders), daemon=True).start()
    with stopping_signals():
        try:
            _work(connection, orders)
        except Stopped as stop:
            kill_children(ENDING_SECONDS)
            return stop.status
    return 0


def _work(connection: socket.socket, orders: queue.Queue[dict[str, Any]]) -> None:
    setup = orders.get()
    graph, workspace = _built(setup)
    while "run" in (order := orders.get()):
        name = order["run"]

        def say(line: str, name: str = name) -> None:
            connection.sendall(as_line({"said": f"{name}: {line}"}))

        outcome = run_step(graph[name], workspace, Path(order["log"]), say)
        connection.sendall(as_line({"ended": name, "outcome": outcome.to_json()}))


def _built(setup: dict[str, Any]) -> tuple[dict[str, Step[Any]], Workspace]:
    """The graph and the workspace that an executor described."""
    prepare(setup["packages"], setup["level"])
    graph = build_steps(setup["steps"])
    for name, id in setup["ids"].items():
        graph[name].unique_id_cache = id
    return graph, Workspace.from_params(setup["workspace"])


def prepare(packages: list[str], level: int) -> None:
    """Have a process that is to run steps know their classes, and log as who starts them does."""
    logging.getLogger().setLevel(level)
    logging.captureWarnings(True)
    cli_logger.disabled = False
    cli_logger.setLevel(logging.DEBUG)
    for package in packages:
        if package != "steps":  # which is imported, without its commands
            import_extra_module(package)


def _listen(connection: socket.socket, orders: queue.Queue[dict[str, Any]]) -> None:
    """Pass on orders; the end of the executor, by a kill too, is ours and that of our children."""
    with connection.makefile("rb") as lines:
        for line in lines:
            orders.put(json.loads(line))
    end_children(signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
