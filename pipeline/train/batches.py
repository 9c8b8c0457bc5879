"""What the loop reads: the batches of a rank, and what they can say of what they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from pipeline.tokens.order import Piece
from pipeline.train.stages.objectives import Batch, Objective


class Batches(Protocol):
    """What a rank reads at a step, from 0: arrays by name, a row an item or several."""

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> dict[str, Any]: ...


@runtime_checkable
class NamesDocuments(Protocol):
    """Batches that can say which documents all ranks together read at a step, from 0."""

    def documents(self, step: int) -> Sequence[Piece]: ...


@runtime_checkable
class CountsSources(Protocol):
    """Batches of several sources that can say how much of each all ranks together read."""

    def tokens_by_source(self, step: int) -> Counter[str]: ...


def parts_of(batch: Batch, objective: Objective, microbatch: int | None) -> Iterator[Batch]:
    """A rank's batch cut into forward passes; the rows of one item stay together."""
    groups = objective.rows_per_item
    num_items = len(batch["input_ids"]) // groups
    size = num_items if microbatch is None else max(1, microbatch // groups)
    if size >= num_items:
        yield batch
        return
    for start in range(0, num_items, size):
        items = torch.arange(start, min(start + size, num_items))
        rows = torch.cat([items + group * num_items for group in range(groups)])
        yield {name: each[rows.to(each.device)] for name, each in batch.items()}
