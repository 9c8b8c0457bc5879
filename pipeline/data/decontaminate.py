"""Text that also stands in evaluation sets, found by runs of words; rules decide what goes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
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

VERSION = "002"
NAME = "decontamination"
COLUMNS = {
    "paragraphs": "spans",
    "num_paragraphs": "number",
    "answers": "spans",
    "num_answers": "number",
    "num_overlaps": "number",
    "overlap_fraction": "number",
}
RUNS = ".runs.npy"
LINES = ".lines.npy"
ANSWERS = ".answers.npy"
Hashes = npt.NDArray[np.uint64]
_WORDS = re.compile(r"\w+")
_BASE = 0x9E3779B97F4A7C15  # odd, so that no factor is lost modulo 2**64
MIN_ANSWER = 3  # words; shorter answers, as "yes", stand everywhere
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
    counts them. `answers`, with `num_answers`, are the lines that are the whole answer of an
    evaluation conversation (a message of the assistant, or `chosen`) of 3 to `min_words - 1` words,
    which no run can find.

    Other evaluation text shorter than `min_words` words is not found. Runs are compared by
    64-bit hashes: one in 10^9 runs is found falsely where 10^10 are looked for. A shard that `memo`
    remembers under the same evaluation text is linked.

    Source: Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C (13 words);
    Magnusson et al. 2023, "Paloma", section 3.1 (paragraphs of 13 words).
    """
    if min_words < 1:
        raise ValueError(f"min_words is {min_words}; it must be at least 1")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for name, hashes in _index(evaluation, min_words).items():
        np.save(out / name, hashes, allow_pickle=False)
    work = _FindInShard(documents, evaluation.content, min_words, out, memo)
    shards = engine.map(work, range(len(documents.shards)), label="decontaminate")
    for name in (RUNS, LINES, ANSWERS):
        (out / name).unlink()
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
        runs, lines, answers = (
            np.load(self.out / name, mmap_mode="r", allow_pickle=False)
            for name in (RUNS, LINES, ANSWERS)
        )
        words = _Words()
        schema = attribute_schema(COLUMNS)
        shard = self.documents.shards[number]
        with ShardWriter(self.out, self._path(number), schema) as writer:
            for [texts] in _columns(self.documents, shard, ["text"]):
                rows = [self._row(text, words, runs, lines, answers) for text in texts]
                writer.write(pa.Table.from_pylist(rows, schema=schema))
        return writer.shard

    def _row(
        self, text: str, words: _Words, runs: Hashes, lines: Hashes, answers: Hashes
    ) -> dict[str, Any]:
        hashes = words.of(text)
        found = _member(run_hashes(hashes, self.min_words), runs)
        starts = np.flatnonzero(found)
        # a line that stands there holds a run that stands there
        wanted = {"paragraphs": lines if len(starts) else lines[:0], "answers": answers}
        marked: dict[str, list[dict[str, float]]] = {name: [] for name in wanted}
        for start, end in paragraphs(text) if any(map(len, wanted.values())) else ():
            line = words.of(text[start:end])
            for name, known in wanted.items():
                if (len(line) >= self.min_words) == (name == "paragraphs") and len(line):
                    if _member(_whole(line), known)[0]:
                        marked[name].append({"start": start, "end": end, "score": 1.0})
        row: dict[str, Any] = {**marked}
        row |= {f"num_{name}": float(len(spans)) for name, spans in marked.items()}
        row["num_overlaps"] = float(len(starts))
        row["overlap_fraction"] = _covered(starts, self.min_words) / max(1, len(hashes))
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


def _index(evaluation: Documents, min_words: int) -> dict[str, Hashes]:
    """Sorted hashes of the runs, the long lines and the short answers of evaluation text."""
    words = _Words()
    found: dict[str, list[Hashes]] = {n: [np.empty(0, np.uint64)] for n in (RUNS, LINES, ANSWERS)}
    for shard in evaluation.shards:
        for texts, metadata in _columns(evaluation, shard, ["text", "metadata"]):
            for text in texts:
                found[RUNS].append(run_hashes(words.of(text), min_words))
                for start, end in paragraphs(text):
                    line = words.of(text[start:end])
                    if len(line) >= min_words:
                        found[LINES].append(_whole(line))
            for answer in (each for told in metadata for each in _answers(told)):
                line = words.of(answer)
                if MIN_ANSWER <= len(line) < min_words:
                    found[ANSWERS].append(_whole(line))
    return {name: np.unique(np.concatenate(each)) for name, each in found.items()}


def _answers(metadata: str) -> Iterator[str]:
    """What is answered in a document's conversation, if it has one."""
    if '"messages"' not in metadata and '"chosen"' not in metadata:
        return
    told = json.loads(metadata)
    messages = told.get("messages")
    for each in messages if isinstance(messages, list) else []:
        if isinstance(each, dict) and each.get("role") == "assistant":
            yield str(each.get("content"))
    if isinstance(told.get("chosen"), str):
        yield told["chosen"]


def _columns(documents: Documents, shard: Shard, names: list[str]) -> Iterator[list[list[str]]]:
    for batch in read_batches(documents.root, shard, names):
        columns = [column.to_pylist() for column in batch]
        for name, column in zip(names, columns, strict=True):
            if None in column:
                raise CorruptShard(
                    documents.root / shard.path, column.index(None), f"has no {name}"
                )
        yield columns


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
