"""Who works on what: one lease file each, with a heartbeat; no database and no file locks.

A lease is taken by making its file, which fails where one stands. The lease of an owner that is
gone is taken over, and by one process only: whoever replaces the record of an owner first holds the
file named after that record (its heir), which is itself taken like a lease, so that a kill at any
moment leaves nothing locked. Gone is an owner on this machine whose process has ended, and one
elsewhere whose heart stopped. Clocks are not compared between machines: a heartbeat is a new time
on the file, whatever it says, and an old one counts only if it stays as it is while we look.

An owner that lost its lease finds out at its next heartbeat, which interrupts its main thread.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from pipeline.core import stopping
from pipeline.core.errors import PipelineError

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
LOOK_SECONDS = 12.5  # how long a heartbeat that looks old must stay as it is
DAY_SECONDS = 86400.0
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class LostLease(PipelineError):
    """Another process took this lease over; this one must stop."""


class Occupied(PipelineError):
    """Somebody else holds the lease, and the caller does not want to wait."""


@dataclass(frozen=True)
class _Held:
    """What stands in a lease file: `name` tells it from every other, also where it is garbage."""

    name: str
    record: dict[str, object]
    beat: int  # time of the file in nanoseconds, by whatever clock


class Lease:
    """Exclusive right to one name below `root`; a context manager that waits for its turn.

    Args:
        waiting: called once, with the owner's record, when somebody else holds the lease; what it
            raises ends the wait.
    """

    def __init__(
        self, root: Path, name: str, waiting: Callable[[dict[str, object]], None] | None = None
    ) -> None:
        self.path = Path(root) / f"{name}.json"
        self.waiting = waiting
        self.lost: LostLease | None = None
        self.nonce = uuid.uuid4().hex
        self.interrupts = threading.current_thread() is threading.main_thread()
        self.thread = 0
        self._beaten = 0.0

    def __enter__(self) -> Lease:
        told = False
        pause = 0.02
        while not self._take():
            if not told and self.waiting is not None and (held := _read(self.path)) is not None:
                self.waiting(held.record)
                told = True
            if _heart.is_held_here(self.path):
                raise RuntimeError(f"{self.path}: this thread holds it, and would wait for itself")
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)
        self._beaten = time.monotonic()
        self.thread = threading.get_ident()
        _heart.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _heart.remove(self)
        if self.lost is None:
            self._release()

    def require(self) -> None:
        """Raises LostLease when another process took this lease over."""
        if self.lost is not None:
            raise self.lost
        held = _read(self.path)
        if held is None or held.name != self.nonce:
            record = None if held is None else held.record
            self.lost = LostLease(f"{self.path}: the lease was taken over by {record}")
            raise self.lost

    def holder(self) -> dict[str, object] | None:
        """The record of whoever holds this lease now, if somebody that lives does."""
        held = _read(self.path)
        return None if held is None or _is_gone(self.path, held, time.time_ns()) else held.record

    def beat(self) -> None:
        """Renew the lease; sets `lost` where it is somebody else's, or could not be renewed."""
        try:
            self.require()
            os.utime(self.path)
            self._beaten = time.monotonic()
        except LostLease:
            pass
        except OSError as error:
            age = time.monotonic() - self._beaten
            if age > STALE_SECONDS / 2:
                self.lost = LostLease(f"{self.path}: not renewed for {age:.0f} s ({error})")

    def _take(self) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self._with_record(self.path, self.nonce)

    def _release(self) -> None:
        """Remove the file if it is ours, when nobody is about to take it over."""
        heir = _heir(self.path, self.nonce)
        try:
            if not self._with_record(heir, uuid.uuid4().hex):
                return
        except OSError:  # as on a full disk, where files can still be removed
            pass
        held = _read(self.path)
        if held is not None and held.name == self.nonce:
            self.path.unlink(missing_ok=True)
        heir.unlink(missing_ok=True)

    def _with_record(self, place: Path, nonce: str) -> bool:
        """Write a record of us under a name of its own, then try to have it stand at `place`."""
        temporary = self.path.with_name(f".{self.path.name}.{nonce}.new")
        record = {"nonce": nonce, **_this_process(os.getpid())}
        try:
            temporary.write_text(json.dumps(record), encoding="utf-8")
            temporary.chmod(0o644)  # others must see who holds it, whatever our umask
            return self._claim(place, temporary)
        finally:
            temporary.unlink(missing_ok=True)

    def _claim(self, place: Path, temporary: Path) -> bool:
        if _create(place, temporary):
            return True
        held = _read(place)
        if held is None or held.name == self.nonce:
            return held is not None
        if not _is_gone(place, held, temporary.stat().st_mtime_ns):
            return False
        heir = _heir(self.path, held.name)
        if not self._claim(heir, temporary):
            return False
        try:
            now = _read(place)
            if now is None or now.name != held.name:  # somebody was here before us
                return False
            copy = temporary.with_suffix(".copy")
            shutil.copy(temporary, copy)
            os.replace(copy, place)
            return True
        finally:
            heir.unlink(missing_ok=True)


