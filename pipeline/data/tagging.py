"""Taggers over Documents become Attributes: a table a tagger, a shard a document shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.core.artifacts import Attributes, AttributeTable, Documents
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import CorruptShard, PipelineError, TaggerFailed
from pipeline.core.files import Shard
from pipeline.core.keys import Json, canonical
from pipeline.core.shards import LARGE_BYTES, ShardWriter, read_groups, shard_name
from pipeline.data.batch import (
    BatchTagger,
    Column,
    Ints,
    Spans,
    Texts,
    as_arrays,
    as_row,
    columns_of,
)
from pipeline.data.document import attribute_schema
from pipeline.data.taggers import Tagger
from pipeline.store.memo import FileMemo

VERSION = "001"
GROUP_BYTES = 4 << 20  # of measures that are held before they are written


def tag_documents(
    documents: Documents,
    taggers: Sequence[Tagger],
    *,
    out: Path,
    engine: Engine = LOCAL,
    memo: FileMemo | None = None,
) -> Attributes:
    """Measure every document with every tagger; row i of a table is about row i of the documents.

    A shard that a tagger measured before, by content, is linked and not measured again. All
    taggers that are left read its text once.

    Raises:
        ValueError: two taggers have one name.
        CorruptShard: a document has no text.
        TaggerFailed: a tagger fails on a document, or gives a span that does not lie in its text,
            or a number or score that is not finite; the message names both.
    """
    check_taggers(taggers)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    work = _TagShard(documents, list(taggers), [canonical(each) for each in taggers], out, memo)
    made = engine.map(work, range(len(documents.shards)), label="tag")
    tables = [
        AttributeTable(each.name, dict(each.COLUMNS), [shards[place] for shards in made])
        for place, each in enumerate(taggers)
    ]
    return Attributes.of(out, describes=documents.content, tables=tables)


def check_taggers(taggers: Sequence[Tagger], path: str = "taggers") -> None:
    """Raises ValueError for two taggers of one name, which would write one table."""
    names = [each.name for each in taggers]
    for place, name in enumerate(names):
        if (first := names.index(name)) < place:
            raise ValueError(
                f"{path}[{place}] writes the table {name!r}, as {path}[{first}] does; a table is "
                "of one tagger"
            )


@dataclass(frozen=True)
class _TagShard:
    documents: Documents
    taggers: list[Tagger]
    forms: list[Json]  # each tagger in a key
    out: Path
    memo: FileMemo | None

    def __call__(self, number: int) -> list[Shard]:
        content = self.documents.shards[number].content
        keys = [{"tag": VERSION, "tagger": form, "shard": content} for form in self.forms]
        paths = [f"{tagger.name}/{shard_name(number)}" for tagger in self.taggers]
        found: list[Shard | None] = [None] * len(keys)
        if self.memo is not None:
            found = [
                self.memo.fetch(k, self.out, path) for k, path in zip(keys, paths, strict=True)
            ]
        left = [place for place, shard in enumerate(found) if shard is None]
        made = self._measure(number, [(self.taggers[i], paths[i]) for i in left]) if left else []
        for place, shard in zip(left, made, strict=True):
            found[place] = shard
            if self.memo is not None:
                self.memo.keep(keys[place], self.out, shard)
        return [shard for shard in found if shard is not None]

    def _measure(self, number: int, paths: list[tuple[Tagger, str]]) -> list[Shard]:
        shard = self.documents.shards[number]
        with ExitStack() as stack:
            writers = [
                stack.enter_context(ShardWriter(self.out, path, attribute_schema(tagger.COLUMNS)))
                for tagger, path in paths
            ]
            held: list[list[pa.RecordBatch]] = [[] for _ in paths]
            for batch in read_groups(self.documents.root, shard, ["id", "text"]):
                texts = self._texts(shard, batch)
                for (tagger, _), writer, rows in zip(paths, writers, held, strict=True):
                    rows.append(
                        pa.RecordBatch.from_arrays(
                            self._columns(tagger, shard, batch, texts), schema=writer.schema
                        )
                    )
                    if len(texts.data) >= LARGE_BYTES:
                        texts.forget()
                    _write(writer, rows, GROUP_BYTES)
            for writer, rows in zip(writers, held, strict=True):
                _write(writer, rows, 0)
        return [writer.shard for writer in writers]

    def _texts(self, shard: Shard, batch: pa.RecordBatch) -> Texts:
        where, text = self.documents.root / shard.path, batch["text"]
        if text.null_count:
            id = batch["id"][text.is_null().index(True).as_py()].as_py()
            raise CorruptShard(where, id, "has no text")
        try:
            return Texts.of(text)
        except pa.ArrowInvalid as error:
            raise CorruptShard(where, None, f"has text that is no UTF-8 ({error})") from error

    def _columns(
        self, tagger: Tagger, shard: Shard, batch: pa.RecordBatch, texts: Texts
    ) -> list[pa.Array]:
        id = None
        try:
            if isinstance(tagger, BatchTagger):
                columns, lengths = tagger.measure_all(texts), texts.num_characters
            else:
                rows, lengths = [], np.zeros(len(texts), np.int64)
                for place, text in enumerate(texts):
                    id, lengths[place] = batch["id"][place].as_py(), len(text)
                    rows.append(as_row(tagger.measure(text), tagger.COLUMNS))
                columns = columns_of(rows, tagger.COLUMNS)
            for name, row, fault in _faults(columns, lengths):
                id = batch["id"][row].as_py()
                raise ValueError(f"{name} {fault}")
            return as_arrays([columns[name] for name in tagger.COLUMNS])
        except PipelineError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise TaggerFailed(tagger.name, shard.path, id, reason) from error


def _faults(columns: Mapping[str, Column], lengths: Ints) -> Iterator[tuple[str, int, str]]:
    """Spans out of their text, and what is not finite: column, row, and what is wrong with it."""
    for name, each in columns.items():
        if not isinstance(each, Spans):
            for row in np.flatnonzero(np.isinf(each)).tolist():
                yield name, row, f"is {each[row]}; it must be a finite number or None"
            continue
        # a batch of one may be a long text, with millions of spans
        most = lengths if len(lengths) == 1 else np.repeat(lengths, each.counts)
        outside = (each.starts < 0) | (each.ends < each.starts) | (each.ends > most)
        unscored = False if each.scores is None else ~np.isfinite(each.scores)
        for place in np.flatnonzero(outside | unscored).tolist():
            row = int(np.searchsorted(np.cumsum(each.counts), place, side="right"))
            fault = f"has the span [{each.starts[place]}, {each.ends[place]})"
            if outside[place] or each.scores is None:
                yield name, row, f"{fault} in {lengths[row]} characters of text"
            else:
                yield name, row, f"{fault} with a score of {each.scores[place]}"


def _write(writer: ShardWriter, rows: list[pa.RecordBatch], at_least: int) -> None:
    """Write rows that are held back, once there are bytes enough, and let them go."""
    if rows and sum(each.nbytes for each in rows) >= at_least:
        last = rows.pop()
        if last.nbytes < at_least:
            rows.append(last)
        if rows:
            writer.write(pa.Table.from_batches(rows).combine_chunks())
        if last.nbytes >= at_least:
            writer.write(last)
        rows.clear()
