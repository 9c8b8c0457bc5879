"""A view of an artifact: blocks of plain data, the same for a terminal and for machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = Any  # str, int, float, None, or one of the kinds below


@dataclass(frozen=True)
class Bytes:
    """A number of bytes."""

    number: int


@dataclass(frozen=True)
class Bars:
    """Counts that are shown as a histogram."""

    counts: list[int]


@dataclass(frozen=True)
class Marked:
    """Text in pieces, some of which stand out."""

    pieces: list[tuple[str, bool]]


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    values: dict[str, Cell]


@dataclass(frozen=True)
class Grid:
    """A table; `more` says what was left out."""

    title: str
    heads: list[str]
    rows: list[list[Cell]]
    more: str = ""


@dataclass(frozen=True)
class Prose:
    """One text with a title."""

    title: str
    text: str | Marked


@dataclass(frozen=True)
class Plot:
    """A line over its numbers, from `first` to `last`."""

    title: str
    values: list[float]
    first: float
    last: float


Block = Facts | Grid | Prose | Plot


@dataclass(frozen=True)
class View:
    """What there is to see of one thing."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The view as JSON values: facts by name, tables as rows by name."""
        form: dict[str, Any] = {"title": self.title}
        for block in self.blocks:
            if isinstance(block, Facts):
                form |= {name: _plain(value) for name, value in block.values.items()}
            elif isinstance(block, Grid):
                form[block.title] = [
                    {head: _plain(cell) for head, cell in zip(block.heads, row, strict=True)}
                    for row in block.rows
                ]
            elif isinstance(block, Prose):
                form.setdefault("texts", []).append([block.title, _plain(block.text)])
            else:
                form[block.title] = _plain(block.values)
        return form


def grid(title: str, rows: Sequence[dict[str, Cell]], total: int | None = None) -> Grid:
    """A table of rows that have the same names; of `total` rows these are the first."""
    heads = list(rows[0]) if rows else []
    left = (total or len(rows)) - len(rows)
    more = f"{left:,} more; --limit shows more of them" if left > 0 else ""
    return Grid(title, heads, [[row[head] for head in heads] for row in rows], more)


def _plain(value: Cell) -> Any:
    if isinstance(value, Bytes):
        return value.number
    if isinstance(value, Bars):
        return value.counts
    if isinstance(value, Marked):
        return [{"text": text, "marked": marked} for text, marked in value.pieces]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value
