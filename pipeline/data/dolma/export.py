"""Documents and Attributes as Dolma's own folders: what `dolma mix` and its other commands read.

`documents/00000.jsonl.gz` has a document a line, and `attributes/<experiment>/00000.jsonl.gz` in
the line of the same number what was measured of it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.core.artifacts import (
    Attributes,
    AttributeTable,
    Documents,
    DolmaAttributes,
    DolmaFolder,
)
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.keys import Json
from pipeline.core.shards import read_batches, read_shard, shard_name
from pipeline.core.temporary import temporary_for
from pipeline.store.memo import FileMemo

VERSION = "001"
DOCUMENTS, ATTRIBUTES = "documents", "attributes"
SUFFIX = ".jsonl.gz"
BATCH_ROWS = 1024
_NAME = re.compile(r"[A-Za-z0-9_]+")


def attribute_name(experiment: str, table: str, column: str) -> str:
    """What Dolma calls a column: `<experiment>__<tagger>__<type>`.

    Source: allenai/dolma, `python/dolma/core/runtime.py`.
    """
    return f"{experiment}__{table}__{column}"


def export_dolma(
    documents: Documents,
    attributes: Mapping[str, Attributes],
    *,
    out: Path,
    names: Mapping[str, str] | None = None,
    engine: Engine = LOCAL,
    memo: FileMemo | None = None,
) -> DolmaFolder:
    """Write Documents, and Attributes of them by the name of an experiment, for Dolma to read.

    File k has the documents of shard k. A number is a span over the whole text whose score it is;
    what is not measured, and a column without spans, is left out of the line. Scores are written as
    they are.

    Args:
        names: our `<table>.<column>` -> the name in Dolma's files, where it is to be another than
            `<experiment>__<table>__<column>`, as the configuration of somebody's mix may ask for.

    Raises:
        MismatchedInputs: some attributes describe other documents.
        ValueError: a name is none that Dolma keeps, or two columns would have one name.

    Differs: Dolma's own taggers round scores to five decimals.
    """
    out = Path(out)
    named = {each: _names(each, table, names or {}) for each, table in attributes.items()}
    _require_known(attributes, names or {})
    for table in attributes.values():
        table.require_describes(documents)
    numbers = range(len(documents.shards))
    work = _WriteDocuments(documents, out, memo)
    written = engine.map(work, numbers, label="documents")
    sets = []
    for name, table in attributes.items():
        measured = _WriteAttributes(documents, name, table, named[name], out, memo)
        sets.append(DolmaAttributes(name, engine.map(measured, numbers, label=name)))
    return DolmaFolder.of(
        out, num_documents=documents.num_documents, documents=written, attributes=sets
    )


def _names(experiment: str, attributes: Attributes, given: Mapping[str, str]) -> dict[str, str]:
    """`<table>.<column>` -> name in Dolma's files, of all columns."""
    found: dict[str, str] = {}
    for table in attributes.tables:
        for column in table.columns:
            own = f"{table.name}.{column}"
            found[own] = given.get(own) or attribute_name(experiment, table.name, column)
    for each in [experiment, *found.values()]:
        if not _NAME.fullmatch(each):
            raise ValueError(f"{each!r} is no name in Dolma; it must be of letters, digits and _")
    if len(set(found.values())) < len(found):
        twice = next(each for each in found.values() if list(found.values()).count(each) > 1)
        raise ValueError(f"{twice!r} would be the name of two columns of {experiment!r}")
    return found


def _require_known(attributes: Mapping[str, Attributes], names: Mapping[str, str]) -> None:
    known = {
        f"{t.name}.{c}" for each in attributes.values() for t in each.tables for c in t.columns
    }
    for each in names:
        if each not in known:
            raise ValueError(f"names has {each!r}, which is no column of the attributes")


