"""Folders of attributes that Dolma's commands wrote become Attributes of the same documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.core.artifacts import Attributes, AttributeTable, Documents
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.shards import ShardWriter, read_batches, shard_name
from pipeline.data.document import attribute_schema
from pipeline.data.dolma.lines import AttributeFiles, stretches

BATCH_ROWS = 1024
_NAME = re.compile(r"[A-Za-z0-9_-]+")
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
        ValueError: two folders have a table of one name, or a name is none that a table can have.

    Differs: `dolma mix` takes a document without attributes for one that has none. Here an end that
        lies beyond the text, as `dolma dedupe` writes some, is moved to the text's.
    """
    out = Path(out)
    _require_names(folders, "folders")
    given = _given(columns) if columns is not None else None
    sets = [
        AttributeFiles.of(documents, name, Path(folder), part, engine)
        for name, folder in folders.items()
    ]
    work = _Lines(documents, sets)
    parts = stretches(sets, len(documents.shards))
    kinds = given
    if kinds is None:
        kinds = _together(engine.map(_FindKinds(work), parts, label="kinds of attributes"))
    made = engine.map(_WriteTables(work, kinds, out), parts, label="import attributes")
    written = [shards for stretch in made for shards in stretch]
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


@dataclass(frozen=True)
class _Lines:
    documents: Documents
    sets: list[AttributeFiles]

    def of_shards(self, stretch: range) -> Iterator[tuple[int, Iterator[_Line]]]:
        """What all sets say of each document of each shard, in order; to be read in that order."""
        told = [each.lines(stretch) for each in self.sets]
        names: dict[tuple[str, str], _Name] = {}
        for number in stretch:
            yield number, self._of_shard(self.documents.shards[number], told, names)

    def _of_shard(
        self,
        shard: Shard,
        told: Sequence[Iterator[tuple[Path, int, Any]]],
        names: dict[tuple[str, str], _Name],
    ) -> Iterator[_Line]:
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
                        name = names[each.experiment, full] = _name(each.experiment, full)
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

    def __call__(self, stretch: range) -> dict[_Name, str]:
        kinds: dict[_Name, str] = {}
        for line in chain.from_iterable(lines for _, lines in self.lines.of_shards(stretch)):
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

    def __call__(self, stretch: range) -> list[list[Shard]]:
        return [self._shards(number, lines) for number, lines in self.lines.of_shards(stretch)]

    def _shards(self, number: int, lines: Iterator[_Line]) -> list[Shard]:
        columns = {(t, c): kind for t, kinds in self.kinds.items() for c, kind in kinds.items()}
        with ExitStack() as stack:
            writers = {
                name: stack.enter_context(
                    ShardWriter(self.out, f"{name}/{shard_name(number)}", attribute_schema(kinds))
                )
                for name, kinds in self.kinds.items()
            }
            rows: list[_Line] = []
            for line in lines:
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
        _require_names([name.table, name.column], f"an attribute of {name.experiment!r}")
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
        _require_names([table, column], "columns")
        found.setdefault(table, {})[column] = kind
    return found


def _name(experiment: str, full: str) -> _Name:
    first, _, rest = full.partition("__")
    table, _, column = rest.partition("__")
    if first == experiment and table and column:
        return _Name(table, column, experiment)
    return _Name(experiment, full, experiment)


def _require_names(names: Iterable[str], where: str) -> None:
    """Raises ValueError for what is no name of a table, which is a folder, or of a column."""
    for each in names:
        if not _NAME.fullmatch(each):
            raise ValueError(f"{where} has {each!r}; a name must be of letters, digits, _ and -")


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
