"""Worker processes of one machine that run steps side by side; the runner of our executor.

Each is a session of its own, so that Ctrl-C reaches the executor alone, which passes it on.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from steps.running import as_line
from steps.scheduling import Outcome

ENDING_SECONDS = 2.0  # for an idle worker to end in
GRACE_SECONDS: dict[
    int, float
] = {  # Slurm kills 30 s after SIGTERM, and sends SIGUSR1 120 s before that
    signal.SIGINT: 15.0,
    signal.SIGHUP: 25.0,
    signal.SIGTERM: 25.0,
    signal.SIGUSR1: 100.0,
}


# not by -m: the package imports that module before it would be run
_START = "import sys; from steps.worker import main; sys.exit(main(int(sys.argv[1])))"


class _Worker:
    def __init__(self, setup: bytes) -> None:
        self.connection, theirs = socket.socketpair()
        with theirs:
            theirs.set_inheritable(True)
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(each or "." for each in sys.path)},
                start_new_session=True,
            )
        self.step: str | None = None
        self.started = 0.0
        self._heard = b""
        with suppress(OSError):  # one that could not start is found to be gone when it is heard
            self.connection.sendall(setup)

    def order(self, step: str, log: Path) -> None:
        self.step, self.started = step, time.monotonic()
        with suppress(OSError):
            self.connection.sendall(as_line({"run": step, "log": str(log)}))

    def hear(self) -> tuple[list[dict[str, Any]], bool]:
        """What it said since it was last heard, and whether it is still there."""
        try:
            heard = self.connection.recv(1 << 16)
        except OSError:
            heard = b""
        *lines, self._heard = (self._heard + heard).split(b"\n")
        return [json.loads(line) for line in lines], heard != b""

    def kill(self) -> None:
        """End it and everything that it started."""
        self.connection.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Pool:
    """Up to `size` workers, each started when there is a step for it, and kept warm.

    Args:
        setup: what a worker needs to build the graph; see `steps/worker.py`.
        log: the file that a step's output goes to.
        say: is called with the warnings of steps.
    """

    def __init__(
        self,
        setup: dict[str, Any],
        size: int,
        log: Callable[[str], Path],
        say: Callable[[str], None],
    ) -> None:
        self.size, self.log, self.say = size, log, say
        self._setup = as_line(setup)
        self._workers: list[_Worker] = []
        self._heard = selectors.DefaultSelector()

    def submit(self, name: str) -> None:
        worker = next((each for each in self._workers if each.step is None), None)
        if worker is None:
            worker = _Worker(self._setup)
            self._workers.append(worker)
            self._heard.register(worker.connection, selectors.EVENT_READ, worker)
        worker.order(name, self.log(name))

    def finished(self, timeout: float | None) -> Sequence[tuple[str, Outcome]]:
        ended: list[tuple[str, Outcome]] = []
        deadline = None if timeout is None else time.monotonic() + timeout
        while not ended:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = self._heard.select(left)
            if not ready:
                break
            for key, _ in ready:
                ended += self._hear(key.data)
        return ended

    def _hear(self, worker: _Worker) -> list[tuple[str, Outcome]]:
        messages, alive = worker.hear()
        ended = []
        for message in messages:
            if "said" in message:
                self.say(message["said"])
            else:
                worker.step = None
                ended.append((message["ended"], Outcome.from_json(message["outcome"])))
        if not alive:
            self._forget(worker)
            if worker.step is not None:
                seconds = time.monotonic() - worker.started
                ended.append((worker.step, Outcome("lost", seconds, note=_end_of(worker.process))))
        return ended

    def _forget(self, worker: _Worker) -> None:
        self._heard.unregister(worker.connection)
        self._workers.remove(worker)
        worker.kill()

    def close(self) -> None:
        """End the workers, which have nothing to do."""
        for worker in self._workers:
            with suppress(OSError):
                worker.connection.sendall(as_line({"end": True}))
        self._end(ENDING_SECONDS)

    def stop(self, signum: int) -> None:
        """Have the workers stop, who were told by the signal, and kill those that do not."""
        self._end(GRACE_SECONDS.get(signum, ENDING_SECONDS))

    def _end(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        try:
            for worker in self._workers:
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for worker in list(self._workers):
                self._forget(worker)
            self._heard.close()


def _end_of(process: subprocess.Popen[bytes]) -> str:
    status = process.wait()
    if status < 0:
        name = signal.Signals(-status).name
        more = "; the system does so where memory runs out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{more}"
    return f"its process ended with status {status}"
