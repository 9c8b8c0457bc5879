"""What the loop asks of batches, and what some of them can say of what they read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from pipeline.tokens.order import Piece


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
