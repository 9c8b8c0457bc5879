"""Who works on what: one lease file each, with a heartbeat; no database and no file locks.

A lease whose owner is gone (its process has ended, or its heart has not beaten for `STALE_SECONDS`)
is taken over; an owner that lost its lease finds out at `require`.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from pipeline.core.errors import PipelineError

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0


class LostLease(PipelineError):
    """Another process took this lease over; this one must stop."""


class Lease:
    """Exclusive right to one name below `root`; a context manager that waits for its turn.

    Args:
        waiting: called once, with the owner's record, when somebody else holds the lease.
    """

    def __init__(
        self, root: Path, name: str, waiting: Callable[[dict[str, object]], None] | None = None
    ) -> None:
        self.path = Path(root) / f"{name}.json"
        self.waiting = waiting
        self._nonce = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lease:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        told = False
        pause = 0.02
        while not self._take():
            owner = self._read()
            if owner is not None and not told and self.waiting is not None:
                self.waiting(owner)
                told = True
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(BEAT_SECONDS + 1)
        owner = self._read()
        if owner is not None and owner.get("nonce") == self._nonce:
            with suppress(FileNotFoundError):
                self.path.unlink()

    def require(self) -> None:
        """Raises LostLease when another process took this lease over."""
        owner = self._read()
        if owner is None or owner.get("nonce") != self._nonce:
            raise LostLease(f"{self.path}: the lease was taken over by {owner}")

    def _take(self) -> bool:
        record = {
            "nonce": self._nonce,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _process_start(os.getpid()),
        }
        temporary = self.path.with_name(f".{self.path.name}.{self._nonce}")
        temporary.write_text(json.dumps(record), encoding="utf-8")
        try:
            os.link(temporary, self.path)  # atomic and complete: fails where the lease exists
            return True
        except FileExistsError:
            self._clear_if_dead()
            return False
        except OSError:  # a file system without hard links
            return self._take_exclusively(record)
        finally:
            temporary.unlink(missing_ok=True)

    def _take_exclusively(self, record: dict[str, object]) -> bool:
        try:
            with open(self.path, "x", encoding="utf-8") as file:
                json.dump(record, file)
            return True
        except FileExistsError:
            self._clear_if_dead()
            return False

    def _clear_if_dead(self) -> None:
        """Remove a dead owner's lease; a second file lets only one process do so at a time."""
        owner = self._read()
        if owner is None or not self._is_dead(owner):
            return
        guard = self.path.with_name(f".{self.path.name}.takeover")
        try:
            if time.time() - guard.stat().st_mtime > STALE_SECONDS:
                guard.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        try:
            os.close(os.open(guard, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        try:
            now = self._read()
            if now is not None and now.get("nonce") == owner.get("nonce"):
                with suppress(FileNotFoundError):
                    self.path.unlink()
        finally:
            guard.unlink(missing_ok=True)

    def _is_dead(self, owner: dict[str, object]) -> bool:
        if owner.get("host") == socket.gethostname():
            pid = owner.get("pid")
            return not isinstance(pid, int) or _process_start(pid) != owner.get("started")
        try:
            return time.time() - self.path.stat().st_mtime > STALE_SECONDS
        except FileNotFoundError:
            return False

    def _read(self) -> dict[str, object] | None:
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
            return record if isinstance(record, dict) else {}
        except FileNotFoundError:
            return None
        except ValueError:
            return {}

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(self.path)


def live_leases(root: Path) -> set[str]:
    """Names of the leases below `root` whose owners are there, as far as can be told."""
    found = set()
    for path in Path(root).glob("*.json"):
        lease = Lease(root, path.stem)
        owner = lease._read()
        if owner is not None and not lease._is_dead(owner):
            found.add(path.stem)
    return found


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
