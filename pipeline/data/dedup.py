"""Exact duplicates: what stands earlier in the corpus is marked, whatever the number of workers.

Two passes over the shards. The first hashes; between them the hashes are sorted, a part of their
range at a time, to find the first of each; the second writes the marks. Hashes have 128 bits, so
two texts of one hash do not happen.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from pipeline.core.artifacts import Attributes, AttributeTable, Documents
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.shards import ShardWriter, read_batches, shard_name
from pipeline.data.document import attribute_schema
from pipeline.data.text import paragraphs

By = Literal["document", "paragraph", "url"]
COLUMNS: dict[str, dict[str, str]] = {
    "document": {"duplicate_document": "number"},
    "paragraph": {"duplicate_paragraphs": "spans", "duplicate_paragraph_fraction": "number"},
    "url": {"duplicate_url": "number"},
}
NAME = "dedup"
KEY = np.dtype([("high", "<u8"), ("low", "<u8")])
MAX_SORTED = 1 << 23  # hashes sorted at a time: 250 MB
Keys = npt.NDArray[Any]


def deduplicate(
    documents: Documents, *, by: Sequence[By], out: Path, engine: Engine = LOCAL
) -> Attributes:
    """Mark each document, URL or paragraph that stands earlier in the corpus: table `dedup`.

    The first in corpus order is never marked. A paragraph is a line with its newline, compared
    without it; blank ones do not count. `duplicate_document` and `duplicate_url` are 0 or 1; a
    document without `metadata.url` is no duplicate by URL. `duplicate_paragraphs` are spans of
    score 1, `duplicate_paragraph_fraction` the share of the characters that they cover.

    Memory does not grow with the corpus, but for a byte a hash; hashes stand in `out` meanwhile.

    Source: Soldaini et al. 2024, "Dolma", section 4.1.3; allenai/dolma, `dolma dedupe`.
    Differs: exact, where Dolma's Bloom filter has false positives and depends on its workers.
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
    engine.map(_HashShard(documents, wanted, scratch), numbers, label="dedup: hash")
    for each in wanted:
        _mark_repeats([scratch / f"{each}-{number}" for number in numbers])
    shards = engine.map(_MarkShard(documents, wanted, scratch, out), numbers, label="dedup: mark")
    shutil.rmtree(scratch)
    table = AttributeTable(NAME, columns_by(wanted), shards)
    return Attributes.of(out, describes=documents.content, tables=[table])


def columns_by(by: Sequence[str]) -> dict[str, str]:
    """The columns of table `dedup` for what is compared."""
    return {name: kind for each in by for name, kind in COLUMNS.get(each, {}).items()}


@dataclass(frozen=True)
class _HashShard:
    """Pass 1: the hashes of a shard, one file for each of what is compared."""

    documents: Documents
    by: list[str]
    scratch: Path

    def __call__(self, number: int) -> None:
        files = {each: open(self.scratch / f"{each}-{number}.keys", "wb") for each in self.by}
        try:
            for batch in _rows(self.documents, number, self.by):
                for each, file in files.items():
                    for text, metadata in batch:
                        for key in _texts(each, text, metadata):
                            file.write(xxhash.xxh3_128_digest(key.encode()))
        finally:
            for file in files.values():
                file.close()


@dataclass(frozen=True)
class _MarkShard:
    """Pass 2: the table of a shard from the marks of its hashes."""

    documents: Documents
    by: list[str]
    scratch: Path
    out: Path

    def __call__(self, number: int) -> Shard:
        marks = {each: _Marks(self.scratch / f"{each}-{number}.marks") for each in self.by}
        schema = attribute_schema(columns_by(self.by))
        with ShardWriter(self.out, f"{NAME}/{shard_name(number)}", schema) as writer:
            for batch in _rows(self.documents, number, self.by):
                rows = [self._row(text, metadata, marks) for text, metadata in batch]
                writer.write(pa.Table.from_pylist(rows, schema=schema))
        return writer.shard

    def _row(self, text: str, metadata: str, marks: dict[str, _Marks]) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for each in ("document", "url"):
            if each in marks:
                num = len(list(_texts(each, text, metadata)))
                row[f"duplicate_{each}"] = float(any(marks[each].take(num)))
        if "paragraph" in marks:
            spans = [(start, end) for start, end, _ in _paragraphs(text)]
            found = [
                {"start": start, "end": end, "score": 1.0}
                for (start, end), marked in zip(
                    spans, marks["paragraph"].take(len(spans)), strict=True
                )
                if marked
            ]
            covered = sum(span["end"] - span["start"] for span in found)
            row["duplicate_paragraphs"] = found
            row["duplicate_paragraph_fraction"] = covered / len(text) if text else 0.0
        return row


class _Marks:
    """The marks of a shard's hashes, read in their order."""

    def __init__(self, path: Path) -> None:
        self._marks = np.fromfile(path, dtype=np.uint8)
        self._place = 0

    def take(self, num: int) -> npt.NDArray[Any]:
        self._place += num
        return self._marks[self._place - num : self._place]


def _rows(documents: Documents, number: int, by: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    columns = ["text", "metadata"] if "url" in by else ["text"]
    for batch in read_batches(documents.root, documents.shards[number], columns):
        texts = batch["text"].to_pylist()
        if None in texts:
            path = documents.root / documents.shards[number].path
            raise CorruptShard(path, texts.index(None), "has no text")
        metadata = batch["metadata"].to_pylist() if "url" in by else [""] * len(texts)
        yield list(zip(texts, metadata, strict=True))


def _texts(by: str, text: str, metadata: str) -> Iterator[str]:
    """What of a document is hashed."""
    if by == "document":
        yield text
    elif by == "url":
        url = json.loads(metadata or "{}").get("url")
        if url:
            yield str(url)
    else:
        for _, _, paragraph in _paragraphs(text):
            yield paragraph


def _paragraphs(text: str) -> Iterator[tuple[int, int, str]]:
    for start, end in paragraphs(text):
        paragraph = text[start:end].removesuffix("\n")
        if paragraph and not paragraph.isspace():
            yield start, end, paragraph


def _mark_repeats(names: Sequence[Path]) -> None:
    """Write `<name>.marks`, a byte a hash of `<name>.keys`: does it stand earlier in the order?"""
    keys = [_mapped(name.with_name(name.name + ".keys")) for name in names]
    marks = [np.zeros(len(each), dtype=np.uint8) for each in keys]
    total = sum(len(each) for each in keys)
    num_parts = max(1, -(-total // MAX_SORTED))
    width = -(-(1 << 64) // num_parts)
    for part in range(num_parts):
        low, high = part * width, min((part + 1) * width, 1 << 64) - 1
        chosen = [
            np.flatnonzero((each["high"] >= np.uint64(low)) & (each["high"] <= np.uint64(high)))
            for each in keys
        ]
        held = [each[places] for each, places in zip(keys, chosen, strict=True)]
        if not held:
            continue
        every = np.concatenate(held)
        order = np.lexsort((every["low"], every["high"]))  # stable: equals stay in corpus order
        ordered = every[order]
        repeated = np.zeros(len(every), dtype=bool)
        repeated[order[1:]] = ordered[1:] == ordered[:-1]
        at = 0
        for mark, places in zip(marks, chosen, strict=True):
            mark[places] = repeated[at : at + len(places)]
            at += len(places)
    for name, mark in zip(names, marks, strict=True):
        mark.tofile(name.with_name(name.name + ".marks"))


def _mapped(path: Path) -> Keys:
    if path.stat().st_size == 0:
        return np.empty(0, dtype=KEY)
    return np.memmap(path, dtype=KEY, mode="r")
