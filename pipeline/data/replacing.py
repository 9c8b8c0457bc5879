"""Spans of texts are replaced as rules say; of a text with millions of them, few are held at once.

The places of a shard's spans are held as numbers, 8 bytes a span and rule, and nothing else of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.files import Shard
from pipeline.core.shards import read_part
from pipeline.data.rules import Replace

BLOCK = 1 << 16  # spans that are Python's at a time
Places = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Replacement:
    """A rule, its number among all rules, and the spans of a shard that it is for.

    Those of row i are `starts[bounds[i]:bounds[i + 1]]`, and `ends` of the same places.
    """

    number: int
    rule: Replace
    starts: Places
    ends: Places
    bounds: npt.NDArray[np.int64]

    @classmethod
    def read(cls, number: int, rule: Replace, root: Path, shard: Shard) -> Replacement:
        """The spans of a shard of attributes that have the score that the rule asks for."""
        column = rule.spans.split(".", 1)[1]
        used, counts = [], []
        for lists in read_part(root, shard, column, "score"):
            lengths = np.asarray(lists.value_lengths().fill_null(0))
            used.append(np.asarray(lists.flatten().field(0)) >= rule.min_score)
            sums = np.concatenate(([0], np.cumsum(used[-1], dtype=np.int32)))
            bounds = np.concatenate(([0], np.cumsum(lengths)))
            counts.append(np.diff(sums[bounds]))
        starts, ends = (_chosen(root, shard, column, part, used) for part in ("start", "end"))
        return cls(number, rule, starts, ends, np.cumsum(np.concatenate([[0], *counts])))

    @property
    def num_rows(self) -> int:
        return len(self.bounds) - 1

    def of_row(self, row: int, order: int) -> Iterator[tuple[int, int, int]]:
        """Start, `order` and end of each span of a row, by start and then by end."""
        here = slice(self.bounds[row], self.bounds[row + 1])
        starts, ends = self.starts[here], self.ends[here]
        if not (starts[1:] > starts[:-1]).all():
            sorting = np.lexsort((ends, starts))
            starts, ends = starts[sorting], ends[sorting]
        for at in range(0, len(starts), BLOCK):
            block = slice(at, at + BLOCK)
            yield from zip(
                starts[block].tolist(), repeat(order), ends[block].tolist(), strict=False
            )


def _chosen(root: Path, shard: Shard, column: str, part: str, used: Sequence[Mask]) -> Places:
    found = [np.empty(0, np.int32)]
    for lists, mask in zip(read_part(root, shard, column, part), used, strict=True):
        values = np.asarray(lists.flatten().field(0))
        found.append(values if mask.all() else values[mask])
    found = [each for each in found if len(each)] or found[:1]
    return found[0] if len(found) == 1 else np.concatenate(found)


def replaced(
    table: pa.Table, first: int, replacements: Sequence[Replacement], num_rules: int, kept: Mask
) -> tuple[pa.Table, npt.NDArray[Any], Mask]:
    """The rows with spans replaced, documents changed by rule, and which have no text left.

    Args:
        first: the row of the shard that the table begins with.
        kept: rows of the table in which spans are replaced.
    """
    changed = np.zeros(num_rules, np.int64)
    empty = np.zeros(table.num_rows, bool)
    here = slice(first, first + table.num_rows + 1)
    counts = sum(np.diff(each.bounds[here]) for each in replacements)
    rows = np.flatnonzero((counts > 0) & kept).tolist()
    if not rows:
        return table, changed, empty
    texts: list[bytes] = table.column("text").cast(pa.binary()).to_pylist()
    rules = [each.rule for each in replacements]
    for row in rows:
        spans = heapq.merge(*(e.of_row(first + row, n) for n, e in enumerate(replacements)))
        texts[row], used, emptied = _with_replacements(texts[row].decode(), spans, rules)
        for order in used:
            changed[replacements[order].number] += 1
        empty[row] = emptied and not all(rules[order].keep_empty for order in used)
    place = table.schema.get_field_index("text")
    column = pa.array(texts, pa.binary()).cast(pa.string())
    return table.set_column(place, "text", column), changed, empty


def _with_replacements(
    text: str, spans: Iterable[tuple[int, int, int]], rules: Sequence[Replace]
) -> tuple[bytes, set[int], bool]:
    """The new text in UTF-8, which rules were used, and whether nothing but white space is left."""
    done: list[bytes] = []
    pieces: list[str] = []
    emptied, at, used = True, 0, set()
    for start, order, end in spans:
        if end <= start:
            continue
        if start < at:  # inside the one before, under whose replacement it goes
            if rules[order].merge and end > at:
                at = end
                used.add(order)
            continue
        pieces += [text[at:start], rules[order].replace_with]
        at = end
        used.add(order)
        if len(pieces) >= 2 * BLOCK:
            joined = "".join(pieces)
            emptied &= not joined.strip()
            done.append(joined.encode())
            pieces.clear()
    joined = "".join([*pieces, text[at:]])
    emptied &= not joined.strip()
    return b"".join([*done, joined.encode()]), used, emptied
