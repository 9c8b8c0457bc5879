"""Text that also stands in evaluation sets, found by runs of words; rules decide what goes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.artifacts import Attributes, AttributeTable, Documents
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.files import Shard
from pipeline.core.keys import Json
from pipeline.core.shards import ShardWriter, join_rows, shard_name
from pipeline.data.document import attribute_schema
from pipeline.data.overlap import (
    ANSWERS,
    LINES,
    RUNS,
    Hashes,
    Places,
    Words,
    line_hashes,
    paragraph_hashes,
    read_index,
    run_hashes,
    text_columns,
    word_spans,
    write_index,
)
from pipeline.data.taggers import unicode_version
from pipeline.data.text import paragraphs
from pipeline.data.word_classes import class_table_digest
from pipeline.store.memo import FileMemo

VERSION = "003"
NAME = "decontamination"
COLUMNS = {
    "paragraphs": "spans",
    "num_paragraphs": "number",
    "answers": "spans",
    "num_answers": "number",
    "num_overlaps": "number",
    "overlap_fraction": "number",
    "num_items": "number",
}
HITS = "hits.parquet"
HIT = pa.schema(
    [(name, pa.string()) for name in ("item", "item_source", "document", "source")]
    + [(f"num_{kind}", pa.int32()) for kind in ("overlaps", "paragraphs", "answers", "items")]
    + [("start", pa.int32()), ("text", pa.string())]
)
EXCERPT = 200  # characters of a hit that are kept to look at
MAX_ITEMS = 100  # items that are named for what all of them have, the first ones


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

    `paragraphs`, which `num_paragraphs` counts, are Paloma's: lines that are, character by
    character, a line of evaluation text, of at least `min_words` words by Unicode's annex 29
    (punctuation is a word, white space is none) and not all of punctuation, white space and symbols
    as emoji are. A span has the newline too, and a score of 1.

    Beside them stands what Paloma's rule does not see. A word is then a run of letters, digits and
    underscores, in lower case: `num_overlaps` counts the runs of `min_words` words that stand in
    some evaluation document, wherever its lines end, and `overlap_fraction` is the share of the
    document's words inside them. `answers`, with `num_answers`, are the lines whose words are the
    whole answer of an evaluation conversation (a message of the assistant, or `chosen`) of 3 to
    `min_words - 1` words. Other evaluation text shorter than `min_words` words is not found.

    `hits.parquet`, beside the manifest, names which evaluation item is hit by which document: how
    often in each of these ways, the place of the first hit and the beginning of its text. Of what
    stands in more than 100 items the first 100 are named; `num_items` counts all that a document
    hits. A shard that `memo` remembers under the same evaluation text is linked.

    Source: Magnusson et al. 2023, "Paloma", section 3.1 (paragraphs); allenai/dolma,
        `configs/dolma-v1_5/decontamination` and `dolma dedupe` 1.2.1, which it runs; Brown et al.
        2020, "Language Models are Few-Shot Learners", appendix C (runs of 13 words).
    Differs: paragraphs are compared by 64-bit hashes, of which one in 10^9 is found falsely where
        10^10 are looked for, and not by a Bloom filter (one in 10^5 for v1.5); Unicode may be newer
        than that of `uniseg`; a last newline is in the span, which there, in a text of ASCII alone,
        it is not. There the whole document goes, and code is exempt: here, rules decide.
    """
    if min_words < 1:
        raise ValueError(f"min_words is {min_words}; it must be at least 1")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    index = out / ".index"
    shutil.rmtree(index, ignore_errors=True)  # of a run that was killed while it wrote
    index.mkdir()
    write_index(evaluation, min_words, index)
    work = _FindInShard(documents, evaluation.content, min_words, out, memo)
    numbers = range(len(documents.shards))
    shards = engine.map(work, numbers, label="decontaminate")
    join_rows(out, HITS, HIT, [_hits_path(number) for number in numbers])
    shutil.rmtree(index)
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
        paths = [f"{NAME}/{shard_name(number)}", _hits_path(number)]
        if self.memo is None:
            return self._find(number, paths)
        key = self._key(number)
        note = self.memo.note(key)
        try:
            known = Shard(**{**note, "path": paths[0]})
        except TypeError:
            known = None
        if known is None or not self.memo.place(key, self.out, paths):
            known = self._find(number, paths)
            self.memo.keep_files(key, self.out, paths, asdict(known))
        return known

    def _key(self, number: int) -> dict[str, Json]:
        return {
            "decontaminate": VERSION,
            "evaluation": self.evaluation,
            "min_words": self.min_words,
            "shard": self.documents.shards[number].content,
            "unicode": [unicode_version(), class_table_digest()],
        }

    def _find(self, number: int, paths: list[str]) -> Shard:
        finder = _Finder(self.out / ".index", self.min_words)
        schema = attribute_schema(COLUMNS)
        shard = self.documents.shards[number]
        with (
            ShardWriter(self.out, paths[0], schema) as writer,
            ShardWriter(self.out, paths[1], HIT) as hits,
        ):
            for columns in text_columns(self.documents, shard, ["text", "id", "source"]):
                rows, found = [], []
                for text, id, source in zip(*columns, strict=True):
                    row, named = finder.look(text)
                    rows.append(row)
                    found += [{**each, "document": id, "source": source} for each in named]
                writer.write(pa.Table.from_pylist(rows, schema=schema))
                hits.write(pa.Table.from_pylist(found, schema=HIT))
        return writer.shard


