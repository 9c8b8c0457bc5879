"""Exact duplicates: what stands earlier in the corpus is marked, whatever the number of workers.

Two passes over the shards. The first reads the text, hashes it and notes where paragraphs stand;
between them the first of each hash is found; the second writes the marks and reads no text. Hashes
have 128 bits, so two texts of one hash do not happen (of 10^12 texts, by less than one chance in
10^14), unless somebody makes them on purpose.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.artifacts import Attributes, AttributeTable, Documents
from pipeline.core.engine import LOCAL, Engine, Local
from pipeline.core.files import Shard
from pipeline.core.shards import ShardWriter, shard_name
from pipeline.data.document import SPAN, attribute_schema
from pipeline.data.duplicates.first_seen import Places, Run, RunWriter, firsts_of_part, part_bits
from pipeline.data.text_columns import TextColumn, read_text

By = Literal["document", "paragraph", "url"]
COLUMNS: dict[str, dict[str, str]] = {
    "document": {"duplicate_document": "number"},
    "paragraph": {"duplicate_paragraphs": "spans", "duplicate_paragraph_fraction": "number"},
    "url": {"duplicate_url": "number"},
}
NAME = "dedup"
WRITTEN_ROWS = 4096
ZEROS = 1 << 20  # bytes written at once
PARAGRAPH_BYTES = 64  # of text, about, from which the number of parts is taken


def deduplicate(
    documents: Documents, *, by: Sequence[By], out: Path, engine: Engine = LOCAL
) -> Attributes:
    """Mark each document, URL or paragraph that stands earlier in the corpus: table `dedup`.

    The first in corpus order is never marked. A paragraph is a line with its newline, compared
    without it; blank ones (`str.isspace`) do not count. `duplicate_document` and `duplicate_url`
    are 0 or 1; a document without `metadata.url` is no duplicate by URL. `duplicate_paragraphs` are
    spans of score 1, `duplicate_paragraph_fraction` the share of the characters that they cover.

    Memory does not grow with the corpus beyond a byte a hash, of a file mapped into it. In `out`
    stand meanwhile 33 bytes a paragraph (hash 16, place 8, span 8, mark 1), 25 a document or URL.

    Source: Soldaini et al. 2024, "Dolma", section 4.1.3; allenai/dolma, `dolma dedupe`.
    Differs: exact, where Dolma's Bloom filter has false positives and depends on its workers. A
        span has its newline always, and no more; there the last one of a text may lack it or be one
        too long. A blank paragraph may have U+001C to U+001F, which are white space in Python only.
    """
    for place, key in enumerate(by):
        if key not in COLUMNS:
            raise ValueError(f"by[{place}] is {key!r}; it must be one of {', '.join(COLUMNS)}")
    if not by:
        raise ValueError("by is empty; it must name what is to be compared")
    out = Path(out)
    scratch = out / ".hashes"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    wanted = [each for each in COLUMNS if each in by]
    numbers = range(len(documents.shards))
    hashing = _HashShard(documents, wanted, scratch)
    hashed = engine.map(hashing, numbers, label="dedup: hash", threads=True)
    begins: dict[str, list[int]] = {}
    for each in wanted:
        begins[each] = list(accumulate((shard[each].num_places for shard in hashed), initial=0))
        runs = [
            Run(scratch / name, begin)
            for shard, begin in zip(hashed, begins[each][:-1], strict=True)
            for name in shard[each].runs
        ]
        path = scratch / f"{each}.marks"
        _mark_repeats(runs, hashing.num_bits(each), begins[each][-1], path, _threads_of(engine))
    items = [_Begin(n, {each: begins[each][n] for each in wanted}) for n in numbers]
    marking = _MarkShard(documents, wanted, scratch, out)
    shards = engine.map(marking, items, label="dedup: mark", threads=True)
    shutil.rmtree(scratch)
    table = AttributeTable(NAME, columns_by(wanted), shards)
    return Attributes.of(out, describes=documents.content, tables=[table])


def columns_by(by: Sequence[str]) -> dict[str, str]:
    """The columns of table `dedup` for what is compared."""
    return {name: kind for each in by for name, kind in COLUMNS.get(each, {}).items()}


class _Hashed(NamedTuple):
    """What of a shard is compared: its files of hashes, and over how many places they go."""

    runs: list[str]
    num_places: int


class _Begin(NamedTuple):
    """A shard, and at which place of the whole corpus it begins by each of what is compared."""

    number: int
    begins: dict[str, int]

    def __str__(self) -> str:
        return str(self.number)


@dataclass(frozen=True)
class _HashShard:
    """Pass 1: the hashes of a shard, and where its paragraphs stand."""

    documents: Documents
    by: list[str]
    scratch: Path

    def num_bits(self, by: str) -> int:
        """By how many bits of a hash it is parted."""
        if by == "paragraph":
            return part_bits(self.documents.num_text_bytes // PARAGRAPH_BYTES)
        return part_bits(self.documents.num_documents)

    def __call__(self, number: int) -> dict[str, _Hashed]:
        shard = self.documents.shards[number]
        runs = {
            each: RunWriter(self.scratch, f"{each}-{number}", self.num_bits(each))
            for each in self.by
        }
        first, num_paragraphs = 0, 0
        more = ["metadata"] if "url" in self.by else None
        with (
            open(self.scratch / f"{number}.spans", "wb") as spans,
            open(self.scratch / f"{number}.rows", "wb") as rows,
        ):
            for texts, batch in read_text(self.documents.root, shard, more):
                places = np.arange(first, first + len(batch))
                if "document" in runs:
                    _hash_texts(texts, places, runs["document"])
                if "url" in runs:
                    urls, has_url = _urls(batch["metadata"])
                    _hash_texts(urls, places[has_url], runs["url"])
                if "paragraph" in runs:
                    num_paragraphs = _cut(texts, num_paragraphs, runs["paragraph"], spans, rows)
                first += len(batch)
        totals = {each: num_paragraphs if each == "paragraph" else first for each in self.by}
        return {each: _Hashed(runs[each].close(), totals[each]) for each in self.by}


def _cut(texts: TextColumn, found: int, runs: RunWriter, spans: BinaryIO, rows: BinaryIO) -> int:
    """Hash the paragraphs of texts, and note their spans; gives how many the shard has by now.

    In `rows` stand, for each text, the number of its paragraphs and of its code points.

    Args:
        found: paragraphs of the shard that were cut before.
    """
    from pipeline.data.compiled import hashing  # numba

    num_texts = len(texts.offsets) - 1
    counts, lengths = np.zeros((2, num_texts), np.int64)
    state = np.array([0, texts.offsets[0], 0], np.int64)
    while state[0] < num_texts:
        keys = runs.room()
        places = np.empty((len(keys), 2), np.int32)
        num = hashing.cut_paragraphs(*texts, state, keys, places, counts, lengths)
        runs.hold(np.arange(found, found + num))
        spans.write(places[:num].data)
        found += num
    rows.write(np.stack([counts, lengths], axis=1).data)
    return found


@dataclass(frozen=True)
class _MarkShard:
    """Pass 2: the table of a shard from the marks of its hashes."""

    documents: Documents
    by: list[str]
    scratch: Path
    out: Path

    def __call__(self, item: _Begin) -> Shard:
        schema = attribute_schema(columns_by(self.by))
        left = self.documents.shards[item.number].num_records
        with ExitStack() as stack:
            path = f"{NAME}/{shard_name(item.number)}"
            writer = stack.enter_context(ShardWriter(self.out, path, schema))
            marks = {}
            for each in self.by:
                marks[each] = stack.enter_context(open(self.scratch / f"{each}.marks", "rb"))
                marks[each].seek(item.begins[each])
            if "paragraph" in marks:
                rows = stack.enter_context(open(self.scratch / f"{item.number}.rows", "rb"))
                spans = stack.enter_context(open(self.scratch / f"{item.number}.spans", "rb"))
            while left:
                num = min(left, WRITTEN_ROWS)
                columns: dict[str, Any] = {
                    f"duplicate_{each}": np.fromfile(marks[each], np.uint8, num).astype(np.float64)
                    for each in ("document", "url")
                    if each in marks
                }
                if "paragraph" in marks:
                    found = _paragraph_columns(rows, spans, marks["paragraph"], num)
                    columns.update(zip(COLUMNS["paragraph"], found, strict=True))
                writer.write(pa.table([columns[name] for name in schema.names], schema=schema))
                left -= num
        return writer.shard


def _paragraph_columns(rows: BinaryIO, spans: BinaryIO, marks: BinaryIO, num: int) -> list[Any]:
    """The marked spans of the next `num` rows, and the share of their text that they cover."""
    from pipeline.data.compiled import hashing  # numba

    counts, lengths = np.fromfile(rows, np.int64, 2 * num).reshape(-1, 2).T
    total = int(counts.sum())
    held = np.fromfile(spans, np.int32, 2 * total).reshape(-1, 2)
    starts, ends, bounds, covered = hashing.choose_spans(
        held, np.fromfile(marks, np.uint8, total), counts
    )
    found = pa.StructArray.from_arrays([starts, ends, np.ones(len(starts))], fields=list(SPAN))
    return [pa.ListArray.from_arrays(bounds, found), covered / np.maximum(lengths, 1)]


def _hash_texts(texts: TextColumn, places: Places, runs: RunWriter) -> None:
    from pipeline.data.compiled import hashing  # numba

    runs.add(hashing.hash_texts(*texts), places)


def _urls(metadata: pa.Array) -> tuple[TextColumn, npt.NDArray[np.bool_]]:
    """The URLs of the rows that have one, and which rows do."""
    found: list[bytes] = []
    has_url = np.zeros(len(metadata), bool)
    for place, text in enumerate(metadata.to_pylist()):
        held = json.loads(text or "{}")
        url = held.get("url") if isinstance(held, dict) else None
        if url:
            has_url[place] = True
            found.append(str(url).encode("utf-8", "surrogatepass"))
    return TextColumn.of(pa.array(found, pa.binary())), has_url


def _threads_of(engine: Engine) -> int:
    return engine.workers if isinstance(engine, Local) else 1


def _mark_repeats(
    runs: Sequence[Run], num_bits: int, num_places: int, path: Path, threads: int
) -> None:
    """Write a byte a place: does its hash stand earlier in the corpus?"""
    with open(
        path, "wb"
    ) as file:  # whole, as a full disk would kill whoever writes to a map of holes
        for at in range(0, num_places, ZEROS):
            file.write(bytes(min(ZEROS, num_places - at)))
    if not num_places:
        return
    marks = np.memmap(path, np.uint8, "r+", shape=num_places)

    def mark(part: int) -> None:
        for places, first in firsts_of_part(runs, part, num_bits):
            marks[places] = places != first

    Local(threads).map(mark, range(1 << num_bits), threads=True)
    marks.flush()  # another machine may read them
