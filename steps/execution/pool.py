"""Worker processes of one machine that run steps; the runner of our executor.

Each is a session of its own, so that Ctrl-C reaches the executor alone, which passes it on. What
ends a worker ends neither the run nor any other step.
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
from typing import IO, Any

from pipeline.core.stopping import passes_on_to
from steps.execution.logs import num_bytes_in
from steps.execution.running import as_line, lost
from steps.execution.scheduling import Outcome

ENDING_SECONDS = 2.0  # for an idle worker to end in
POLL_SECONDS = 0.05  # between two looks at workers that are to end
LOOK_SECONDS = 1.0  # until it is looked whether a worker is there that has not been heard
GRACE_SECONDS: dict[
    int, float
] = {  # Slurm kills 30 s after SIGTERM, and sends SIGUSR1 120 s before that
    signal.SIGINT: 15.0,
    signal.SIGHUP: 25.0,
    signal.SIGTERM: 25.0,
    signal.SIGUSR1: 100.0,
}


# Not by -m: the package imports that module before it would be run. What is imported is there to
# the end, so the collector, which would look through it, waits until the worker is ready.
_START = (
    "import gc, sys; gc.disable(); "
    "from steps.execution.worker import main; sys.exit(main(int(sys.argv[1])))"
)


class _Worker:
    """One process; what it prints before its first step goes to the log of that step."""

    def __init__(self, setup: bytes, log: Path) -> None:
        self.connection, theirs = socket.socketpair()
        with theirs, _opened(log) as output:
            theirs.set_inheritable(True)
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(each or "." for each in sys.path)},
                start_new_session=True,
            )
        passes_on_to(self.process.pid)
        self.step: str | None = None
        self.log, self.log_start = Path(), 0
        self.started = 0.0
        self.heeds = False
        self._heard = b""
        with suppress(OSError):  # one that could not start is found to be gone when it is heard
            self.connection.sendall(setup)

    def order(self, step: str, log: Path) -> None:
        self.step, self.started = step, time.monotonic()
        self.log, self.log_start = log, num_bytes_in(log)
        self.send({"run": step, "log": str(log)})

    def send(self, order: dict[str, Any]) -> None:
        with suppress(OSError):
            self.connection.sendall(as_line(order))

    def hear(self) -> tuple[list[dict[str, Any]], bool]:
        """What it said since it was last heard, and whether it is still there."""
        try:
            heard = self.connection.recv(1 << 16)
        except OSError:
            heard = b""
        *lines, self._heard = (self._heard + heard).split(b"\n")
        return [json.loads(line) for line in lines], heard != b""

    def lost(self) -> Outcome:
        """What is known of the step under which it was lost."""
        status, seconds = self.process.wait(), time.monotonic() - self.started
        return lost(_end_of(status), seconds, self.log, self.log_start)

    def kill(self) -> None:
        """End it and everything that it started."""
        self.connection.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Pool:
    """Up to `size` workers, each started when there is a step for it, and kept warm.

    Args:
        setup: what a worker needs to build the graph; see `steps/execution/worker.py`.
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
            worker = _Worker(self._setup, self.log(name))
            self._workers.append(worker)
            self._heard.register(worker.connection, selectors.EVENT_READ, worker)
        worker.order(name, self.log(name))

    def finished(self, timeout: float | None) -> Sequence[tuple[str, Outcome]]:
        ended: list[tuple[str, Outcome]] = []
        deadline = None if timeout is None else time.monotonic() + timeout
        while not ended:
            left = LOOK_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
            ready = self._heard.select(min(LOOK_SECONDS, left))
            for key, _ in ready:
                ended += self._hear(key.data)
            if ready:
                continue
            # what a step left running may hold the socket of a worker that is gone
            for worker in [each for each in self._workers if each.process.poll() is not None]:
                ended += self._part_with(worker)
            if deadline is not None and time.monotonic() >= deadline:
                break
        return ended

    def _hear(self, worker: _Worker) -> list[tuple[str, Outcome]]:
        messages, alive = worker.hear()
        ended = []
        for message in messages:
            if "said" in message:
                self.say(message["said"])
            elif "heeds" in message:
                worker.heeds = message["heeds"]
            else:
                worker.step = None
                ended.append((message["ended"], Outcome.from_json(message["outcome"])))
                alive = alive and not message["last"]
        return ended if alive else ended + self._part_with(worker)

    def _part_with(self, worker: _Worker) -> list[tuple[str, Outcome]]:
        """Forget a worker; gives how the step ended that it had in hand, if it had one."""
        self._forget(worker)
        return [] if worker.step is None else [(worker.step, worker.lost())]

    def _forget(self, worker: _Worker) -> None:
        self._heard.unregister(worker.connection)
        self._workers.remove(worker)
        worker.kill()

    def close(self) -> None:
        """End the workers, which have nothing to do."""
        for worker in self._workers:
            worker.send({"end": True})
        self._end(ENDING_SECONDS)

    def stop(self, signum: int) -> None:
        """Have the workers stop, who were told by the signal, and kill those that do not.

        One whose step saves its state, or is about to, has as long as that takes: whoever cannot
        wait asks again.
        """
        for worker in self._workers:
            worker.send({"stopping": True})
        self._end(GRACE_SECONDS.get(signum, ENDING_SECONDS))

    def _end(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        told = False
        try:
            while left := [each for each in self._workers if each.process.poll() is None]:
                if time.monotonic() > deadline:
                    for each in left:
                        if not each.heeds:
                            self._forget(each)
                        elif not told:
                            self.say("a step saves its state; asked again, the run ends at once")
                            told = True
                for key, _ in self._heard.select(POLL_SECONDS):
                    worker: _Worker = key.data
                    messages, alive = worker.hear()
                    for message in messages:
                        if "said" in message:
                            self.say(message["said"])
                        worker.heeds = message.get("heeds", worker.heeds)
                    if not alive:
                        with suppress(subprocess.TimeoutExpired):
                            worker.process.wait(max(0.0, deadline - time.monotonic()))
                        self._forget(worker)
        finally:
            for worker in list(self._workers):
                self._forget(worker)
            self._heard.close()


def _opened(log: Path) -> IO[bytes]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return open(log, "ab")
    except OSError:  # the step will say so
        return open(os.devnull, "ab")


def _end_of(status: int) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        more = ", perhaps for lack of memory" if name == "SIGKILL" else ""
        return f"its process was ended by {name} (status {128 - status}){more}"
    return f"its process ended with status {status} before the step was at its end"
