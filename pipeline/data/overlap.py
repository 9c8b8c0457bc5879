"""Evaluation text as hashes of its runs of words, its long lines and its short answers.

Each hash knows the evaluation items that it comes from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from pipeline.core.artifacts import Documents
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.shards import read_batches
from pipeline.data.text import paragraphs, pieces

RUNS, LINES, ANSWERS = KINDS = ("overlaps", "paragraphs", "answers")
ITEMS = "items.parquet"
MIN_ANSWER = 3  # words; shorter answers, as "yes", stand everywhere
MAX_ITEMS = 100  # items that are named for what all of them have, the first ones
MAX_KNOWN = 1 << 18  # words whose hash is kept at hand
HELD_WORDS = 1 << 18  # of which copies are held at a time
Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.integer[Any]]
NOTHING: Hashes = np.empty(0, np.uint64)
NEWLINE = xxhash.xxh3_64_intdigest(b"\n")  # which is no word
_WORDS = re.compile(r"\w+")
_WORDS_AND_ENDS = re.compile(r"\w+|\n")
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
        return _joined(found), _joined([*bounds, np.array([num_words], np.int32)])

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


def line_spans(text: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
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

    def items_of(self, value: np.uint64) -> list[int]:
        """The first items that a known hash comes from, in the order of the evaluation text."""
        place = int(np.searchsorted(self.hashes, value))
        found: list[int] = self.items[self.starts[place] : self.starts[place + 1]].tolist()
        return found[:MAX_ITEMS]


def write_index(evaluation: Documents, min_words: int, folder: Path) -> None:
    """Write the hashes of evaluation text where `read_index` finds them."""
    words, items = Words(), 0
    found: dict[str, list[Hashes]] = {kind: [] for kind in KINDS}
    owners: dict[str, list[npt.NDArray[np.int64]]] = {kind: [] for kind in KINDS}
    schema = pa.schema([(name, pa.string()) for name in ("id", "source")])

    def note(kind: str, hashes: Hashes) -> None:
        found[kind].append(hashes)
        owners[kind].append(np.full(len(hashes), items, np.int64))

    with pq.ParquetWriter(folder / ITEMS, schema) as writer:
        for shard in evaluation.shards:
            names = ["text", "metadata", "id", "source"]
            for columns in text_columns(evaluation, shard, names):
                writer.write_table(pa.table(columns[2:], schema=schema))
                for text, metadata in zip(*columns[:2], strict=True):
                    hashes, bounds = words.and_lines_of(text)
                    note(RUNS, run_hashes(hashes, min_words))
                    lengths = np.diff(bounds)
                    long = lengths >= min_words
                    note(LINES, line_hashes(hashes, bounds[:-1][long], lengths[long]))
                    for answer in map(words.of, _answers(metadata)):
                        if MIN_ANSWER <= len(answer) < min_words:
                            whole = np.array([len(answer)])
                            note(ANSWERS, line_hashes(answer, np.array([0]), whole))
                    items += 1
    for kind in KINDS:
        hashes = np.concatenate([NOTHING, *found[kind]])
        pairs = np.concatenate([np.empty(0, np.int64), *owners[kind]])
        order = np.lexsort((pairs, hashes))
        hashes, pairs = hashes[order], pairs[order]
        new = np.ones(len(hashes), bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (pairs[1:] != pairs[:-1])
        unique, starts = np.unique(hashes[new], return_index=True)
        for name, values in {
            "hashes": unique,
            "starts": np.append(starts, new.sum()),
            "items": pairs[new],
        }.items():
            np.save(folder / f"{kind}-{name}.npy", values, allow_pickle=False)


def read_index(folder: Path) -> tuple[dict[str, Known], list[dict[str, str]]]:
    """What is known by its kind, as memory maps, and the `id` and `source` of each item."""

    def held(kind: str, name: str) -> npt.NDArray[np.int64]:
        values: npt.NDArray[np.int64] = np.load(
            folder / f"{kind}-{name}.npy", mmap_mode="r", allow_pickle=False
        )
        return values

    known = {
        kind: Known(held(kind, "hashes").view(np.uint64), held(kind, "starts"), held(kind, "items"))
        for kind in KINDS
    }
    return known, pq.read_table(folder / ITEMS).to_pylist()


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