def _hits_path(number: int) -> str:
    return f".hits-{shard_name(number)}"


class _Finder:
    """Evaluation text, looked for in one document after the other."""

    def __init__(self, index: Path, min_words: int) -> None:
        self.min_words = min_words
        self.known, self.items = read_index(index)
        self.words = Words()

    def look(self, text: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The row of a document, and a row of `hits.parquet` for each item that it hits."""
        hits = _Hits(len(self.items))
        marked = {LINES: self._paragraphs(text, hits), ANSWERS: []}
        if len(self.known[ANSWERS].hashes):
            words, bounds = self.words.and_lines_of(text)
            marked[ANSWERS] = self._answers(text, words, bounds, hits)
        else:
            words = self.words.of(text)
        runs = run_hashes(words, self.min_words)
        starts = np.flatnonzero(self.known[RUNS].has(runs))
        if len(starts):
            places = word_spans(text, len(words))
            for start in starts.tolist():
                last = start + self.min_words - 1
                place = (places[start][0], places[last][1]) if places else None
                hits.add(RUNS, self.known[RUNS].items_of(runs[start]), place)
        row: dict[str, Any] = {
            kind: [{"start": start, "end": end, "score": 1.0} for start, end in found]
            for kind, found in marked.items()
        }
        row |= {f"num_{kind}": float(len(found)) for kind, found in marked.items()}
        row["num_overlaps"] = float(len(starts))
        row["overlap_fraction"] = _covered(starts, self.min_words) / max(1, len(words))
        row["num_items"] = float(hits.num_items())
        return row, list(hits.rows(self.items, text))

    def _paragraphs(self, text: str, hits: _Hits) -> list[tuple[int, int]]:
        """The lines that are a paragraph of evaluation text; a word has a character at least."""
        if not len(self.known[LINES].hashes):
            return []
        numbers, hashes = paragraph_hashes(text, self.min_words)
        return self._marked(LINES, text, np.array(numbers, np.int64), hashes, hits)

    def _answers(
        self, text: str, words: Hashes, bounds: Places, hits: _Hits
    ) -> list[tuple[int, int]]:
        """The short lines that are an answer of evaluation text."""
        lengths = np.diff(bounds)
        numbers = np.flatnonzero((lengths > 0) & (lengths < self.min_words))
        hashes = line_hashes(words, bounds[numbers], lengths[numbers])
        return self._marked(ANSWERS, text, numbers, hashes, hits)

    def _marked(
        self, kind: str, text: str, numbers: Places, hashes: Hashes, hits: _Hits
    ) -> list[tuple[int, int]]:
        """Of some lines, by number and hash, the spans of those that are known."""
        found = np.flatnonzero(self.known[kind].has(hashes)).tolist()
        every = list(paragraphs(text)) if found else []
        spans = [every[numbers[place]] for place in found]
        for place, span in zip(found, spans, strict=True):
            hits.add(kind, self.known[kind].items_of(hashes[place]), span)
        return spans


class _Hits:
    """What of one document stands in which evaluation items."""

    def __init__(self, num_items: int) -> None:
        self._num_items = num_items
        self._counts: dict[int, dict[str, int]] = {}
        self._first: dict[int, tuple[int, int]] = {}
        self._is_hit: npt.NDArray[np.bool_] | None = None  # once some are hit and not named

    def add(self, kind: str, items: Places, place: tuple[int, int] | None) -> None:
        if len(items) > MAX_ITEMS:
            if self._is_hit is None:
                self._is_hit = np.zeros(self._num_items, bool)
            self._is_hit[items] = True
        for item in items[:MAX_ITEMS].tolist():
            counts = self._counts.setdefault(item, dict.fromkeys((RUNS, LINES, ANSWERS), 0))
            counts[kind] += 1
            if place is not None:
                self._first[item] = min(place, self._first.get(item, place))

    def num_items(self) -> int:
        """How many items are hit, named or not."""
        if self._is_hit is None:
            return len(self._counts)
        self._is_hit[list(self._counts)] = True
        return int(self._is_hit.sum())

    def rows(self, items: pa.Table, text: str) -> Iterator[dict[str, Any]]:
        num_items = self.num_items()
        for item, counts in sorted(self._counts.items()):
            row: dict[str, Any] = {f"num_{kind}": count for kind, count in counts.items()}
            start, end = self._first.get(item, (None, None))
            excerpt = text[start:end][:EXCERPT] if end is not None else None
            named = {
                "item": items["id"][item].as_py(),
                "item_source": items["source"][item].as_py(),
            }
            yield {**row, **named, "num_items": num_items, "start": start, "text": excerpt}


def _covered(starts: npt.NDArray[Any], length: int) -> int:
    """Words inside runs of `length` words that begin at `starts`, in order; overlaps count once."""
    if not len(starts):
        return 0
    return int(np.minimum(np.diff(starts), length).sum()) + length
