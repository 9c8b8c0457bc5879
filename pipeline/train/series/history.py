"""The history of a series: a row an update, and how each segment of updates was run and ended."""

from __future__ import annotations

import io
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import pyarrow as pa

from pipeline.core.energy import Spent
from pipeline.core.errors import CorruptShard, DivergedTraining
from pipeline.core.files import Shard
from pipeline.core.shards import write_shard
from pipeline.core.stopping import Stopped
from pipeline.store.checkpoints import stopped_at
from pipeline.store.history import (
    HISTORY,
    add_segment,
    history_rows,
    last_segment,
    open_lines,
    read_segments,
    sealed_line,
    segment_extent,
    segment_rows,
)
from pipeline.store.leases import LostLease

logger = logging.getLogger(__name__)
BLOCK = 1 << 16  # bytes
LINES, TABLE = HISTORY, "history.parquet"
SCHEMA = pa.schema(
    [("step", pa.int64()), ("loss", pa.float64()), ("lr", pa.float64())]
    + [("grad_norm", pa.float64()), ("num_tokens_read", pa.int64())]
    + [("num_tokens_learned", pa.int64())]  # both up to this step, as in `Checkpoint`
)
SKIPPED = pa.field("skipped", pa.bool_())


@contextmanager
def added_rows(series: Path) -> Iterator[IO[str]]:
    """The history of a series, to add to; a last line that a kill cut off is dropped.

    Steps made again after a resume are added again: `history_rows` says which line counts.
    """
    path = Path(series) / LINES
    with open_lines(path, to_add=True) as file:
        _cut_after_last_line(file)
        file.seek(0, os.SEEK_END)
        with io.TextIOWrapper(file, encoding="utf-8") as lines:
            yield lines
            sync(lines)


def _cut_after_last_line(file: BinaryIO) -> None:
    """Drop what follows the last line that ends, reading no more than that."""
    place = size = file.seek(0, os.SEEK_END)
    while place:
        start = max(0, place - BLOCK)
        file.seek(start)
        found = file.read(place - start).rfind(b"\n")
        if found >= 0:
            place = start + found + 1
            break
        place = start
    if place < size:
        file.truncate(place)


def sync(file: IO[str]) -> None:
    """Have the rows that were written on the disk."""
    file.flush()
    os.fsync(file.fileno())


def diverged_line(error: DivergedTraining, noted: dict[str, Any]) -> str:
    """The line of an update that was not made; no curve and no resume takes it for one.

    Args:
        noted: what all rows of its segment say.
    """
    row = {"step": error.step, "loss": finite(error.loss), "grad_norm": finite(error.grad_norm)}
    return sealed_line(row | noted | {"diverged": True})


def finite(value: float | None) -> float | None:
    """A number as JSON has it: none where it is infinite or not one."""
    return value if value is not None and math.isfinite(value) else None


def write_history(series: Path, last_step: int, out: Path, *, with_skips: bool = False) -> Shard:
    """Write `history.parquet`, a row an update from 1 to `last_step`.

    The row of an update whose line was damaged is empty, and said to be: its checkpoints stand,
    and to train them again for it would cost more than it is worth.

    Args:
        with_skips: add a column that says whose update was left out.
    """
    by_step = history_rows(series)
    if lost := [step for step in range(1, last_step + 1) if step not in by_step]:
        told = ", ".join(map(str, lost[:5])) + (", …" if len(lost) > 5 else "")
        logger.warning("%s has no whole line of step %s", Path(series) / LINES, told)
    rows = [by_step.get(step, {"step": step}) for step in range(1, last_step + 1)]
    schema = SCHEMA
    if with_skips:  # a row that was taken over from a series without a rule does not say so
        schema = SCHEMA.append(SKIPPED)
        rows = [({"skipped": False} if row["step"] in by_step else {}) | row for row in rows]
    return write_shard(Path(out), TABLE, pa.Table.from_pylist(rows, schema=schema), schema)


