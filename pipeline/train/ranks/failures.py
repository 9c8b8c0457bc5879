"""What a rank leaves behind when it fails, and which of the failures of a run was the first.

When one rank ends, the others lose their connection to it or wait for it until their time is up,
and fail too. So each writes down what it met, and one that says why counts before one that was
killed, that before one that is silent, and that before those that lost another.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
import traceback
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch.distributed as dist

from pipeline.core.errors import DivergedTraining, PipelineError
from pipeline.core.untrusted import built, read_json
from pipeline.store.leases import LostLease

logger = logging.getLogger(__name__)

FAILURE, EARLIER = "failure", "earlier"  # what files with how a rank ended begin with
GRACE_SECONDS = 5.0  # in which the others meet the failure of one
LOST = (
    "connection closed",
    "connection reset",
    "timed out",
    "timeout",
    "gloo",
    "nccl",
    "broken pipe",
)


@dataclass(frozen=True)
class Failure:
    """How a rank ended.

    Args:
        lost: whether it was another rank that did not answer.
        step, reason, documents: of DivergedTraining.
        trace: its traceback, as text; empty for a rank that was killed.
    """

    rank: int
    kind: str
    message: str
    lost: bool = False
    step: int | None = None
    reason: str = ""
    documents: list[list[str]] = field(default_factory=list)
    trace: str = ""

    @classmethod
    def of(cls, rank: int, error: BaseException) -> Failure:
        """What a rank met."""
        diverged = error if isinstance(error, DivergedTraining) else None
        return cls(
            rank,
            type(error).__name__,
            str(error),
            lost=_is_lost(error),
            step=diverged.step if diverged else None,
            reason=diverged.reason if diverged else "",
            documents=[list(each) for each in diverged.documents] if diverged else [],
            trace="".join(traceback.format_exception(error)),
        )

    @classmethod
    def ended(cls, rank: int, exit_code: int) -> Failure:
        """Of a process that ended without a word."""
        if exit_code < 0:
            return cls(rank, "", f"was killed by {signal.Signals(-exit_code).name}")
        return cls(rank, "", f"ended with exit status {exit_code} and without a word")

    @staticmethod
    def path_of(folder: Path, rank: int) -> Path:
        """Where a rank leaves it."""
        return Path(folder, f"{FAILURE}-{rank}.json")

    def write(self, folder: Path) -> None:
        """Leave it for who tells of the run; where the folder is gone, that was told already."""
        path = self.path_of(folder, self.rank)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
            os.replace(temporary, path)
        except FileNotFoundError:
            pass

    def told(self) -> PipelineError:
        """As the error of the run, with the rank named; `__cause__` has the traceback."""
        if self.kind == DivergedTraining.__name__ and self.step is not None:
            error: PipelineError = DivergedTraining(
                self.step, self.reason, [(source, id) for source, id in self.documents]
            )
        elif self.kind == LostLease.__name__:
            error = LostLease(self.message)
        elif self.kind:
            error = PipelineError(f"rank {self.rank}: {self.kind}: {self.message}")
        else:
            error = PipelineError(f"rank {self.rank} {self.message}")
        if self.trace:
            error.__cause__ = RankTraceback(self)
        return error


class RankTraceback(Exception):
    """The traceback of a rank, in words, as it came from another process."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"in rank {failure.rank}:\n{failure.trace}")


def _is_lost(error: BaseException) -> bool:
    if isinstance(error, PipelineError) and error.__cause__ is not None:
        error = error.__cause__  # as of a checkpoint that was not written
    if isinstance(error, dist.DistError):
        return True
    words = str(error).lower()
    return type(error) is RuntimeError and any(each in words for each in LOST)


def put_by(folder: Path, rank: int) -> None:
    """Put by what a rank met in an attempt before this one, for the first rank to tell of."""
    path = Failure.path_of(folder, rank)
    with suppress(FileNotFoundError):
        os.replace(path, path.with_name(f"{EARLIER}-{rank}.json"))


def take_put_by(folder: Path, size: int, timeout_seconds: int) -> str:
    """How the ranks before these failed; "" where they did not. What tells of it is removed.

    Args:
        size: how many ranks there are now; there may have been more.
    """
    for each in failures_in(folder):
        if each.rank >= size:
            put_by(folder, each.rank)
    failure = first_failure(failures_in(folder, EARLIER), 0, timeout_seconds)
    for path in Path(folder).glob(f"{EARLIER}-*.json"):
        path.unlink(missing_ok=True)
    return "" if failure is None else str(failure.told())


def failures_in(folder: Path, kind: str = FAILURE) -> list[Failure]:
    """Those that ranks wrote down, the first first; what is none of a rank's is left out."""
    found = []
    for path in Path(folder).glob(f"{kind}-*.json"):
        try:
            written = path.stat().st_mtime_ns
            failure: Failure = built(Failure, read_json(path), path.name)
            if any(len(each) != 2 for each in failure.documents):
                raise ValueError("a document is not a source and an id")
        except FileNotFoundError:  # it was put by meanwhile
            continue
        except (OSError, ValueError) as error:
            logger.warning("%s is not how a rank ended: %s", path, error)
        else:
            found.append((written, failure))
    return [failure for _, failure in sorted(found, key=lambda each: each[0])]


def first_failure(found: Iterable[Failure], size: int, timeout_seconds: int) -> Failure | None:
    """The failure that the others followed from; None where nothing is known.

    Args:
        size: how many ranks there were; 0 where that is not known.
    """
    found = list(found)
    for group in (
        [each for each in found if each.kind and not each.lost],
        [each for each in found if not each.kind],
    ):
        if group:
            return group[0]
    silent = set(range(size)) - {each.rank for each in found}
    if found and silent:
        rank = min(silent)
        words = f"did not answer; rank {found[0].rank} waited for it (timeout_seconds is "
        words += f"{timeout_seconds}): {found[0].message}"
        return Failure(rank, "", words, trace=found[0].trace)
    return found[0] if found else None


def wait_for_failures(folder: Path, num_wanted: int) -> list[Failure]:
    """Those of as many ranks, or of fewer after some seconds; one that says why is enough."""
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        found = failures_in(folder)
        known = any(not each.lost for each in found)
        if known or len(found) >= num_wanted or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def failures_of(exit_codes: Mapping[int, int | None], folder: Path) -> list[Failure]:
    """Those that ranks wrote down, and those of the processes that could not."""
    found = failures_in(folder)
    known = {each.rank for each in found}
    killed = [
        Failure.ended(rank, code)
        for rank, code in sorted(exit_codes.items())
        if code and rank not in known
    ]
    return found + killed
