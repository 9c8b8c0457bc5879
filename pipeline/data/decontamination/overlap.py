"""Evaluation text as hashes of its runs of words, its paragraphs and its short answers.

Each hash knows the evaluation items that it comes from.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import regex
import xxhash

from pipeline.core.artifacts import Documents
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.shards import read_batches
from pipeline.data.batch import Spans, Texts
from pipeline.data.taggers.unicode_words import UnicodeWords
from pipeline.data.text import paragraphs, pieces

RUNS, LINES, ANSWERS = KINDS = ("overlaps", "paragraphs", "answers")
ITEMS = "items.arrow"
MIN_ANSWER = 3  # words; shorter answers, as "yes", stand everywhere
MAX_KNOWN = 1 << 18  # words whose hash is kept at hand
HELD_WORDS = 1 << 18  # of which copies are held at a time
PART_BYTES = 16 << 20  # of evaluation text whose hashes are sorted together
HELD_PAIRS = 1 << 21  # of hashes and items that are held before they are written
PAIR = np.dtype([("hash", np.uint64), ("item", np.int64)])
Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.integer[Any]]
NOTHING: Hashes = np.empty(0, np.uint64)
NEWLINE = xxhash.xxh3_64_intdigest(b"\n")  # which is no word
_WORDS = re.compile(r"\w+")
_WORDS_AND_ENDS = re.compile(r"\w+|\n")
# Dolma's of a paragraph that is "all_punct", which takes time by the power of 2 there
_NO_WORDS = regex.compile(
    "[[:punct:]\\s\U0001f300-\U0001f64f\U0001f680-\U0001f6ff\u2600-\u26ff\u2700-\u27bf]*"
)
_BASE = 0x9E3779B97F4A7C15  # odd, so that no factor is lost modulo 2**64


class Words:
    """Hashes of a text's words; those seen lately are at hand.

    A word is a run of letters, digits and underscores, in lower case.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, text: str) -> Hashes:
        """The hash of each word."""
        found = [self._hashes(_WORDS.findall(piece.lower())) for piece in pieces(text)]
        return _joined(found)

    def and_lines_of(self, text: str) -> tuple[Hashes, Places]:
        """The hash of each word, and where each line begins among them; last, how many there are.

        What follows the last newline is a line, if only of no words.
        """
        found: list[Hashes] = []
        bounds = [np.zeros(1, np.int32)]
        num_words = 0
        for piece in pieces(text):
            hashes = self._hashes(_WORDS_AND_ENDS.findall(piece.lower()))
            is_end = hashes == NEWLINE
            ends = np.flatnonzero(is_end)
            found.append(hashes[~is_end])
            bounds.append((num_words + ends - np.arange(len(ends))).astype(np.int32))
            num_words += len(found[-1])
        words = _joined(found)
        found.clear()
        return words, _joined([*bounds, np.array([num_words], np.int32)])

    def _hashes(self, found: list[str]) -> Hashes:
        known = self._known
        if len(known) > MAX_KNOWN:
            known.clear()
        for word in found:
            if word not in known:
                known[word] = xxhash.xxh3_64_intdigest(word.encode())
        return np.fromiter((known[word] for word in found), np.uint64, len(found))


def _joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def word_spans(text: str, count: int, asked: Sequence[int]) -> dict[int, tuple[int, int]]:
    """The places of some of a text's words, by number; none where lower case has other words."""
    wanted, places, found = set(asked), {}, 0
    for number, each in enumerate(_WORDS.finditer(text)):
        found += 1
        if number in wanted:
            places[number] = each.span()
    return places if found == count else {}


def line_spans(text: str, numbers: Places) -> npt.NDArray[np.int32]:
    """The places of some of a text's lines, by their numbers in order: starts and ends."""
    spans = np.empty((2, len(numbers)), np.int32)
    found = 0
    for number, span in enumerate(paragraphs(text)):
        if found == len(numbers):
            break
        if number == numbers[found]:
            spans[:, found] = span
            found += 1
    return spans


