"""Text that also stands in evaluation sets, found by runs of words; rules decide what goes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.artifacts import Attributes, AttributeTable, Documents
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.files import Shard
from pipeline.core.keys import Json
from pipeline.core.shards import ShardWriter, join_rows, shard_name
from pipeline.data.batch import Column, Spans, as_arrays
from pipeline.data.decontamination.overlap import (
    ANSWERS,
    HELD_WORDS,
    LINES,
    RUNS,
    Hashes,
    Places,
    Words,
    line_hashes,
    line_spans,
    paragraph_hashes,
    read_index,
    run_hashes,
    text_columns,
    word_spans,
    write_index,
)
from pipeline.data.document import attribute_schema
from pipeline.data.taggers import unicode_version
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
Starts = npt.NDArray[np.int32]  # and ends: a row of each
NO_LINES = np.empty((2, 0), np.int32)
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


def fingerprint() -> str:
    """What tells words and paragraphs apart: Unicode by Python, and its classes of characters."""
    return f"{unicode_version()}, {class_table_digest()}"


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
            "unicode": fingerprint(),
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
                writer.write(pa.table(_columns(rows), schema=schema))
                hits.write(pa.Table.from_pylist(found, schema=HIT))
        return writer.shard


def _hits_path(number: int) -> str:
    return f".hits-{shard_name(number)}"


class _Row(NamedTuple):
    """What is measured of a document: lines by their kind, (starts, ends), and runs."""

    lines: dict[str, Starts]
    num_runs: int
    fraction: float
    num_items: int


def _columns(rows: Sequence[_Row]) -> list[pa.Array]:
    """The columns of `COLUMNS`."""
    made: list[Column] = []
    for kind in (LINES, ANSWERS):
        counts = np.array([each.lines[kind].shape[1] for each in rows], np.int64)
        starts, ends = np.concatenate([each.lines[kind] for each in rows], axis=1)
        made += [Spans(starts, ends, counts), counts.astype(np.float64)]
    numbers = ([each.num_runs, each.fraction, each.num_items] for each in rows)
    made += list(np.array(list(numbers), np.float64).reshape(-1, 3).T)
    return as_arrays(made)


class _Finder:
    """Evaluation text, looked for in one document after the other."""

    def __init__(self, index: Path, min_words: int) -> None:
        self.min_words = min_words
        self.known, self.items = read_index(index)
        self.words = Words()

    def look(self, text: str) -> tuple[_Row, list[dict[str, Any]]]:
        """The row of a document, and a row of `hits.parquet` for each item that it hits."""
        hits = _Hits(len(self.items), self.min_words)
        lines = {LINES: self._paragraphs(text, hits), ANSWERS: NO_LINES}
        if len(self.known[ANSWERS].hashes):
            words, bounds = self.words.and_lines_of(text)
            lines[ANSWERS] = self._answers(text, words, bounds, hits)
        else:
            words = self.words.of(text)
        num_runs, num_inside = self._runs(words, hits)
        row = _Row(lines, num_runs, num_inside / max(1, len(words)), hits.num_items())
        return row, list(hits.rows(self.items, text, len(words)))

    def _runs(self, words: Hashes, hits: _Hits) -> tuple[int, int]:
        """How many runs of words are of evaluation text, and how many words are inside of them."""
        known, num, inside, end = self.known[RUNS], 0, 0, 0
        for first in range(0, len(words) - self.min_words + 1, HELD_WORDS):
            here = words[first : first + HELD_WORDS + self.min_words - 1]
            runs = run_hashes(here, self.min_words)
            starts = np.flatnonzero(known.has(runs))
            if not len(starts):
                continue
            for value, place, count in _alike(runs[starts]):
                named = hits.add(RUNS, known.items_of(value), count)
                hits.note_run(named, first + int(starts[place]))
            num += len(starts)
            inside += _covered(starts, self.min_words) - max(0, end - first - int(starts[0]))
            end = first + int(starts[-1]) + self.min_words
        return num, inside

    def _paragraphs(self, text: str, hits: _Hits) -> Starts:
        """The lines that are a paragraph of evaluation text; a word has a character at least."""
        if not len(self.known[LINES].hashes):
            return NO_LINES
        numbers, hashes = paragraph_hashes(text, self.min_words)
        found = self.known[LINES].has(hashes)
        return self._marked(LINES, text, numbers[found], hashes[found], hits)

    def _answers(self, text: str, words: Hashes, bounds: Places, hits: _Hits) -> Starts:
        """The short lines that are an answer of evaluation text."""
        numbers, values = [], []
        for first in range(0, len(bounds) - 1, HELD_WORDS):
            here = bounds[first : first + HELD_WORDS + 1]
            lengths = np.diff(here)
            places = np.flatnonzero((lengths > 0) & (lengths < self.min_words))
            hashes = line_hashes(words, here[places], lengths[places])
            found = self.known[ANSWERS].has(hashes)
            numbers.append(first + places[found])
            values.append(hashes[found])
        return self._marked(ANSWERS, text, np.concatenate(numbers), np.concatenate(values), hits)

    def _marked(self, kind: str, text: str, numbers: Places, hashes: Hashes, hits: _Hits) -> Starts:
        """The spans of lines that are known, by number and hash."""
        spans = line_spans(text, numbers) if len(numbers) else NO_LINES
        for value, place, count in _alike(hashes):
            named = hits.add(kind, self.known[kind].items_of(value), count)
            hits.note(named, (int(spans[0, place]), int(spans[1, place])))
        return spans


class _Hits:
    """What of one document stands in which evaluation items."""

    def __init__(self, num_items: int, min_words: int) -> None:
        self._num_items, self._min_words = num_items, min_words
        self._counts: dict[int, dict[str, int]] = {}
        self._first: dict[int, tuple[int, int]] = {}
        self._first_run: dict[int, int] = {}
        self._is_hit: npt.NDArray[np.bool_] | None = None  # once some are hit and not named

    def add(self, kind: str, items: Places, count: int) -> list[int]:
        """Count hits of items; gives those of them that are named."""
        if len(items) > MAX_ITEMS:
            if self._is_hit is None:
                self._is_hit = np.zeros(self._num_items, bool)
            self._is_hit[items] = True
        named: list[int] = items[:MAX_ITEMS].tolist()
        for item in named:
            counts = self._counts.setdefault(item, dict.fromkeys((RUNS, LINES, ANSWERS), 0))
            counts[kind] += count
        return named

    def note(self, items: Sequence[int], place: tuple[int, int]) -> None:
        """Note a place where items are hit: the first one counts."""
        for item in items:
            self._first[item] = min(place, self._first.get(item, place))

    def note_run(self, items: Sequence[int], word: int) -> None:
        """Note the number of the word that a run begins with."""
        for item in items:
            self._first_run[item] = min(word, self._first_run.get(item, word))

    def num_items(self) -> int:
        """How many items are hit, named or not."""
        if self._is_hit is None:
            return len(self._counts)
        self._is_hit[list(self._counts)] = True
        return int(self._is_hit.sum())

    def rows(self, items: pa.Table, text: str, num_words: int) -> Iterator[dict[str, Any]]:
        num_items, last = self.num_items(), self._min_words - 1
        asked = [word + more for word in self._first_run.values() for more in (0, last)]
        places = word_spans(text, num_words, asked) if asked else {}
        for item, word in self._first_run.items() if places else ():
            self.note([item], (places[word][0], places[word + last][1]))
        for item, counts in sorted(self._counts.items()):
            row: dict[str, Any] = {f"num_{kind}": count for kind, count in counts.items()}
            start, end = self._first.get(item, (None, None))
            excerpt = text[start:end][:EXCERPT] if end is not None else None
            named = {
                "item": items["id"][item].as_py(),
                "item_source": items["source"][item].as_py(),
            }
            yield {**row, **named, "num_items": num_items, "start": start, "text": excerpt}


def _alike(values: Hashes) -> Iterator[tuple[np.uint64, int, int]]:
    """Each value, the first place that has it, and how many do."""
    found, places, counts = np.unique(values, return_index=True, return_counts=True)
    yield from zip(found, places.tolist(), counts.tolist(), strict=True)


def _covered(starts: npt.NDArray[Any], length: int) -> int:
    """Words inside runs of `length` words that begin at `starts`, in order; overlaps count once."""
    return int(np.minimum(np.diff(starts), length).sum()) + length
