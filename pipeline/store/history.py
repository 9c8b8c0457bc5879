"""The lines that a training series keeps: updates, segments and evaluations; read without torch.

Each line ends with a checksum of itself. One that a kill cut off or a fault changed is no line;
`damaged_lines` counts them.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO, get_args, get_origin

from pipeline.core.errors import CorruptShard, damage
from pipeline.core.untrusted import MAX_INT, built, open_plain_file, parsed

HISTORY, SEGMENTS = "history.jsonl", "segments.jsonl"
EVALUATIONS = "evaluations.jsonl"
MAX_LINE = 16 << 20  # bytes; what is longer is no line of ours
MAX_SEGMENTS = 1 << 32  # a larger number is none that this counted up to
CRC = b', "crc": '  # ends a line, with a checksum of the row before it
_NO_LINE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
_ROW = {
    "step": int,
    "loss": float | None,
    "z_loss": float | None,  # the part of it that is no cross-entropy
    "lr": float | None,
    "grad_norm": float | None,
    "num_tokens_read": int | None,
    "num_tokens_learned": int | None,
    "tokens_by_source": dict[str, int],
    "segment": int,
    "seconds": float | None,
    "skipped": bool,
    "diverged": bool,
    "replay": bool,
}
_PLAIN = {
    name: (dict,) if get_origin(hint) is dict else get_args(hint) or (hint,)
    for name, hint in _ROW.items()
}
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
    "evaluation": str,
}
_SCORE = {"task": str, "metric": str, "value": float | None, "standard_error": float | None}
_READ: ContextVar[dict[Path, tuple[tuple[int, ...], list[dict[str, Any]]]] | None] = ContextVar(
    "read", default=None
)  # file -> how it was, and its rows


def sealed_line(row: Mapping[str, Any]) -> str:
    """The line that stands for an update, an evaluation or what is said of a segment."""
    text = json.dumps(dict(row))
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

    A line that a kill cut off or a fault changed is no line: its update is made again, if no
    checkpoint stands after it. A row with `diverged` is of an update that was not made, as its loss
    or gradient norm stopped the run.
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
            kind = type(value)
            if kind not in kinds or (kind is int and not 0 <= value < MAX_INT):
                return False
            if kind is dict and not all(map(_is_count, value.values())):
                return False
    return True


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_INT


def _sealed_rows(path: Path) -> Iterator[dict[str, Any]]:
    """What stands in the lines of a file whose checksum is right."""
    for line in _lines(path):
        if (text := _text_of(line)) is not None:
            with suppress(*_NO_LINE):
                yield parsed(text)


def _text_of(line: bytes) -> bytes | None:
    """The row in a line whose checksum is right; None in any other."""
    text, _, crc = line.rstrip(b"}\n").rpartition(CRC)
    whole = crc.isdigit() and len(crc) <= 10 and int(crc) == zlib.crc32(text + b"}")
    return text + b"}" if whole else None


def damaged_lines(path: Path) -> int:
    """How many lines of a file a kill cut off or a fault changed."""
    return sum(_text_of(line) is None for line in _lines(path))


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


def segment_extent(series: Path, segment: Mapping[str, Any]) -> dict[str, Any]:
    """How far a segment came by its rows: its last step, its updates, and their seconds."""
    rows = segment_rows(series, segment["segment"])
    seconds = sum(each.get("seconds") or 0 for each in rows)
    return {
        "last_step": rows[-1]["step"] if rows else segment.get("first_step"),
        "num_updates": len(rows),
        "seconds": round(seconds, 3),
    }


def last_segment(series: Path) -> int:
    """The last segment that rows are of; 0 where there is none."""
    numbers = (row.get("segment", 0) for row in all_rows(series))
    return max((each for each in numbers if each < MAX_SEGMENTS), default=0)


def evaluation_rows(series: Path, *, earlier: bool = False) -> list[dict[str, Any]]:
    """What was measured of a series, by step: the last row of each step and name.

    `scores` has a row a measure, as `scores.parquet` of the step that measures the same.
    `evaluation` is a digest of what was measured on which data, "" where a line does not say it:
    rows are of one curve where it is the same. Of each name there is the curve added to last.

    Args:
        earlier: give the rows of the curves before that instead.
    """
    found: dict[tuple[int, str, str], dict[str, Any]] = {}
    last: dict[str, str] = {}  # name -> digest
    for sealed in _sealed_rows(Path(series) / EVALUATIONS):
        with suppress(*_NO_LINE):
            row = _checked({"evaluation": ""} | sealed, _EVALUATION, _EVALUATION)
            row["scores"] = [
                _checked(each, _SCORE, ("task", "metric", "value")) for each in row["scores"]
            ]
            last[row["name"]] = row["evaluation"]
            found[row["step"], row["name"], row["evaluation"]] = row
    return [found[key] for key in sorted(found) if (key[2] != last[key[1]]) == earlier]


def read_segments(series: Path) -> list[dict[str, Any]]:
    """The segments of a series, each as its beginning and its end say; a line of neither is none.

    One that has no `cause` is under way, or was killed.
    """
    found: dict[int, dict[str, Any]] = {}
    for row in _sealed_rows(Path(series) / SEGMENTS):
        with suppress(*_NO_LINE):
            said = _checked(row, _SEGMENT, ("segment",))
            number = said["segment"]
            if number < MAX_SEGMENTS and ("first_step" in said or number in found):
                found[number] = found.get(number, {}) | said
    return [found[number] for number in sorted(found)]


def add_segment(series: Path, said: Mapping[str, Any]) -> None:
    """Add what is said of a segment, where it begins or where it ends."""
    add_lines(Path(series) / SEGMENTS, [sealed_line(said)])


def _checked(
    form: dict[str, Any], hints: Mapping[str, Any], required: Iterable[str]
) -> dict[str, Any]:
    """What a line says, its known fields of their types; raises ValueError or LookupError."""
    return form | {
        name: built(hint, form[name], name)
        for name, hint in hints.items()
        if name in form or name in required
    }


def _is_empty(row: Mapping[str, Any]) -> bool:
    """Whether a row of a result says nothing of its step: its line was damaged there too."""
    return all(value is None for name, value in row.items() if name != "step")


def complete_history(series: Path, table: Path) -> None:
    """Add the rows of a result's history that a series lacks, so that its training can go on.

    Raises:
        CorruptShard: the table is no history.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = history_rows(series)
    try:
        rows = [
            row
            for row in pq.read_table(table).to_pylist()
            if row["step"] not in known and not _is_empty(row)
        ]
    except (pa.ArrowInvalid, OSError, LookupError, TypeError) as error:
        raise damage(table, error, "not a history") from error
    add_lines(Path(series) / HISTORY, map(sealed_line, rows))


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
        while line := file.readline(MAX_LINE):
            yield line
