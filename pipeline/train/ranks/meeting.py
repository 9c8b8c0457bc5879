"""Where the ranks of a run meet that are on several machines, in the series that they train.

<series>/.ranks/open.json    names the attempt; while it stands, other processes may join the run
<series>/.ranks/<attempt>/   where the ranks of the attempt leave their failures

Where another run of the series has begun, as after the one that led this one was killed, the file
names that, and ranks of this one find that they have no right to the series any more.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import CorruptShard, PipelineError
from pipeline.core.untrusted import built, read_json
from pipeline.store.leases import LostLease
from pipeline.train.ranks.failures import GRACE_SECONDS

MEETING, OPEN = ".ranks", "open.json"


@dataclass(frozen=True)
class Attempt:
    """A run as its ranks know it.

    Args:
        died_of: how the ranks failed that torchrun started before these; "" where they did not.
    """

    series: Path
    name: str
    died_of: str = ""

    @property
    def folder(self) -> Path:
        """Where its ranks leave their failures; gone once the run has ended."""
        return self.series / MEETING / self.name

    def is_open(self) -> bool:
        """Whether it has not ended, and no other run of the series has begun."""
        return open_attempt(self.series) == self.name

    def require_open(self) -> None:
        """Raises LostLease where it has ended, or another run of the series has begun."""
        if not self.is_open():
            raise LostLease(
                f"the run of series {self.series.name[:12]} that this rank is of has ended, or "
                "another one has begun; nothing more is written by this one"
            )


@contextmanager
def meeting(series: Path, joins: bool) -> Iterator[Attempt]:
    """The attempt of a run that spans machines; who leads the run begins and ends it.

    Raises:
        PipelineError: there is none to be joined.
    """
    if joins:
        name = open_attempt(series)
        if name is None:
            raise PipelineError(f"the run of series {series.name[:12]} has ended")
        attempt = Attempt(series, name)
        try:
            yield attempt
        finally:  # who leads tells of the end first: Slurm may kill all once one task has ended
            deadline = time.monotonic() + 2 * GRACE_SECONDS
            while attempt.folder.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
        return
    place = series / MEETING
    end_other_attempts(series)
    attempt = Attempt(series, uuid.uuid4().hex)
    attempt.folder.mkdir(parents=True)
    temporary = place / f".{OPEN}.tmp"
    temporary.write_text(json.dumps({"attempt": attempt.name}), encoding="utf-8")
    os.replace(temporary, place / OPEN)
    try:
        yield attempt
    finally:
        with suppress(CorruptShard):  # what ended the run is not hidden by that
            if attempt.is_open():  # else it is another run's
                shutil.rmtree(place, ignore_errors=True)


def end_other_attempts(series: Path) -> None:
    """Have ranks of a run whose lead was killed find that they have no right any more."""
    shutil.rmtree(Path(series) / MEETING, ignore_errors=True)


def open_attempt(series: Path) -> str | None:
    """Which run of a series other processes may join now, if there is one.

    Raises:
        CorruptShard: what says so is no such file.
    """
    path = Path(series) / MEETING / OPEN
    try:
        attempt: str = built(dict[str, str], read_json(path), path.name)["attempt"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError) as error:
        raise CorruptShard(path, None, f"names no run to join ({error})") from error
    return attempt
