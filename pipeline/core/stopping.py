"""Being asked to stop: an exception in the main thread at once or, where work looks, a flag.

Within `stopping_signals`, SIGINT, SIGTERM, SIGHUP (a terminal that is gone) and SIGUSR1 (what Slurm
sends ahead of its limit) raise `Stopped` in the main thread and end its child processes: by the
same signal those that hear signals as this process does (`passes_on_to`), others by SIGTERM. Work
that can do better than to break off (a training loop, which saves its state) runs within `heeding`
and asks `stop_requested` often; then only SIGINT breaks it off, as by Ctrl-C a second time. Others
come twice for one wish: where a system signals every process of a job, as Slurm and systemd do, a
child hears of it from its parent too.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from types import FrameType
from typing import ClassVar, NamedTuple

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
INTERRUPTED = 130  # the exit status after Ctrl-C, as a shell gives it
RESUMABLE = 75  # EX_TEMPFAIL: asked to stop by a system; the same command goes on


class Stopped(KeyboardInterrupt):
    """The process was asked to stop; what is finished is kept and the same command goes on."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum

    @property
    def status(self) -> int:
        """The exit status that a job script can tell apart from a failure."""
        return INTERRUPTED if self.signum == signal.SIGINT else RESUMABLE


class _State:
    """What this process was asked; set by signal handlers in the main thread."""

    signum: int | None = None
    heeding: int = 0
    hearers: ClassVar[set[int]] = set()
    error: BaseException | None = None


def stop_requested() -> int | None:
    """The signal that asked this process to stop, if one did."""
    return _State.signum


@contextmanager
def heeding() -> Iterator[None]:
    """Within, a signal only sets `stop_requested`, which the work must look at often.

    A second one breaks it off if it is SIGINT.
    """
    _State.heeding += 1
    try:
        yield
    finally:
        _State.heeding -= 1


def is_heeding() -> bool:
    """Whether work is under way that stops by itself, in its own time, once it was asked to."""
    return _State.heeding > 0


def passes_on_to(pid: int) -> None:
    """Have a child, which runs its work within `stopping_signals` too, told which signal came."""
    _State.hearers.add(pid)


@contextmanager
def stopping_signals() -> Iterator[None]:
    """Within, signals stop the work of the main thread; elsewhere this changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, _stop) for each in heard}  # a shell ignores some for us
    _State.signum = None
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, signal.SIG_DFL if handler is None else handler)
        _State.signum = _State.error = None


def interrupt(error: BaseException) -> None:
    """Raise an error in the main thread from another one, even while it waits.

    Its child processes are killed. Outside `stopping_signals` it arrives as KeyboardInterrupt.
    """
    _State.error = error
    ours = [each for each in SIGNALS if signal.getsignal(each) is _stop]
    signal.pthread_kill(threading.main_thread().ident or 0, (ours or [signal.SIGINT])[0])


def _stop(signum: int, frame: FrameType | None) -> None:
    error, _State.error = _State.error, None
    if error is not None:
        end_children(signal.SIGKILL)
        raise error
    first, again = _State.signum or signum, _State.signum is not None
    _State.signum = first
    if signum != signal.SIGINT if again else _State.heeding:
        return
    for pid in children():
        send([pid], first if pid in _State.hearers else signal.SIGTERM)
    raise Stopped(first)


def end_children(signum: int) -> None:
    """Send a signal to every child of this process; each passes on what it must."""
    send(children(), signum)


def children() -> list[int]:
    """The processes that this one started and that still run.

    But for Python's resource tracker, which ends with its parent by itself and is not told that
    work was stopped.
    """
    mine = os.getpid()
    return [each.pid for each in _processes() if each.parent == mine]


def descendants(since: float = 0.0) -> list[int]:
    """The processes that this one started, what those started and so on.

    In a process that leads a session, as a worker does, orphans of that session are found too.

    Args:
        since: leave out those that ran before, a `now()` of earlier.
    """
    mine, known = os.getpid(), _processes()
    leads = hasattr(os, "getsid") and os.getsid(0) == mine
    found = [each for each in known if each.parent == mine or (leads and each.session == mine)]
    pids = {mine, *(each.pid for each in found)}
    while more := [each for each in known if each.parent in pids and each.pid not in pids]:
        found += more
        pids |= {each.pid for each in more}
    return [each.pid for each in found if each.started >= since]


def now() -> float:
    """The moment, as the system notes the starts of processes."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    ticks = os.sysconf("SC_CLK_TCK")
    return int(time.clock_gettime(clock) * ticks) / ticks


class _Process(NamedTuple):
    pid: int
    parent: int
    session: int
    started: float


def _processes() -> list[_Process]:
    """What runs on this machine, as far as it is seen, but for this process."""
    mine, found = os.getpid(), []
    tracker = getattr(resource_tracker._resource_tracker, "_pid", None)
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:  # not Linux: those that Python started
        import multiprocessing

        ours = [each.pid for each in multiprocessing.active_children() if each.pid]
        return [_Process(each, mine, 0, float("inf")) for each in ours]
    ticks = os.sysconf("SC_CLK_TCK")
    for pid in pids:
        with suppress(OSError, IndexError, ValueError):
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
            if fields[0] not in "ZX" and pid not in (tracker, mine):
                started = int(fields[19]) / ticks
                found.append(_Process(pid, int(fields[1]), int(fields[3]), started))
    return found


def kill_children(seconds: float) -> None:
    """Wait for the children to end, and kill those that have not after some seconds, and theirs."""
    _wait_for_end(lambda: bool(children()), seconds)
    send(descendants(), signal.SIGKILL)


def end_descendants(since: float, seconds: float) -> int:
    """Have what was started since a moment end, by a kill after some seconds; gives how many."""
    first = descendants(since)
    if first:
        send(first, signal.SIGTERM)
        _wait_for_end(lambda: bool(descendants(since)), seconds)
        send(descendants(since), signal.SIGKILL)
    return len(first)


def _wait_for_end(going_on: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while going_on() and time.monotonic() < deadline:
        time.sleep(0.05)


def send(pids: Iterable[int], signum: int) -> None:
    """Send a signal to processes, those that have ended left out."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)
