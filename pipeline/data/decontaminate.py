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
from pipeline.data.document import attribute_schema
from pipeline.data.overlap import (
    ANSWERS,
    HELD_WORDS,
    LINES,
    RUNS,
    Hashes,
    Places,
    Words,
    line_hashes,
    line_spans,
    read_index,
    run_hashes,
    text_columns,
    word_spans,
    write_index,
)
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
HITS = "hits.parquet"
HIT = pa.schema(
    [(name, pa.string()) for name in ("item", "item_source", "document", "source")]
    + [(f"num_{kind}", pa.int32()) for kind in ("overlaps", "paragraphs", "answers")]
    + [("start", pa.int32()), ("text", pa.string())]
)
EXCERPT = 200  # characters of a hit that are kept to look at
Starts = npt.NDArray[np.int32]  # and ends: a row of each
NO_LINES = np.empty((2, 0), np.int32)


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

    `hits.parquet`, beside the manifest, names which evaluation item is hit by which document: how
    often in each of these ways, the place of the first hit and the beginning of its text.

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
    index = out / ".index"
    index.mkdir(exist_ok=True)
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


def _columns(rows: Sequence[_Row]) -> list[pa.Array]:
    """The columns of `COLUMNS`."""
    made: list[Column] = []
    for kind in (LINES, ANSWERS):
        counts = np.array([each.lines[kind].shape[1] for each in rows], np.int64)
        starts, ends = np.concatenate([each.lines[kind] for each in rows], axis=1)
        made += [Spans(starts, ends, counts), counts.astype(np.float64)]
    made.append(np.array([each.num_runs for each in rows], np.float64))
    made.append(np.array([each.fraction for each in rows], np.float64))
    return as_arrays(made)


class _Finder:
    """Evaluation text, looked for in one document after the other."""

    def __init__(self, index: Path, min_words: int) -> None:
        self.min_words = min_words
        self.known, self.items = read_index(index)
        self.words = Words()

    def look(self, text: str) -> tuple[_Row, list[dict[str, Any]]]:
        """The row of a document, and a row of `hits.parquet` for each item that it hits."""
        bounds = None  # of lines, which are seldom asked for
        if len(self.known[ANSWERS].hashes):
            words, bounds = self.words.and_lines_of(text)
        else:
            words = self.words.of(text)
        hits = _Hits(self.min_words)
        num_runs, num_inside = self._runs(words, hits)
        if num_runs and bounds is None:
            del words
            words, bounds = self.words.and_lines_of(text)
        lines = dict.fromkeys((LINES, ANSWERS), NO_LINES)
        if bounds is not None:
            # a long line that stands there holds a run that stands there
            for kind in (LINES, ANSWERS) if num_runs else (ANSWERS,):
                lines[kind] = self._whole_lines(kind, text, words, bounds, hits)
        row = _Row(lines, num_runs, num_inside / max(1, len(words)))
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
                hits.add(RUNS, known.items_of(value), count)
                hits.note_run(known.items_of(value), first + int(starts[place]))
            num += len(starts)
            inside += _covered(starts, self.min_words) - max(0, end - first - int(starts[0]))
            end = first + int(starts[-1]) + self.min_words
        return num, inside

    def _whole_lines(
        self, kind: str, text: str, words: Hashes, bounds: Places, hits: _Hits
    ) -> Starts:
        """The long lines that are one of evaluation text, or the short ones that are an answer."""
        known, numbers, values = self.known[kind], [], []
        for first in range(0, len(bounds) - 1, HELD_WORDS):
            here = bounds[first : first + HELD_WORDS + 1]
            lengths = np.diff(here)
            is_long = lengths >= self.min_words
            places = np.flatnonzero(is_long if kind == LINES else ~is_long & (lengths > 0))
            wholes = line_hashes(words, here[places], lengths[places])
            found = known.has(wholes)
            numbers.append(first + places[found])
            values.append(wholes[found])
        spans = line_spans(text, np.concatenate(numbers))
        for value, place, count in _alike(np.concatenate(values)):
            hits.add(kind, known.items_of(value), count)
            hits.note(known.items_of(value), (int(spans[0, place]), int(spans[1, place])))
        return spans


class _Hits:
    """What of one document stands in which evaluation items."""

    def __init__(self, min_words: int) -> None:
        self._min_words = min_words
        self._counts: dict[int, dict[str, int]] = {}
        self._first: dict[int, tuple[int, int]] = {}
        self._first_run: dict[int, int] = {}

    def add(self, kind: str, items: Sequence[int], count: int) -> None:
        for item in items:
            counts = self._counts.setdefault(item, dict.fromkeys((RUNS, LINES, ANSWERS), 0))
            counts[kind] += count

    def note(self, items: Sequence[int], place: tuple[int, int]) -> None:
        """Note a place where items are hit: the first one counts."""
        for item in items:
            self._first[item] = min(place, self._first.get(item, place))

    def note_run(self, items: Sequence[int], word: int) -> None:
        """Note the number of the word that a run begins with."""
        for item in items:
            self._first_run[item] = min(word, self._first_run.get(item, word))

    def rows(
        self, items: Sequence[dict[str, str]], text: str, num_words: int
    ) -> Iterator[dict[str, Any]]:
        last = self._min_words - 1
        asked = [word + more for word in self._first_run.values() for more in (0, last)]
        places = word_spans(text, num_words, asked) if asked else {}
        for item, word in self._first_run.items() if places else ():
            self.note([item], (places[word][0], places[word + last][1]))
        for item, counts in sorted(self._counts.items()):
            row: dict[str, Any] = {f"num_{kind}": count for kind, count in counts.items()}
            start, end = self._first.get(item, (None, None))
            excerpt = text[start:end][:EXCERPT] if end is not None else None
            named = {"item": items[item]["id"], "item_source": items[item]["source"]}
            yield {**row, **named, "start": start, "text": excerpt}


def _alike(values: Hashes) -> Iterator[tuple[np.uint64, int, int]]:
    """Each value, the first place that has it, and how many do."""
    found, places, counts = np.unique(values, return_index=True, return_counts=True)
    yield from zip(found, places.tolist(), counts.tolist(), strict=True)


def _covered(starts: npt.NDArray[Any], length: int) -> int:
    """Words inside runs of `length` words that begin at `starts`, in order; overlaps count once."""
    return int(np.minimum(np.diff(starts), length).sum()) + length
