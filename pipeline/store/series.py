"""What the files of a training series say of themselves; read without torch.

<root>/series/<id>/step000400/    one checkpoint: its files, and `state.json` with their digests
<root>/series/<id>/history.jsonl  a line an update, each with a checksum of itself
<root>/series/<id>/users.json     ids of the steps that train it, finished or not
"""

from __future__ import annotations

import json
import zlib
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import CorruptShard
from pipeline.core.files import require_inside, write_json
from pipeline.core.untrusted import read_json
from pipeline.store.sealed import read_sealed, write_sealed

RECORD, USERS, HISTORY = "state.json", "users.json", "history.jsonl"


class CheckpointRecord(NamedTuple):
    """What `state.json` says of a checkpoint; `sha256` is of its other files, by name."""

    step: int
    num_tokens_read: int
    num_tokens_learned: int
    weights: str
    sha256: dict[str, str]


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
        )
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise CorruptShard(path, None, f"not the record of a checkpoint ({error})") from error


def checkpoint_files(folder: Path, weights: str | None = None) -> dict[str, str | None]:
    """The files of a checkpoint with the digests it was saved with; None for the record itself.

    Args:
        weights: the content digest that the weights must have.

    Raises:
        CorruptShard: its record is missing or broken, or it is of other weights.
    """
    record = read_record(folder)
    if weights is not None and record.weights != weights:
        reason = f"is of the weights {record.weights[:12]}, not {weights[:12]}"
        raise CorruptShard(Path(folder) / RECORD, None, reason)
    return {**record.sha256, RECORD: None}


def history_line(row: dict[str, Any]) -> str:
    """The line of a history that stands for one update."""
    text = json.dumps(row)
    return json.dumps({**row, "crc": zlib.crc32(text.encode())}) + "\n"


def history_rows(series: Path) -> dict[int, dict[str, Any]]:
    """Step -> row of all updates whose lines are whole; the last line of a step counts.

    A line that a kill cut off or a fault changed is no line: its update is made again.
    """
    path = Path(series) / HISTORY
    found = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError, LookupError, TypeError, AttributeError):
            row = json.loads(line)
            if row.pop("crc") == zlib.crc32(json.dumps(row).encode()):
                found[int(row["step"])] = row
    return found


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

    path = Path(series) / HISTORY
    known = history_rows(series)
    try:
        rows = [row for row in pq.read_table(table).to_pylist() if row["step"] not in known]
    except (pa.ArrowInvalid, OSError, LookupError) as error:
        raise CorruptShard(table, None, f"not a history ({error})") from error
    begun = path.exists() and not path.read_bytes().endswith(b"\n")
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(["\n"] * begun + [history_line(row) for row in rows])


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