def run_hashes(words: Hashes, length: int) -> Hashes:
    """A hash for each run of `length` words, by the place of its first; modulo 2**64."""
    count = len(words) - length + 1
    if count <= 0:
        return NOTHING
    total = np.zeros(count, np.uint64)
    for place in range(length):
        total *= np.uint64(_BASE)
        total += words[place : place + count]
    return total ^ (total >> np.uint64(29))


def line_hashes(words: Hashes, starts: Places, lengths: Places) -> Hashes:
    """The hash of all words of each of some lines: `words[start : start + length]`."""
    hashes = np.empty(len(starts), np.uint64)
    for length in np.unique(lengths).tolist():
        here = np.flatnonzero(lengths == length)
        step = max(1, HELD_WORDS // max(1, length))
        for at in range(0, len(here), step):
            some = here[at : at + step]
            total = np.zeros(len(some), np.uint64)
            for first in range(0, length, HELD_WORDS):
                powers = np.full(min(HELD_WORDS, length - first) + 1, _BASE, np.uint64)
                powers[0] = 1
                powers = np.cumprod(powers)[::-1]
                places = starts[some][:, None] + np.arange(first, first + len(powers) - 1)
                total *= powers[0]
                total += (words[places] * powers[1:]).sum(1, np.uint64)
            hashes[some] = (total ^ (total >> np.uint64(29))) + np.uint64(length)
    return hashes


def paragraph_hashes(text: str, min_characters: int) -> tuple[Places, Hashes]:
    """The numbers of the lines that have so many characters, and the hash of each, as it stands."""
    numbers, hashes = array("i"), array("Q")
    for number, (start, end) in enumerate(paragraphs(text)):
        if end - start >= min_characters:
            line = text[start:end].removesuffix("\n")
            if len(line) >= min_characters:
                numbers.append(number)
                hashes.append(xxhash.xxh3_64_intdigest(line.encode()))
    return np.frombuffer(numbers, np.int32), np.frombuffer(hashes, np.uint64)


def evaluated_paragraphs(texts: list[str], min_words: int) -> Iterator[Hashes]:
    """Of each text, the hashes of the lines of so many words that are not all punctuation."""
    spans = UnicodeWords().measure_all(Texts.of(pa.array(texts, pa.string())))["paragraphs"]
    assert isinstance(spans, Spans) and spans.scores is not None
    bounds = np.concatenate(([0], np.cumsum(spans.counts)))
    for text, first, last in zip(texts, bounds[:-1], bounds[1:], strict=True):
        places = first + np.flatnonzero(spans.scores[first:last] >= min_words)
        lines = [text[spans.starts[each] : spans.ends[each]].removesuffix("\n") for each in places]
        yield _whole([line for line in lines if not _NO_WORDS.fullmatch(line)])


def _whole(lines: list[str]) -> Hashes:
    hashes = (xxhash.xxh3_64_intdigest(line.encode()) for line in lines)
    return np.fromiter(hashes, np.uint64, len(lines))


@dataclass(frozen=True)
class Known:
    """Sorted hashes, each with the items it comes from: `items[starts[k]:starts[k + 1]]`."""

    hashes: Hashes
    starts: Places
    items: Places

    def has(self, values: Hashes) -> npt.NDArray[np.bool_]:
        """Which of some hashes are known."""
        if not len(self.hashes):
            return np.zeros(len(values), bool)
        places = np.minimum(np.searchsorted(self.hashes, values), len(self.hashes) - 1)
        return np.asarray(self.hashes[places] == values)

    def items_of(self, value: np.uint64) -> Places:
        """The items that a known hash comes from, in the order of the evaluation text."""
        place = int(np.searchsorted(self.hashes, value))
        return self.items[self.starts[place] : self.starts[place + 1]]


def write_index(evaluation: Documents, min_words: int, folder: Path) -> None:
    """Write the hashes of evaluation text where `read_index` finds them.

    Memory holds a part of the hashes at a time, those of some 16 MB of text; all of them are on
    disk, up to 40 bytes a word while they are sorted and 24 from then on.
    """
    words, items = Words(), 0
    parts = 1 + evaluation.num_text_bytes // PART_BYTES
    found = {kind: _Pairs(folder, kind, parts) for kind in KINDS}
    schema = pa.schema([(name, pa.string()) for name in ("id", "source")])
    with pa.OSFile(str(folder / ITEMS), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for shard in evaluation.shards:
            names = ["text", "metadata", "id", "source"]
            for columns in text_columns(evaluation, shard, names):
                writer.write_table(pa.table(columns[2:], schema=schema))
                lines = evaluated_paragraphs(columns[0], min_words)
                for text, metadata, hashes in zip(*columns[:2], lines, strict=True):
                    found[RUNS].add(run_hashes(words.of(text), min_words), items)
                    found[LINES].add(hashes, items)
                    for answer in map(words.of, _answers(metadata)):
                        if MIN_ANSWER <= len(answer) < min_words:
                            whole = np.array([len(answer)])
                            found[ANSWERS].add(line_hashes(answer, np.array([0]), whole), items)
                    items += 1
    for pairs in found.values():
        pairs.sort()


class _Pairs:
    """Hashes and the items that they come from, on disk in parts by the hash, then sorted."""

    def __init__(self, folder: Path, kind: str, parts: int) -> None:
        self._files = {name: folder / f"{kind}-{name}" for name in ("hashes", "starts", "items")}
        self._parts = [folder / f"{kind}-{number}.part" for number in range(parts)]
        self._held: list[npt.NDArray[Any]] = []
        self._num_held = 0

    def add(self, hashes: Hashes, item: int) -> None:
        pairs = np.empty(len(hashes), PAIR)
        pairs["hash"], pairs["item"] = hashes, item
        self._held.append(pairs)
        self._num_held += len(pairs)
        if self._num_held >= HELD_PAIRS:
            self._flush()

    def _flush(self) -> None:
        pairs = np.concatenate([np.empty(0, PAIR), *self._held])
        part = (pairs["hash"] >> np.uint64(32)) * np.uint64(len(self._parts)) >> np.uint64(32)
        order = np.argsort(part, kind="stable")
        bounds = np.searchsorted(part[order], np.arange(len(self._parts) + 1))
        for number, path in enumerate(self._parts):
            with open(path, "ab") as file:
                file.write(pairs[order[bounds[number] : bounds[number + 1]]].tobytes())
        self._held, self._num_held = [], 0

    def sort(self) -> None:
        """Write what `read_index` reads; each pair once."""
        self._flush()
        num_pairs = 0
        with ExitStack() as stack:
            files = {n: stack.enter_context(open(path, "wb")) for n, path in self._files.items()}
            for path in self._parts:
                pairs = np.fromfile(path, PAIR)
                path.unlink()
                pairs = pairs[np.lexsort((pairs["item"], pairs["hash"]))]
                new = np.ones(len(pairs), bool)
                new[1:] = pairs[1:] != pairs[:-1]
                pairs = pairs[new]
                unique, starts = np.unique(pairs["hash"], return_index=True)
                files["hashes"].write(unique.tobytes())
                files["starts"].write((num_pairs + starts).astype(np.int64).tobytes())
                files["items"].write(pairs["item"].tobytes())
                num_pairs += len(pairs)
            files["starts"].write(np.array([num_pairs], np.int64).tobytes())


def read_index(folder: Path) -> tuple[dict[str, Known], pa.Table]:
    """What is known by its kind, and the `id` and `source` of each item; all as memory maps."""

    def held(kind: str, name: str, dtype: type[Any]) -> npt.NDArray[Any]:
        path = folder / f"{kind}-{name}"
        return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)

    known = {
        kind: Known(
            held(kind, "hashes", np.uint64),
            held(kind, "starts", np.int64),
            held(kind, "items", np.int64),
        )
        for kind in KINDS
    }
    return known, pa.ipc.open_file(pa.memory_map(str(folder / ITEMS))).read_all()


def text_columns(
    documents: Documents, shard: Shard, names: Sequence[str]
) -> Iterator[list[list[str]]]:
    """Columns of a shard, batch by batch.

    Raises:
        CorruptShard: a value is missing.
    """
    for batch in read_batches(documents.root, shard, list(names)):
        columns = [batch[name].to_pylist() for name in names]
        for name, column in zip(names, columns, strict=True):
            if None in column:
                path = documents.root / shard.path
                raise CorruptShard(path, column.index(None), f"has no {name}")
        yield columns


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
