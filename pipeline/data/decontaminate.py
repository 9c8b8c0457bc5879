"""Text that also stands in evaluation sets, found by runs of words; rules decide what goes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from pipeline.core.artifacts import Attributes, AttributeTable, Documents
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.keys import Json
from pipeline.core.shards import ShardWriter, read_batches, shard_name
from pipeline.data.document import attribute_schema
from pipeline.data.text import paragraphs
from pipeline.store.memo import FileMemo

VERSION = "001"
NAME = "decontamination"
COLUMNS = {
    "paragraphs": "spans",
    "num_paragraphs": "number",
    "num_overlaps": "number",
    "overlap_fraction": "number",
}
INDEX = ".index.npy"
Hashes = npt.NDArray[np.uint64]
_WORDS = re.compile(r"\w+")
_BASE = 0x9E3779B97F4A7C15  # odd, so that no factor is lost modulo 2**64
MAX_KNOWN = 1 << 18  # words whose hash is kept at hand


def find_overlaps(
    documents: Documents,
    evaluation: Documents,
    *,
    min_words: int = 13,
    out: Path,
    engine: Engine = LOCAL,
    memo: FileMemo | None = None,
) -> Attributes:
    """Mark what of the documents stands in evaluation text: table `decontamination`.

    A word is a run of letters, digits and underscores, in lower case. `num_overlaps` counts the
    runs of `min_words` words that stand in some evaluation document, `overlap_fraction` is the
    share of the document's words inside them. `paragraphs` are the lines of at least `min_words`
    words that are a line of evaluation text, words and order; their score is 1 and `num_paragraphs`
    counts them.

    An evaluation document shorter than `min_words` words cannot be found. Runs are compared by
    64-bit hashes: one in 10^9 runs is found falsely where 10^10 are looked for. A shard that `memo`
    remembers under the same evaluation text is linked.

    Source: Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C (13 words);
    Magnusson et al. 2023, "Paloma", section 3.1 (paragraphs of 13 words).
    """
    if min_words < 1:
        raise ValueError(f"min_words is {min_words}; it must be at least 1")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    runs, lines = _index(evaluation, min_words)
    np.save(out / INDEX, runs, allow_pickle=False)
    np.save(out / f"{INDEX}.lines.npy", lines, allow_pickle=False)
    work = _FindInShard(documents, evaluation.content, min_words, out, memo)
    shards = engine.map(work, range(len(documents.shards)), label="decontaminate")
    for each in (INDEX, f"{INDEX}.lines.npy"):
        (out / each).unlink()
    table = AttributeTable(NAME, COLUMNS, shards)
    return Attributes.of(out, describes=documents.content, tables=[table])


@dataclass(frozen=True)
class _FindInShard:
    documents: Documents
    evaluation: str  # content digest
    min_words: int
    out: Path
    memo: FileMemo | None

    def __call__(self, number: int) -> Shard:
        if self.memo is None:
            return self._find(number)
        key = self._key(number)
        found = self.memo.fetch(key, self.out, self._path(number))
        if found is None:
            found = self._find(number)
            self.memo.keep(key, self.out, found)
        return found

    def _path(self, number: int) -> str:
        return f"{NAME}/{shard_name(number)}"

    def _key(self, number: int) -> dict[str, Json]:
        return {
            "decontaminate": VERSION,
            "evaluation": self.evaluation,
            "min_words": self.min_words,
            "shard": self.documents.shards[number].content,
        }

    def _find(self, number: int) -> Shard:
        runs: Hashes = np.load(self.out / INDEX, mmap_mode="r", allow_pickle=False)
        lines: Hashes = np.load(self.out / f"{INDEX}.lines.npy", allow_pickle=False)
        words = _Words()
        schema = attribute_schema(COLUMNS)
        shard = self.documents.shards[number]
        with ShardWriter(self.out, self._path(number), schema) as writer:
            for texts in _texts(self.documents, shard):
                rows = [self._row(text, words, runs, lines) for text in texts]
                writer.write(pa.Table.from_pylist(rows, schema=schema))
        return writer.shard

    def _row(self, text: str, words: _Words, runs: Hashes, lines: Hashes) -> dict[str, Any]:
        hashes = words.of(text)
        found = _member(run_hashes(hashes, self.min_words), runs)
        starts = np.flatnonzero(found)
        row: dict[str, Any] = {"paragraphs": [], "num_overlaps": float(len(starts))}
        row["overlap_fraction"] = _covered(starts, self.min_words) / max(1, len(hashes))
        if len(starts):  # a line that stands there holds a run that stands there
            for start, end in paragraphs(text):
                line = words.of(text[start:end])
                if len(line) >= self.min_words and _member(_whole(line), lines)[0]:
                    row["paragraphs"].append({"start": start, "end": end, "score": 1.0})
        row["num_paragraphs"] = float(len(row["paragraphs"]))
        return row


class _Words:
    """Hashes of a text's words; those seen lately are at hand."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, text: str) -> Hashes:
        known = self._known
        if len(known) > MAX_KNOWN:
            known.clear()
        words = _WORDS.findall(text.lower())
        for word in words:
            if word not in known:
                known[word] = xxhash.xxh3_64_intdigest(word.encode())
        return np.fromiter((known[word] for word in words), np.uint64, len(words))


def run_hashes(words: Hashes, length: int) -> Hashes:
    """A hash for each run of `length` words, by the place of its first; modulo 2**64."""
    count = len(words) - length + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    total = np.zeros(count, np.uint64)
    for place in range(length):
        total *= np.uint64(_BASE)
        total += words[place : place + count]
    return total ^ (total >> np.uint64(29))


def _whole(words: Hashes) -> Hashes:
    return run_hashes(words, len(words)) + np.uint64(len(words))


def _index(evaluation: Documents, min_words: int) -> tuple[Hashes, Hashes]:
    """Sorted hashes of the runs and of the long lines of evaluation text."""
    words = _Words()
    runs: list[Hashes] = [np.empty(0, np.uint64)]
    lines: list[Hashes] = [np.empty(0, np.uint64)]
    for shard in evaluation.shards:
        for texts in _texts(evaluation, shard):
            for text in texts:
                runs.append(run_hashes(words.of(text), min_words))
                for start, end in paragraphs(text):
                    line = words.of(text[start:end])
                    if len(line) >= min_words:
                        lines.append(_whole(line))
    return np.unique(np.concatenate(runs)), np.unique(np.concatenate(lines))


def _texts(documents: Documents, shard: Shard) -> Iterator[Sequence[str]]:
    for batch in read_batches(documents.root, shard, ["text"]):
        texts = batch[0].to_pylist()
        if None in texts:
            raise CorruptShard(documents.root / shard.path, texts.index(None), "has no text")
        yield texts


def _member(values: Hashes, ordered: Hashes) -> npt.NDArray[np.bool_]:
    if not len(ordered):
        return np.zeros(len(values), bool)
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.asarray(ordered[places] == values)


def _covered(starts: npt.NDArray[Any], length: int) -> int:
    """Words inside runs of `length` words that begin at `starts`, in order; overlaps count once."""
    if not len(starts):
        return 0
    return int(np.minimum(np.diff(starts), length).sum()) + length
