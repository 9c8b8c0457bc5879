"""A folder of this machine in which the ranks of a run meet, and of which no kill leaves much.

It is none of the series: torch locks the file through which ranks find each other, and not every
network file system has locks. A process that is killed leaves its folder; as it holds a lock on it
while it lives, the next run on the machine knows that, whatever became of its process id. Where
machines share what TMPDIR names, a lock may hold on one of them only: names tell whose a folder is.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.core.keys import digest
from pipeline.store.leases import machine

PREFIX = "olmo-tango-meeting-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder that is removed at the end; what killed processes of this user left, before."""
    for each in Path(tempfile.gettempdir()).glob(f"{_prefix()}*"):
        with suppress(OSError):  # somebody's who lives, another user's, or gone meanwhile
            _remove_leftover(each)
    folder, held = _made()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _prefix() -> str:
    """What the names of this machine's folders begin with."""
    return f"{PREFIX}{digest(machine())[:12]}-"


def _made() -> tuple[Path, int]:
    """A new folder, and the lock on it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix()))
        with suppress(FileNotFoundError):  # it was taken for a leftover before it was locked
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # without locks nobody can take it for a leftover either
                fcntl.flock(held, fcntl.LOCK_EX)
            if folder.exists():
                return folder, held
            os.close(held)


def _remove_leftover(folder: Path) -> None:
    """Remove a folder of ours that nobody holds; raises OSError where somebody does."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(held).st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(held)