def live_leases(root: Path) -> set[str]:
    """Names of the leases below `root` whose owners are there, as far as can be told."""
    paths = Path(root).glob("[!.]*.json")
    return {path.stem for path in paths if Lease(root, path.stem).holder() is not None}


def run_lease(run: str) -> str:
    """The name of the lease that a run holds while it lives."""
    return f"run-{run}"


def clear_leftovers(root: Path) -> int:
    """Remove what kills left in a folder of leases: those of owners that are gone, as of a result
    that was published right before, and hidden files that are a day old; gives how many leases."""
    num_left = 0
    for path in Path(root).glob("[!.]*.json"):
        lease = Lease(root, path.stem)
        with suppress(OSError):
            if lease.holder() is None and lease._take():
                lease._release()
                num_left += 1
    for path in Path(root).glob(".*.json.*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > DAY_SECONDS:
                path.unlink()
    return num_left


def _create(place: Path, temporary: Path) -> bool:
    """Make a file with the record, in one go where there are hard links; False if one stands."""
    try:
        os.link(temporary, place)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
    try:
        with open(place, "xb", buffering=0) as file:
            file.write(temporary.read_bytes())
        return True
    except FileExistsError:
        return False


def _heir(path: Path, name: str) -> Path:
    """The file whose holder alone may replace or remove the record of that name."""
    return path.with_name(f".{path.name}.{name}.heir")


def _read(path: Path) -> _Held | None:
    try:
        with open(path, "rb") as file:
            stat, text = os.fstat(file.fileno()), file.read(1 << 16)
    except FileNotFoundError:
        return None
    except PermissionError:
        stat, text = path.stat(), b""
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    nonce = record.get("nonce") if isinstance(record, dict) else None
    if not isinstance(nonce, str) or not re.fullmatch("[0-9a-f]{32}", nonce):
        record, nonce = {}, f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}"
    return _Held(nonce, record, stat.st_mtime_ns)


_looked: dict[str, tuple[str, int, float]] = {}  # path -> who held it, their beat, since when


def _is_gone(path: Path, held: _Held, now: int) -> bool:
    """Whether an owner has ended.

    Args:
        now: the time of a file that was just written here, so by the clock of the heartbeats.
    """
    record, pid = held.record, held.record.get("pid")
    here = _this_process(os.getpid())
    if record.get("machine") == here["machine"] and isinstance(pid, int):
        return _process_start(pid) != record.get("started")
    name, beat, since = _looked.get(str(path), ("", 0, 0.0))
    if (name, beat) != (held.name, held.beat):
        since = time.monotonic()
        _looked[str(path)] = (held.name, held.beat, since)
    unchanged = time.monotonic() - since
    if not record:  # cut off while it was written, which takes no time
        return unchanged > LOOK_SECONDS or (
            unchanged > 0.2 and now - held.beat > LOOK_SECONDS * 1e9
        )
    return unchanged > STALE_SECONDS or (
        unchanged > LOOK_SECONDS and now - held.beat > STALE_SECONDS * 1e9
    )


@lru_cache(maxsize=1)
def _this_process(pid: int) -> dict[str, object]:
    """What tells this process from every other one, on every machine."""
    return {
        "host": socket.gethostname(),
        "machine": machine(),
        "pid": pid,
        "started": _process_start(pid),
    }


def machine() -> str:
    """Where process ids mean the same: one boot of one machine, or of one container of it."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _process_start(pid: int) -> str | None:
    """When a process started, in kernel ticks; None if it does not run. Tells reused ids apart."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        if os.path.isdir("/proc/self"):
            return None
    try:
        os.kill(pid, 0)
        return "alive"
    except ProcessLookupError:
        return None
    except PermissionError:
        return "alive"


class _Heart:
    """One thread that beats for every lease that this process holds."""

    def __init__(self) -> None:
        self._held: list[Lease] = []
        self._lock = threading.Lock()
        self._any = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        with self._lock:
            self._held.append(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, daemon=True)
                self._thread.start()
        self._any.set()

    def remove(self, lease: Lease) -> None:
        with self._lock:
            self._held.remove(lease)
            if not self._held:
                self._any.clear()

    def is_held_here(self, path: Path) -> bool:
        """Whether the calling thread holds the lease of a file."""
        thread = threading.get_ident()
        return any(each.path == path and each.thread == thread for each in self._held)

    def _beat(self) -> None:
        while True:
            self._any.wait()
            time.sleep(BEAT_SECONDS)
            for lease in list(self._held):
                lease.beat()
                with self._lock:  # so that it is not told of a lease that was given back meanwhile
                    if lease.lost is not None and lease in self._held and lease.interrupts:
                        lease.interrupts = False
                        stopping.interrupt(lease.lost)


_heart = _Heart()
if hasattr(os, "register_at_fork"):  # threads are not forked
    os.register_at_fork(after_in_child=_heart.__init__)  # type: ignore[misc]
