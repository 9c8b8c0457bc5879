"""What the files of a training series say of themselves; read without torch.

<root>/series/<id>/step000400/     one checkpoint: its files, and `state.json` with their digests
<root>/series/<id>/history.jsonl   a line an update, each with a checksum of itself
<root>/series/<id>/segments.jsonl  a line where a segment of updates begins, and one where it ends
<root>/series/<id>/users.json      ids of the steps that train it, finished or not

A result that shows a checkpoint relies on its weights alone: the optimizer's state is there so that
training can go on, and is dropped from all but the last few (`retention`).
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import CorruptShard
from pipeline.core.files import require_inside, write_json
from pipeline.core.untrusted import read_json
from pipeline.store.sealed import read_sealed, write_sealed
from pipeline.store.tensors import kind_of

RECORD, USERS = "state.json", "users.json"
HISTORY, SEGMENTS = "history.jsonl", "segments.jsonl"


class CheckpointRecord(NamedTuple):
    """What `state.json` says of a checkpoint; `sha256` is of its other files, by name."""

    step: int
    num_tokens_read: int
    num_tokens_learned: int
    weights: str
    sha256: dict[str, str]
    num_skipped: int = 0  # of the steps, those whose update was left out


def write_record(folder: Path, record: CheckpointRecord) -> None:
    """Say what a checkpoint is, once its other files are written."""
    write_sealed(Path(folder) / RECORD, record._asdict())


def read_record(folder: Path) -> CheckpointRecord:
    """The record of a checkpoint; raises CorruptShard where it is missing or broken."""
    path = Path(folder) / RECORD
    try:
        form = read_sealed(path)
        sha256 = {name: str(each) for name, each in form["sha256"].items()}
        for name in sha256:
            require_inside(name)
        return CheckpointRecord(
            step=int(form["step"]),
            num_tokens_read=int(form["num_tokens_read"]),
            num_tokens_learned=int(form["num_tokens_learned"]),
            weights=str(form["weights"]),
            sha256=sha256,
            num_skipped=int(form.get("num_skipped", 0)),
        )
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise CorruptShard(path, None, f"not the record of a checkpoint ({error})") from error


def checkpoint_files(
    folder: Path, weights: str | None = None, *, with_state: bool = True
) -> dict[str, str | None]:
    """The files of a checkpoint with the digests it was saved with; None for the record itself.

    Args:
        weights: the content digest that the weights must have.
        with_state: name the optimizer's state too, where it was not dropped.

    Raises:
        CorruptShard: its record is missing or broken, or it is of other weights.
    """
    record = read_record(folder)
    if weights is not None and record.weights != weights:
        reason = f"is of the weights {record.weights[:12]}, not {weights[:12]}"
        raise CorruptShard(Path(folder) / RECORD, None, reason)
    keeps = with_state and has_state(folder, record)
    files = {name: each for name, each in record.sha256.items() if keeps or not _is_state(name)}
    return {**files, RECORD: None}


def has_state(folder: Path, record: CheckpointRecord) -> bool:
    """Whether all files of the optimizer's state stand, so that training can go on from here."""
    return all((Path(folder) / name).exists() for name in record.sha256 if _is_state(name))


def drop_state(folder: Path) -> None:
    """Remove the optimizer's state from a checkpoint; its weights and its record stay."""
    for name in read_record(folder).sha256:
        if _is_state(name):
            (Path(folder) / name).unlink(missing_ok=True)


def _is_state(name: str) -> bool:
    return kind_of(name) == "optimizer"


def history_line(row: dict[str, Any]) -> str:
    """The line of a history that stands for one update."""
    text = json.dumps(row)
    return json.dumps({**row, "crc": zlib.crc32(text.encode())}) + "\n"


def all_rows(series: Path) -> Iterator[dict[str, Any]]:
    """Every row of a history whose line is whole, as they were written.

    A line that a kill cut off or a fault changed is no line: its update is made again.
    """
    path = Path(series) / HISTORY
    if path.exists():
        with open(path, "rb") as file:
            for line in file:
                with suppress(ValueError, LookupError, TypeError, AttributeError):
                    row = json.loads(line)
                    if row.pop("crc") == zlib.crc32(json.dumps(row).encode()):
                        int(row["step"])
                        yield row


def history_rows(series: Path) -> dict[int, dict[str, Any]]:
    """Step -> row of all updates; where one was made again, its last row counts."""
    return {int(row["step"]): row for row in all_rows(series)}


def segment_rows(series: Path, number: int) -> list[dict[str, Any]]:
    """The rows that a segment wrote, whether their updates were made again later or not."""
    return [row for row in all_rows(series) if row.get("segment") == number]


def read_segments(series: Path) -> list[dict[str, Any]]:
    """The segments of a series, each as its beginning and its end say; a line of neither is none.

    One that has no `cause` is under way, or was killed.
    """
    path = Path(series) / SEGMENTS
    found: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError, LookupError, TypeError, AttributeError):
            said = json.loads(line)
            number = int(said["segment"])
            found[number] = {**found.get(number, {}), **said}
    return [found[number] for number in sorted(found)]


def last_whole_step(series: Path) -> int:
    """The last update up to which a history has no gap."""
    steps = history_rows(series).keys()
    return next(step for step in count() if step + 1 not in steps)


def complete_history(series: Path, table: Path) -> None:
    """Add the rows of a result's history that a series lacks, so that its training can go on.

    Raises:
        CorruptShard: the table is no history.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = history_rows(series)
    try:
        rows = [row for row in pq.read_table(table).to_pylist() if row["step"] not in known]
    except (pa.ArrowInvalid, OSError, LookupError) as error:
        raise CorruptShard(table, None, f"not a history ({error})") from error
    add_lines(Path(series) / HISTORY, map(history_line, rows))


def add_lines(path: Path, lines: Iterable[str]) -> None:
    """Add whole lines to a file, whose last one a kill may have cut off."""
    begun = path.exists() and not path.read_bytes().endswith(b"\n")
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(["\n"] * begun + list(lines))
        file.flush()
        os.fsync(file.fileno())


def note_user(series: Path, id: str) -> None:
    """Note that the step `id` trains this series, so that what it made so far is kept for it."""
    users = read_users(series)
    if id not in users:
        write_json(Path(series) / USERS, sorted({*users, id}))


def read_users(series: Path) -> list[str]:
    """Ids of the steps that train a series."""
    try:
        users = read_json(Path(series) / USERS)
    except (OSError, ValueError):
        return []
    return [each for each in users if isinstance(each, str)] if isinstance(users, list) else []