@dataclass(frozen=True)
class _WriteDocuments:
    documents: Documents
    out: Path
    memo: FileMemo | None

    def __call__(self, number: int) -> Shard:
        shard = self.documents.shards[number]
        key: dict[str, Json] = {"export_dolma": VERSION, "shard": shard.content}
        return _made(
            self.memo,
            key,
            self.out,
            f"{DOCUMENTS}/{shard_name(number, SUFFIX)}",
            self._lines(shard),
        )

    def _lines(self, shard: Shard) -> Iterator[bytes]:
        from orjson import dumps

        columns = ["id", "text", "source", "added", "created", "metadata"]
        for batch in read_batches(self.documents.root, shard, columns, BATCH_ROWS):
            rows = zip(*(batch[each].to_pylist() for each in columns), strict=True)
            for id, text, source, added, created, metadata in rows:
                told = {"id": id, "text": text, "source": source}
                told |= {"added": added, "created": created}
                yield dumps(told)[:-1] + b',"metadata":' + (metadata or "{}").encode() + b"}\n"


@dataclass(frozen=True)
class _WriteAttributes:
    documents: Documents
    experiment: str
    attributes: Attributes
    names: dict[str, str]
    out: Path
    memo: FileMemo | None

    def __call__(self, number: int) -> Shard:
        shard = self.documents.shards[number]
        key: dict[str, Json] = {
            "export_dolma": VERSION,
            "shard": shard.content,
            "names": dict(self.names),
            "tables": [[t.name, t.shards[number].content] for t in self.attributes.tables],
        }
        path = f"{ATTRIBUTES}/{self.experiment}/{shard_name(number, SUFFIX)}"
        return _made(self.memo, key, self.out, path, self._lines(number))

    def _lines(self, number: int) -> Iterator[bytes]:
        from orjson import dumps

        shard, at = self.documents.shards[number], 0
        tables = {t.name: self._table(t, number, shard) for t in self.attributes.tables}
        columns = ["id", "source", "text"]
        for rows in read_batches(self.documents.root, shard, columns, BATCH_ROWS):
            measured: list[tuple[str, str, list[Any]]] = []
            for table in self.attributes.tables:
                part = tables[table.name].slice(at, rows.num_rows)
                for column, kind in table.columns.items():
                    name = self.names[f"{table.name}.{column}"]
                    measured.append((name, kind, part[column].to_pylist()))
            at += rows.num_rows
            about = zip(*(rows[each].to_pylist() for each in columns), strict=True)
            for place, (id, source, text) in enumerate(about):
                found = {}
                for name, kind, values in measured:
                    spans = _spans(values[place], kind, len(text))
                    if spans:
                        found[name] = spans
                yield dumps({"id": id, "attributes": found, "source": source}) + b"\n"

    def _table(self, table: AttributeTable, number: int, shard: Shard) -> pa.Table:
        found = read_shard(self.attributes.root, table.shards[number], list(table.columns))
        if found.num_rows != shard.num_records:
            reason = f"has {found.num_rows} rows; its documents are {shard.num_records}"
            raise CorruptShard(self.attributes.root / table.shards[number].path, None, reason)
        return found


def _spans(value: Any, kind: str, length: int) -> list[tuple[int, int, float]]:
    if kind == "number":
        # an integer would be of another type to `dolma mix`, which compares these apart
        return [] if value is None or value != value else [(0, length, float(value))]
    return [(each["start"], each["end"], each["score"]) for each in value or []]


def _made(
    memo: FileMemo | None, key: dict[str, Json], out: Path, path: str, lines: Iterator[bytes]
) -> Shard:
    """The file of these lines, or the one that is remembered; its content is that of the lines."""
    found = memo.fetch(key, out, path) if memo is not None else None
    if found is not None:
        return found
    content, count = hashlib.sha256(), 0
    with writing_gzip(out / path) as file:
        for line in lines:
            content.update(line)
            file.write(line)
            count += 1
    shard = Shard.of(out, path, content.hexdigest(), num_records=count)
    if memo is not None:
        memo.keep(key, out, shard)
    return shard


@contextmanager
def writing_gzip(path: Path) -> Iterator[Any]:
    """A file to write bytes to, compressed; on a clean exit it is whole and has its name."""
    from isal import igzip

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(path)
    packing: Any = igzip.IGzipFile
    try:
        with open(temporary, "wb") as raw:
            with packing(filename="", fileobj=raw, mode="wb", mtime=0) as file:
                yield file
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
