"""The folder of a run whose ranks are on several machines, in the series that they train.

Its ranks leave their failures there. While its file `OPEN` stands, other processes may join the
run. The file names the attempt: where another run of the series has begun, as after the one that
led this one was killed, it names that, and ranks of this one find that they have no right to the
series any more.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import CorruptShard, PipelineError
from pipeline.core.untrusted import built, read_json
from pipeline.train.ranks.failures import GRACE_SECONDS

MEETING, OPEN = ".ranks", "open.json"


@contextmanager
def meeting(series: Path, joins: bool) -> Iterator[Path]:
    """The folder of a run that spans machines; who leads the run makes it and removes it."""
    folder = series / MEETING
    if joins:
        try:
            yield folder
        finally:  # who leads tells of the end first: Slurm may kill all once one task has ended
            deadline = time.monotonic() + 2 * GRACE_SECONDS
            while folder.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    temporary = folder / f".{OPEN}.tmp"
    temporary.write_text(json.dumps({"attempt": uuid.uuid4().hex}), encoding="utf-8")
    os.replace(temporary, folder / OPEN)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


@dataclass(frozen=True)
class Attempt:
    """A run as its ranks know it.

    Args:
        died_of: how the ranks failed that torchrun started before these; "" where they did not.
    """

    series: Path
    name: str | None
    died_of: str = ""

    def require_open(self) -> None:
        """Raises PipelineError where it has ended, or another run of the series has begun."""
        if self.name is None or open_attempt(self.series) != self.name:
            raise PipelineError(
                f"the run of series {self.series.name[:12]} that this rank is of has ended, or "
                "another one has begun; nothing more is written by this one"
            )
