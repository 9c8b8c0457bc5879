"""What is written down of each update: the history that results hold, and how each part was run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.shards import write_shard
from pipeline.store.series import HISTORY, history_rows

LINES, SEGMENTS, TABLE = HISTORY, "segments.jsonl", "history.parquet"
SCHEMA = pa.schema(
    [("step", pa.int64()), ("loss", pa.float64()), ("lr", pa.float64())]
    + [("grad_norm", pa.float64()), ("num_tokens_read", pa.int64())]
    + [("num_tokens_learned", pa.int64())]  # both up to this step, as in `Checkpoint`
)


@contextmanager
def added_rows(series: Path) -> Iterator[IO[str]]:
    """The history of a series, to add to; a last line that a kill cut off is dropped.

    Steps made again after a resume are added again: the last line of a step counts. On leaving,
    the rows are on the disk, so that a checkpoint saved after it never lacks its history.
    """
    path = Path(series) / LINES
    if path.exists():
        with open(path, "r+b") as file:
            held = file.read()
            file.truncate(held.rfind(b"\n") + 1)
    with open(path, "a", encoding="utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_history(series: Path, last_step: int, out: Path) -> Shard:
    """Write `history.parquet`, a row an update from 1 to `last_step`.

    Raises:
        CorruptShard: a step is missing.
    """
    path = Path(series) / LINES
    by_step = history_rows(series)
    for step in range(1, last_step + 1):
        if step not in by_step:
            raise CorruptShard(path, None, f"has no row of step {step}")
    rows = [by_step[step] for step in range(1, last_step + 1)]
    return write_shard(Path(out), TABLE, pa.Table.from_pylist(rows, schema=SCHEMA), SCHEMA)


def note_segment(series: Path, **record: Any) -> None:
    """Add how a run of steps was made: launch, device, time. No result depends on it."""
    with open(Path(series) / SEGMENTS, "a", encoding="utf-8") as file:
        file.write(json.dumps({"ended": round(time.time(), 3), **record}) + "\n")
