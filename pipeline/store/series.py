"""What the files of a training series say of themselves; read without torch.

<root>/series/<id>/step000400/     one checkpoint: its files, and `state.json` with their digests
<root>/series/<id>/history.jsonl   a line an update, each with a checksum of itself
<root>/series/<id>/segments.jsonl  a line where a segment of updates begins, and one where it ends
<root>/series/<id>/evaluations.jsonl  a line an evaluation, each with a checksum of itself
<root>/series/<id>/users.json      ids of the steps that train it, finished or not

A result that shows a checkpoint relies on its weights alone: the optimizer's state is there so that
training can go on, and is dropped from all but the last few (`retention`).
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, get_args, get_type_hints

from pipeline.core.errors import CorruptShard
from pipeline.core.files import write_json
from pipeline.core.untrusted import MAX_INT, built, open_plain_file, parsed, read_json
from pipeline.store.sealed import read_sealed, write_sealed
from pipeline.store.tensors import are_complete, kind_of

RECORD, USERS = "state.json", "users.json"
HISTORY, SEGMENTS = "history.jsonl", "segments.jsonl"
EVALUATIONS = "evaluations.jsonl"
CRC = b', "crc": '  # ends a line of a history, and a checksum of the row before it
_NO_LINE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
_ROW = {
    "step": int,
    "loss": float | None,
    "z_loss": float | None,  # the part of it that is no cross-entropy
    "lr": float | None,
    "grad_norm": float | None,
    "num_tokens_read": int | None,
    "num_tokens_learned": int | None,
    "segment": int,
    "seconds": float | None,
    "skipped": bool,
    "diverged": bool,
    "replay": bool,
}
_PLAIN = {name: get_args(hint) or (hint,) for name, hint in _ROW.items()}
_SEGMENT = {
    "segment": int,
    "began": float,
    "first_step": int,
    "rolled_back_from": int,
    "ended": float,
    "last_step": int,
    "cause": str,
    "reason": str,
    "documents": list[list[str]],
    "replay": bool,
    "num_updates": int,
    "seconds": float,
    "energy_joules": float,
    "energy_by": str,
    "energy_to_step": int,
    "devices_not_measured": int,
    "counted_in": str,
}
_EVALUATION = {
    "step": int,
    "name": str,
    "segment": int,
    "seconds": float,
    "scores": list[dict[str, Any]],
}
_SCORE = {"task": str, "metric": str, "value": float | None, "standard_error": float | None}
_READ: ContextVar[dict[Path, tuple[tuple[int, ...], list[dict[str, Any]]]] | None] = ContextVar(
    "read", default=None
)  # file -> how it was, and its rows
_DIGEST = re.compile("[0-9a-f]{64}")


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
        return _checked_record({"num_skipped": 0, **form})
    except (OSError, LookupError, ValueError, TypeError) as error:
        raise CorruptShard(path, None, f"not the record of a checkpoint ({error})") from error


def _checked_record(form: Mapping[str, Any]) -> CheckpointRecord:
    """The record that some JSON gives; raises ValueError or LookupError where it gives none."""
    hints = get_type_hints(CheckpointRecord)
    record = CheckpointRecord(**{name: built(hints[name], form[name], name) for name in hints})
    for name, digest in {"weights": record.weights, **record.sha256}.items():
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"the digest of {name} is {digest[:80]!r}; it must be 64 hex digits")
    if not are_complete(record.sha256):
        there = ", ".join(sorted(record.sha256)) or "none"
        raise ValueError(f"its files must be model and optimizer of each rank; there is {there}")
    if record.num_skipped > record.step:
        raise ValueError(f"num_skipped is {record.num_skipped}; there are {record.step} steps")
    return record


def checkpoint_files(
    folder: Path, weights: str | None = None, *, with_state: bool = True
) -> dict[str, str | None]:
    """The files of a checkpoint with the digests it was saved with; None for the record itself.

    Args:
        weights: the content digest that the weights must have.
        with_state: name the optimizer's state too, where it was not dropped.

    Raises:
        CorruptShard: its record is missing or broken, or it is of other weights, or there are
            tensors beside those that it names.
    """
    record = read_record(folder)
    strays = {path.name for path in Path(folder).glob("*.safetensors")} - record.sha256.keys()
    if strays:
        raise CorruptShard(Path(folder) / min(strays), None, "is not named by the record beside it")
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
    """The line of a history that stands for one update, or for one evaluation."""
    text = json.dumps(row)
    return f"{text[:-1]}{CRC.decode()}{zlib.crc32(text.encode())}}}\n"


@contextmanager
def reading_once() -> Iterator[None]:
    """Within, a history is parsed again only where its file changed; `forget_read` frees it."""
    token = _READ.set({} if _READ.get() is None else _READ.get())
    try:
        yield
    finally:
        _READ.reset(token)


def forget_read() -> None:
    """Free the rows that are remembered within `reading_once`."""
    if (read := _READ.get()) is not None:
        read.clear()


def all_rows(series: Path) -> Iterator[dict[str, Any]]:
    """Every row of a history whose line is whole, as they were written.

    A line that a kill cut off or a fault changed is no line: its update is made again. A row with
    `diverged` is of an update that was not made, as its loss or gradient norm stopped the run.
    """
    path, read = Path(series) / HISTORY, _READ.get()
    if read is None or not os.path.lexists(path):
        return _parsed_rows(path)
    stat = path.lstat()
    state = stat.st_ino, stat.st_size, stat.st_mtime_ns
    if path not in read or read[path][0] != state:
        read[path] = state, list(_parsed_rows(path))
    return iter(read[path][1])


def _parsed_rows(path: Path) -> Iterator[dict[str, Any]]:
    for row in _sealed_rows(path):
        with suppress(*_NO_LINE):
            yield row if _is_plain(row) else _checked(row, _ROW, ("step", "loss"))


def _is_plain(row: Mapping[str, Any]) -> bool:
    """Whether the known fields of a row have the very types of `_ROW`: what costs little to say."""
    if "step" not in row or "loss" not in row:
        return False
    for name, kinds in _PLAIN.items():
        if name in row:
            value = row[name]
            if type(value) not in kinds or (type(value) is int and not 0 <= value < MAX_INT):
                return False
    return True


def _sealed_rows(path: Path) -> Iterator[dict[str, Any]]:
    """What stands in the lines of a file whose checksum is right."""
    for line in _lines(path):
        with suppress(*_NO_LINE):
            text, _, crc = line.rstrip(b"}\n").rpartition(CRC)
            if int(crc) == zlib.crc32(text + b"}"):
                yield parsed(text + b"}")


def history_rows(series: Path) -> dict[int, dict[str, Any]]:
    """Step -> row of all updates that were made.

    Where one was made again, its last row counts; but one of a `replay`, as after another
    `save_steps`, only where there is no other: the series did not go on from it.
    """
    rows: dict[int, dict[str, Any]] = {}
    for row in all_rows(series):
        if not row.get("diverged") and not (row.get("replay") and row["step"] in rows):
            rows[int(row["step"])] = row
    return rows


def diverged_rows(series: Path) -> list[dict[str, Any]]:
    """The rows of the updates that stopped a run and were not made, as they were met."""
    return [row for row in all_rows(series) if row.get("diverged")]


def segment_rows(series: Path, number: int) -> list[dict[str, Any]]:
    """The rows of the updates that a segment made, whether they were made again later or not."""
    made = (row for row in all_rows(series) if not row.get("diverged"))
    return [row for row in made if row.get("segment") == number]


def evaluation_rows(series: Path) -> list[dict[str, Any]]:
    """What was measured of a series, by step: the last row of each step and name.

    `scores` has a row a measure, as `scores.parquet` of the step that measures the same.
    """
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for sealed in _sealed_rows(Path(series) / EVALUATIONS):
        with suppress(*_NO_LINE):
            row = _checked(sealed, _EVALUATION, _EVALUATION)
            row["scores"] = [
                _checked(each, _SCORE, ("task", "metric", "value")) for each in row["scores"]
            ]
            found[row["step"], row["name"]] = row
    return [found[key] for key in sorted(found)]


def read_segments(series: Path) -> list[dict[str, Any]]:
    """The segments of a series, each as its beginning and its end say; a line of neither is none.

    One that has no `cause` is under way, or was killed.
    """
    found: dict[int, dict[str, Any]] = {}
    for place, line in enumerate(_lines(Path(series) / SEGMENTS), 1):
        with suppress(*_NO_LINE):
            said = _checked(parsed(line), _SEGMENT, ("segment",))
            number = said["segment"]
            if number <= place and ("first_step" in said or number in found):
                found[number] = found.get(number, {}) | said
    return [found[number] for number in sorted(found)]


def add_segment(series: Path, said: Mapping[str, Any]) -> None:
    """Add what is said of a segment, where it begins or where it ends."""
    add_lines(Path(series) / SEGMENTS, [json.dumps(said) + "\n"])


def _checked(
    form: dict[str, Any], hints: Mapping[str, Any], required: Iterable[str]
) -> dict[str, Any]:
    """What a line says, its known fields of their types; raises ValueError or LookupError."""
    return form | {
        name: built(hint, form[name], name)
        for name, hint in hints.items()
        if name in form or name in required
    }


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
    except (pa.ArrowInvalid, OSError, LookupError, TypeError) as error:
        raise CorruptShard(table, None, f"not a history ({error})") from error
    add_lines(Path(series) / HISTORY, map(history_line, rows))


def add_lines(path: Path, lines: Iterable[str]) -> None:
    """Add whole lines to a file, whose last one a kill may have cut off."""
    with open_lines(path, to_add=True) as file:
        begun = file.seek(0, os.SEEK_END) > 0
        if begun:
            file.seek(-1, os.SEEK_END)
            begun = file.read() != b"\n"
        file.write("".join(["\n"] * begun + list(lines)).encode())
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def open_lines(path: Path, *, to_add: bool = False) -> Iterator[BinaryIO]:
    """A file of lines in a series, opened as `open_plain_file` does.

    Raises:
        FileNotFoundError: it is missing.
        CorruptShard: it is a link or no plain file: what is written would go elsewhere.
    """
    try:
        file = open_plain_file(path, to_add=to_add)
    except ValueError as error:
        raise CorruptShard(path, None, str(error)) from error
    except OSError as error:
        for is_so, kind in ((path.is_symlink, "a link"), (path.is_dir, "a folder")):
            if is_so():
                raise CorruptShard(path, None, f"it is {kind}") from error
        raise
    with file:
        yield file


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file; none where it is missing."""
    with suppress(FileNotFoundError), open_lines(path) as file:
        yield from file


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


def series_of(series_root: Path, id: str) -> Path | None:
    """The series that the step `id` trains, finished or not; of several the one worked on last."""
    found = [each for each in Path(series_root).glob("*") if id in read_users(each)]
    return max(found, key=_last_change, default=None)


def _last_change(series: Path) -> int:
    paths = (series / name for name in (HISTORY, SEGMENTS, USERS))
    return max(path.lstat().st_mtime_ns for path in paths if os.path.lexists(path))
