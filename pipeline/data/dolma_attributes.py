"""Folders of attributes that Dolma's commands wrote become Attributes of the same documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from pipeline.core.artifacts import Attributes, AttributeTable, Documents
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.fingerprints import open_outside
from pipeline.core.shards import ShardWriter, read_batches, shard_name
from pipeline.data.document import attribute_schema
from pipeline.data.dolma import DOCUMENTS
from pipeline.data.files import numbered_lines, reading

IntArray = NDArray[np.uint64]
BATCH_ROWS = 1024
KINDS = ("number", "spans")
Kinds = dict[str, dict[str, str]]  # table -> column -> kind


def import_attributes(
    documents: Documents,
    folders: Mapping[str, Path],
    *,
    out: Path,
    columns: Mapping[str, str] | None = None,
    part: bool = False,
    engine: Engine = LOCAL,
) -> Attributes:
    """Read what Dolma's taggers and dedupers said of documents, line by line in their order.

    The lines of a folder's files, in the order of their paths, are those of the documents; ids are
    compared one by one. `<experiment>__<tagger>__<type>` becomes the column `<type>` of the table
    `<tagger>`, any other name a column of the table that is called as the folder. A column is of
    numbers if each document has at most one span in it, and over the whole text; else of spans.

    Args:
        folders: experiment -> `attributes/<experiment>`. Where `documents` stands beside
            `attributes`, each of its files must have one of the same name here.
        columns: `<table>.<column>` -> "number" or "spans", of all columns, so that the files are
            not read once more to find out; what else a file has is left out.
        part: the documents are some of those that the files are about, in their order, as where
            malformed records were set aside or a filter was before. To find their lines takes 8
            bytes a line.

    Raises:
        CorruptShard: a file is missing, is of other documents, or has a line that is no attributes.
        ValueError: two folders have a table of one name.

    Differs: `dolma mix` takes a document without attributes for one that has none. Here an end that
        lies beyond the text, as `dolma dedupe` writes some, is moved to the text's.
    """
    out = Path(out)
    given = _given(columns) if columns is not None else None
    files = {name: _files(Path(folder)) for name, folder in folders.items()}
    sets = [
        _Set(name, paths, _places(documents, name, paths, part, engine))
        for name, paths in files.items()
    ]
    work = _Lines(documents, sets)
    numbers = range(len(documents.shards))
    kinds = given
    if kinds is None:
        kinds = _together(engine.map(_FindKinds(work), numbers, label="kinds of attributes"))
    written = engine.map(_WriteTables(work, kinds, out), numbers, label="import attributes")
    tables = [
        AttributeTable(name, kinds[name], [shards[place] for shards in written])
        for place, name in enumerate(kinds)
    ]
    return Attributes.of(out, describes=documents.content, tables=tables)


class _Name(NamedTuple):
    """A column, and whose it is."""

    table: str
    column: str
    experiment: str


class _Line(NamedTuple):
    """What was said of one document, and the length of its text."""

    length: int
    spans: dict[_Name, list[tuple[int, int, float]]]


class _Place(NamedTuple):
    """Lines of one file, by their places among its lines that are not blank."""

    path: Path
    lines: Sequence[int]


@dataclass(frozen=True)
class _Set:
    """The files of an experiment, and for each shard of documents where its lines stand."""

    experiment: str
    files: list[Path]
    places: list[list[_Place]]

    def lines(self, number: int) -> Iterator[tuple[Path, int, Any]]:
        """File, number and value of the line of each document of a shard."""
        for path, wanted in self.places[number]:
            left = iter(wanted)
            following = next(left, None)
            with reading(str(path)), open_outside(str(path)) as file:
                for place, (row, line) in enumerate(_lines_of(file)):
                    if place == following:
                        yield path, row, _parsed(path, row, line)
                        following = next(left, None)
                    if following is None:
                        break

    def name(self, full: str) -> _Name:
        experiment, _, rest = full.partition("__")
        table, _, column = rest.partition("__")
        if experiment == self.experiment and table and column:
            return _Name(table, column, self.experiment)
        return _Name(self.experiment, full, self.experiment)


@dataclass(frozen=True)
class _Lines:
    documents: Documents
    sets: list[_Set]

    def of_shard(self, number: int) -> Iterator[_Line]:
        """What all sets say of each document of a shard, in order."""
        shard = self.documents.shards[number]
        told = [each.lines(number) for each in self.sets]
        names: dict[tuple[str, str], _Name] = {}
        for place, (id, length) in enumerate(self._about(shard)):
            where = f"document {place} of {shard.path}"
            found: dict[_Name, list[tuple[int, int, float]]] = {}
            for each, lines in zip(self.sets, told, strict=True):
                line = next(lines, None)
                if line is None:
                    raise CorruptShard(each.experiment, None, f"ends before {where}")
                path, row, value = line
                if value["id"] != id:
                    raise CorruptShard(path, row, f"is about {value['id']!r}; {where} is {id!r}")
                for full, spans in value["attributes"].items():
                    name = names.get((each.experiment, full))
                    if name is None:
                        name = names[each.experiment, full] = each.name(full)
                        _require_apart(names.values())
                    found[name] = _spans(path, row, full, spans, length)
            yield _Line(length, found)

    def _about(self, shard: Shard) -> Iterator[tuple[str, int]]:
        for batch in read_batches(self.documents.root, shard, ["id", "text"], BATCH_ROWS):
            ids, texts = (batch[each].to_pylist() for each in ("id", "text"))
            yield from zip(ids, map(len, texts), strict=True)


@dataclass(frozen=True)
class _FindKinds:
    lines: _Lines

    def __call__(self, number: int) -> dict[_Name, str]:
        kinds: dict[_Name, str] = {}
        for line in self.lines.of_shard(number):
            for name, spans in line.spans.items():
                if not spans:
                    kinds.setdefault(name, "number")
                elif len(spans) > 1 or spans[0][:2] != (0, line.length):
                    kinds[name] = "spans"
                else:
                    kinds.setdefault(name, "number")
        return kinds


@dataclass(frozen=True)
class _WriteTables:
    lines: _Lines
    kinds: Kinds
    out: Path

    def __call__(self, number: int) -> list[Shard]:
        columns = {(t, c): kind for t, kinds in self.kinds.items() for c, kind in kinds.items()}
        with ExitStack() as stack:
            writers = {
                name: stack.enter_context(
                    ShardWriter(self.out, f"{name}/{shard_name(number)}", attribute_schema(kinds))
                )
                for name, kinds in self.kinds.items()
            }
            rows: list[_Line] = []
            for line in self.lines.of_shard(number):
                rows.append(line)
                if len(rows) == BATCH_ROWS:
                    self._write(writers, columns, rows)
                    rows = []
            self._write(writers, columns, rows)
        return [each.shard for each in writers.values()]

    def _write(
        self,
        writers: Mapping[str, ShardWriter],
        columns: Mapping[tuple[str, str], str],
        rows: Sequence[_Line],
    ) -> None:
        values: dict[tuple[str, str], list[Any]] = {
            name: [None if kind == "number" else []] * len(rows) for name, kind in columns.items()
        }
        for place, row in enumerate(rows):
            for (table, column, _), spans in row.spans.items():
                kind = columns.get((table, column))
                if kind == "spans":
                    values[table, column][place] = [
                        {"start": start, "end": end, "score": score} for start, end, score in spans
                    ]
                elif kind == "number" and spans:
                    values[table, column][place] = spans[0][2]
        for name, writer in writers.items():
            found = {c: values[name, c] for c in self.kinds[name]}
            writer.write(pa.table(found, schema=writer.schema))


def _together(kinds: Sequence[dict[_Name, str]]) -> Kinds:
    """The kind of every column."""
    found: Kinds = {}
    every = sorted({each for part in kinds for each in part})
    _require_apart(every)
    for name in every:
        said = {part[name] for part in kinds if name in part}
        kind = "spans" if "spans" in said else "number"
        found.setdefault(name.table, {})[name.column] = kind
    return found


def _require_apart(names: Iterable[_Name]) -> None:
    """Raises ValueError where two experiments have one table."""
    owner: dict[str, str] = {}
    for name in names:
        first = owner.setdefault(name.table, name.experiment)
        if first != name.experiment:
            both = f"{first!r} and {name.experiment!r}"
            raise ValueError(f"{both} have a table {name.table!r} each; import them apart")


def _given(columns: Mapping[str, str]) -> Kinds:
    found: Kinds = {}
    for full, kind in columns.items():
        table, _, column = full.partition(".")
        if not table or not column or kind not in KINDS:
            raise ValueError(
                f"columns has {full!r}: {kind!r}; it must be '<table>.<column>': "
                "'number' or 'spans'"
            )
        found.setdefault(table, {})[column] = kind
    return found


def _files(folder: Path) -> list[Path]:
    """The files below a folder in the order of their paths, which must be those of documents."""
    names = _below(folder)
    beside = folder.parent.parent / DOCUMENTS
    if folder.parent.name == "attributes" and beside.is_dir():
        for name in _below(beside):
            if name not in names:
                raise CorruptShard(folder / name, None, f"is missing; there is {beside / name}")
    return [folder / each for each in names]


def _below(folder: Path) -> list[str]:
    return sorted(
        each.relative_to(folder).as_posix()
        for each in folder.rglob("*")
        if each.is_file() and not each.name.startswith(".")
    )


def _places(
    documents: Documents, experiment: str, paths: list[Path], part: bool, engine: Engine
) -> list[list[_Place]]:
    """Where the lines of each shard of documents stand; raises CorruptShard for what has none."""
    if part:
        hashes = engine.map(_hashes_of_ids, paths, label="ids of attributes")
        return _found(documents, experiment, paths, hashes)
    counts = engine.map(_num_lines, paths, label="count lines")
    if sum(counts) != documents.num_documents:
        reason = f"its files have {sum(counts)} lines; the documents are {documents.num_documents}"
        raise CorruptShard(paths[0].parent if paths else experiment, None, reason)
    ends = list(accumulate(counts))
    found, first = [], 0
    for shard in documents.shards:
        last, own = first + shard.num_records, []
        for path, count, end in zip(paths, counts, ends, strict=True):
            begun = end - count
            if begun < last and end > first:
                own.append(_Place(path, range(max(first, begun) - begun, min(last, end) - begun)))
        found.append(own)
        first = last
    return found


def _found(
    documents: Documents, experiment: str, paths: list[Path], hashes: Sequence[IntArray]
) -> list[list[_Place]]:
    """Places by the ids, in one pass over documents and lines, which have one order."""
    ends = np.cumsum([0, *map(len, hashes)])
    every = np.concatenate([*hashes, np.zeros(0, np.uint64)])
    found, at = [], 0
    for shard in documents.shards:
        wanted = []
        for batch in read_batches(documents.root, shard, ["id"], BATCH_ROWS):
            for id in batch[0].to_pylist():
                own = xxhash.xxh3_64_intdigest(id.encode())
                while at < len(every) and every[at] != own:
                    at += 1
                if at == len(every):
                    reason = f"no line after those of the documents before it is about {id!r}"
                    raise CorruptShard(experiment, None, f"{reason} of {shard.path}")
                wanted.append(at)
                at += 1
        lines = np.array(wanted, np.int64)
        file = np.searchsorted(ends, lines, "right") - 1
        found.append(
            [_Place(paths[n], (lines[file == n] - ends[n]).tolist()) for n in np.unique(file)]
        )
    return found


def _num_lines(path: Path) -> int:
    with reading(str(path)), open_outside(str(path)) as file:
        return sum(1 for _ in _lines_of(file))


def _hashes_of_ids(path: Path) -> IntArray:
    with reading(str(path)), open_outside(str(path)) as file:
        ids = (_parsed(path, number, line)["id"] for number, line in _lines_of(file))
        return np.fromiter((xxhash.xxh3_64_intdigest(id.encode()) for id in ids), np.uint64)


def _lines_of(file: Any) -> Iterator[tuple[int, bytes | None]]:
    """The lines that are not blank, with their numbers."""
    for number, line in numbered_lines(file):
        if line is None or (line and not line.isspace()):
            yield number, line


def _parsed(path: Path, number: int, line: bytes | None) -> Any:
    import orjson

    try:
        value = orjson.loads(line if line is not None else b"")
    except ValueError as error:
        raise CorruptShard(path, number, f"not JSON ({error})") from error
    if not isinstance(value, dict) or not isinstance(value.get("attributes"), dict):
        raise CorruptShard(path, number, "has no attributes; it must be an object with some")
    if not isinstance(value.get("id"), str):
        raise CorruptShard(path, number, f"its id is {value.get('id')!r}; it must be text")
    return value


def _spans(
    path: Path, number: int, name: str, spans: Any, length: int
) -> list[tuple[int, int, float]]:
    found = []
    try:
        for start, end, score in spans:
            if type(start) is not int or type(end) is not int or isinstance(score, (str, bool)):
                raise ValueError
            if not 0 <= start <= end or start > length:
                raise ValueError
            found.append((start, min(end, length), float(score)))
    except (TypeError, ValueError):
        reason = (
            f"{name!r} is {str(spans)[:80]}; it must be spans [start, end, score] of a text of "
        )
        raise CorruptShard(path, number, f"{reason}{length} characters") from None
    return found
