"""What the files of a training series say of themselves; read without torch.

<root>/series/<id>/step000400/   one checkpoint: its files, and `state.json` with their digests
<root>/series/<id>/users.json    ids of the steps that train it, finished or not
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from pipeline.core.artifacts import require_inside, write_json
from pipeline.core.errors import CorruptShard
from pipeline.core.untrusted import read_json

RECORD, USERS, HISTORY = "state.json", "users.json", "history.jsonl"


def checkpoint_files(folder: Path, weights: str | None = None) -> dict[str, str | None]:
    """The files of a checkpoint with the digests it was saved with; None for the record itself.

    Args:
        weights: the content digest that the weights must have.

    Raises:
        CorruptShard: its record is missing or broken, or it is of other weights.
    """
    path = Path(folder) / RECORD
    try:
        record = read_json(path)
        files: dict[str, str | None] = {}
        for name, sha256 in record["sha256"].items():
            require_inside(name)
            files[name] = str(sha256)
        found = str(record["weights"])
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise CorruptShard(path, None, f"not the record of a checkpoint ({error})") from error
    if weights is not None and found != weights:
        raise CorruptShard(path, None, f"is of the weights {found[:12]}, not {weights[:12]}")
    return {**files, RECORD: None}


def read_weights(folder: Path) -> str:
    """The content digest of a checkpoint's weights.

    Raises:
        CorruptShard: its record is missing or broken.
    """
    path = Path(folder) / RECORD
    try:
        return str(read_json(path)["weights"])
    except (OSError, LookupError, ValueError, TypeError) as error:
        raise CorruptShard(path, None, f"not the record of a checkpoint ({error})") from error


def complete_history(series: Path, table: Path) -> None:
    """Add the rows of a result's history that a series lacks, so that its training can go on.

    Raises:
        CorruptShard: the table is no history.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(series) / HISTORY
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    known = set()
    for line in text.splitlines():
        with suppress(ValueError, LookupError, TypeError):  # cut off by a kill
            known.add(json.loads(line)["step"])
    try:
        rows = [row for row in pq.read_table(table).to_pylist() if row["step"] not in known]
    except (pa.ArrowInvalid, OSError, LookupError) as error:
        raise CorruptShard(table, None, f"not a history ({error})") from error
    with open(path, "a", encoding="utf-8") as file:
        if not text.endswith("\n") and text:
            file.write("\n")
        file.writelines(json.dumps(row) + "\n" for row in rows)


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
