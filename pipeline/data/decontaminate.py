"""Text that also stands in evaluation sets, found by runs of words; rules decide what goes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
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
    read_index,
    run_hashes,
    text_columns,
    word_spans,
    write_index,
)
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
HITS = "hits.parquet"
HIT = pa.schema(
    [(name, pa.string()) for name in ("item", "item_source", "document", "source")]
    + [(f"num_{kind}", pa.int32()) for kind in ("overlaps", "paragraphs", "answers")]
    + [("start", pa.int32()), ("text", pa.string())]
)
EXCERPT = 200  # characters of a hit that are kept to look at


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
        bounds = None  # of lines, which are seldom asked for
        if len(self.known[ANSWERS].hashes):
            words, bounds = self.words.and_lines_of(text)
        else:
            words = self.words.of(text)
        runs = run_hashes(words, self.min_words)
        starts = np.flatnonzero(self.known[RUNS].has(runs))
        hits = _Hits()
        marked: dict[str, list[tuple[int, int]]] = {LINES: [], ANSWERS: []}
        if len(starts) and bounds is None:
            words, bounds = self.words.and_lines_of(text)
        if bounds is not None:
            # a long line that stands there holds a run that stands there
            for kind in (LINES, ANSWERS) if len(starts) else (ANSWERS,):
                marked[kind] = self._whole_lines(kind, text, words, bounds, hits)
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
        return row, list(hits.rows(self.items, text))

    def _whole_lines(
        self, kind: str, text: str, words: Hashes, bounds: Places, hits: _Hits
    ) -> list[tuple[int, int]]:
        """The long lines that are one of evaluation text, or the short ones that are an answer."""
        lengths = np.diff(bounds)
        is_long = lengths >= self.min_words
        places = np.flatnonzero(is_long if kind == LINES else ~is_long & (lengths > 0))
        wholes = line_hashes(words, bounds[places], lengths[places])
        found = np.flatnonzero(self.known[kind].has(wholes)).tolist()
        spans = list(paragraphs(text)) if found else []
        for number in found:
            hits.add(kind, self.known[kind].items_of(wholes[number]), spans[places[number]])
        return [spans[places[number]] for number in found]


class _Hits:
    """What of one document stands in which evaluation items."""

    def __init__(self) -> None:
        self._counts: dict[int, dict[str, int]] = {}
        self._first: dict[int, tuple[int, int]] = {}

    def add(self, kind: str, items: Sequence[int], place: tuple[int, int] | None) -> None:
        for item in items:
            counts = self._counts.setdefault(item, dict.fromkeys((RUNS, LINES, ANSWERS), 0))
            counts[kind] += 1
            if place is not None:
                self._first[item] = min(place, self._first.get(item, place))

    def rows(self, items: Sequence[dict[str, str]], text: str) -> Iterator[dict[str, Any]]:
        for item, counts in sorted(self._counts.items()):
            row: dict[str, Any] = {f"num_{kind}": count for kind, count in counts.items()}
            start, end = self._first.get(item, (None, None))
            excerpt = text[start:end][:EXCERPT] if end is not None else None
            named = {"item": items[item]["id"], "item_source": items[item]["source"]}
            yield {**row, **named, "start": start, "text": excerpt}


def _covered(starts: npt.NDArray[Any], length: int) -> int:
    """Words inside runs of `length` words that begin at `starts`, in order; overlaps count once."""
    if not len(starts):
        return 0
    return int(np.minimum(np.diff(starts), length).sum()) + length
