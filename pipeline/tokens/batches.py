"""Batches of examples and of pairs, whole rows in the order of a seed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.artifacts import Examples, Pairs
from pipeline.core.files import Shard
from pipeline.core.shards import read_shard
from pipeline.tokens.order import FeistelOrder, IntArray, Piece


class ExampleBatches:
    """Batches of examples in the order of a seed; rows are read when first asked for.

    Args:
        batch_size: examples of one optimizer step, over all ranks.
        pad_id: what rows are filled with on the right, with mask 0.
    """

    def __init__(self, examples: Examples, batch_size: int, seed: int, pad_id: int = 0) -> None:
        self.examples, self.pad_id = examples, pad_id
        self.order = FeistelOrder(examples.num_examples, batch_size, seed)
        self._rows = _Rows(examples.root, examples.shards)

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> dict[str, IntArray]:
        """What `rank` reads at `step`.

        Returns:
            `input_ids` and `mask`, int64 [B, T], T the longest of these B rows;
            `lengths`, int64 [B].
        """
        rows = self._rows.read(self.order.at(step, rank, world_size), ["input_ids", "mask"])
        return {
            "input_ids": _padded([row["input_ids"] for row in rows], self.pad_id),
            "mask": _padded([row["mask"] for row in rows], 0),
            "lengths": _lengths([row["input_ids"] for row in rows]),
        }

    def rows(self, step: int) -> list[list[Piece]]:
        """The example of each row of the whole batch of a step; its group is its source."""
        rows = self._rows.read(self.order.at(step), ["id", "group", "input_ids"])
        return [[Piece("", r["group"] or "", r["id"], 0, len(r["input_ids"]))] for r in rows]

    def documents(self, step: int) -> list[Piece]:
        """The examples that all ranks read at `step`."""
        return [piece for row in self.rows(step) for piece in row]

    def holding(self, document: str) -> list[int]:
        """The numbers of the examples of an id."""
        return self._rows.numbered(document)


class PairBatches:
    """Batches of pairs in the order of a seed; rows are read when first asked for.

    Args:
        batch_size: pairs of one optimizer step, over all ranks.
        pad_id: what rows are filled with on the right, with mask 0.
    """

    def __init__(self, pairs: Pairs, batch_size: int, seed: int, pad_id: int = 0) -> None:
        self.pairs, self.pad_id = pairs, pad_id
        self.order = FeistelOrder(pairs.num_pairs, batch_size, seed)
        self._rows = _Rows(pairs.root, pairs.shards)

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> dict[str, NDArray[Any]]:
        """What `rank` reads at `step`: the chosen of its B pairs, then their rejected.

        Returns:
            `input_ids` and `mask`, int64 [2B, T]; `lengths`, int64 [2B]; `reference`, float64 [2B],
            in nats, NaN before the reference is computed.
        """
        sides = ("chosen", "rejected")
        names = [f"{side}_{each}" for side in sides for each in ("ids", "mask", "logprob")]
        rows = self._rows.read(self.order.at(step, rank, world_size), names)
        both = [(row, side) for side in sides for row in rows]
        return {
            "input_ids": _padded([row[f"{side}_ids"] for row, side in both], self.pad_id),
            "mask": _padded([row[f"{side}_mask"] for row, side in both], 0),
            "lengths": _lengths([row[f"{side}_ids"] for row, side in both]),
            "reference": np.array([row[f"{side}_logprob"] for row, side in both], np.float64),
        }

    def rows(self, step: int) -> list[list[Piece]]:
        """The chosen of the pairs of a step, then their rejected; `part` says which it is."""
        sides = ("chosen", "rejected")
        names = ["id", "group", *(f"{side}_ids" for side in sides)]
        rows = self._rows.read(self.order.at(step), names)
        return [
            [Piece(side, row["group"] or "", row["id"], 0, len(row[f"{side}_ids"]))]
            for side in sides
            for row in rows
        ]

    def documents(self, step: int) -> list[Piece]:
        """The answers that all ranks read at `step`."""
        return [piece for row in self.rows(step) for piece in row]

    def holding(self, document: str) -> list[int]:
        """The numbers of the pairs of an id."""
        return self._rows.numbered(document)


class _Rows:
    """Rows of an artifact's shards by number; a shard is read when first needed."""

    def __init__(self, root: Path, shards: list[Shard]) -> None:
        self.root, self.shards = root, shards
        self.starts = np.cumsum([0, *(shard.num_records for shard in shards)])
        self._tables: dict[int, pa.Table] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}

    def read(self, numbers: Iterable[int], columns: list[str]) -> list[dict[str, Any]]:
        """The rows of these numbers, in their order."""
        rows = []
        for number in numbers:
            place = int(np.searchsorted(self.starts, number, side="right")) - 1
            if place not in self._tables:
                self._tables[place] = read_shard(self.root, self.shards[place])
            table = self._tables[place].slice(int(number - self.starts[place]), 1)
            rows += table.select(columns).to_pylist()
        return rows

    def numbered(self, id: str) -> list[int]:
        """The numbers of the rows of an id."""
        return [
            int(start + place)
            for start, shard in zip(self.starts, self.shards, strict=False)
            for place, each in enumerate(read_shard(self.root, shard)["id"].to_pylist())
            if each == id
        ]


def _padded(rows: list[list[int]], fill: int) -> IntArray:
    array = np.full((len(rows), max(map(len, rows), default=0)), fill, np.int64)
    for place, row in enumerate(rows):
        array[place, : len(row)] = row
    return array


def _lengths(rows: list[list[int]]) -> IntArray:
    return np.array([len(row) for row in rows], np.int64)