def begin_segment(
    series: Path, first_step: int, *, replay: bool = False, died_of: str = "", **how: Any
) -> int:
    """Note that updates are made from a step on; gives the number of the segment.

    Where the series goes on from an earlier update than the last that was made, that one is
    `rolled_back_from`.

    Args:
        replay: updates are made again, and what was trained after them stands.
        died_of: of what the one before it failed, if that has no end.
        how: what it runs with, as launch and device. No result depends on it.
    """
    end_earlier(series, died_of)
    began = _beginning(series, first_step)
    if replay:
        began["replay"] = True
    elif (last := max(history_rows(series), default=0)) > first_step:
        began["rolled_back_from"] = last
    add_segment(series, began | how)
    return int(began["segment"])


def _beginning(series: Path, first_step: int) -> dict[str, Any]:
    """What all segments say where they begin."""
    number = 1 + max(_last_begun(series), last_segment(series))  # a damaged line may hide one
    return {"segment": number, "began": round(time.time(), 3), "first_step": first_step}


def _last_begun(series: Path) -> int:
    return max((each["segment"] for each in read_segments(series)), default=0)


def end_earlier(series: Path, died_of: str = "") -> None:
    """Note how a segment ended that could not say so itself, if there is one.

    It was stopped if it saved its state when it was asked to, and else was killed.

    Args:
        died_of: of what it failed, where that is known.
    """
    segments = read_segments(series)
    if segments and "cause" not in segments[-1]:
        stopped = _saved_its_stop(series, segments)
        end_segment(series, "failed" if died_of else "stopped" if stopped else "killed", died_of)


def _saved_its_stop(series: Path, segments: Sequence[dict[str, Any]]) -> bool:
    """Whether the state that a stop left is of the last update of the last segment, and its own."""
    rows, at = segment_rows(series, segments[-1]["segment"]), stopped_at(series)
    others = any((s.get("cause"), s.get("last_step")) == ("stopped", at) for s in segments[:-1])
    return bool(rows) and rows[-1]["step"] == at and not others


def end_segment(series: Path, cause: str, reason: str = "", documents: Sequence[Any] = ()) -> None:
    """Note how the segment under way ended, if there is one.

    Args:
        cause: "finished", "stopped", "diverged", "failed" or "killed".
        documents: that the batch of a diverged update read, each as source and id.
    """
    last = (read_segments(series) or [{"cause": ""}])[-1]
    if "cause" not in last:
        said = _ending(cause, reason, documents) | segment_extent(series, last)
        add_segment(series, {"segment": last["segment"]} | said)


def _ending(cause: str, reason: str, documents: Sequence[Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"cause": cause}
    if cause != "killed":
        said["ended"] = round(time.time(), 3)
    if reason:
        said["reason"] = reason
    if documents:
        said["documents"] = [list(each) for each in documents]
    return said


def note_energy(series: Path, number: int, step: int, spent: Spent) -> None:
    """Note what a segment took up to a step, on all machines."""
    said = {"segment": number, "energy_to_step": step, "energy_joules": round(spent.joules, 3)}
    more = {"energy_by": spent.by, "devices_not_measured": spent.devices_not_measured}
    add_segment(series, said | more)


@contextmanager
def noting_failure(series: Path, first_step: int, **how: Any) -> Iterator[None]:
    """Note why what is done within failed: of the segment under way or, if none began, as its own.

    The caller holds the lease of the series, so a segment that is under way before was killed.

    Args:
        first_step, how: of a segment that did not come to its first update, as in `begin_segment`.
    """
    end_earlier(series)
    before, started = _last_begun(series), round(time.time(), 3)
    try:
        yield
    except LostLease:
        raise  # the segment under way is another run's
    except BaseException as error:
        cause, reason, documents = "failed", f"{type(error).__name__}: {error}", []
        if isinstance(error, Stopped):
            cause, reason = "stopped", str(error)
        elif isinstance(error, DivergedTraining):
            cause, reason, documents = "diverged", error.reason, error.documents
        with suppress(OSError, CorruptShard):  # on a full disk: the error itself counts
            if _last_begun(series) == before:
                add_segment(series, _beginning(series, first_step) | {"began": started} | how)
            end_segment(series, cause, reason, documents)
        raise
