"""What a tagger is: a measure of one text, with a name, a version and columns."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

SpanRow: TypeAlias = tuple[int, int, float]  # start, end, score
DECIMALS = 5  # Dolma rounds every score to five


class SpanList(Sequence[SpanRow]):
    """Spans in 16 bytes each, as millions of tuples do not fit into memory."""

    def __init__(self, rows: Iterable[SpanRow] = ()) -> None:
        self.starts, self.ends, self.scores = array("i"), array("i"), array("d")
        for row in rows:
            self.add(*row)

    def add(self, start: int, end: int, score: float) -> None:
        self.starts.append(start)
        self.ends.append(end)
        self.scores.append(score)

    def scored(self, scores: Iterable[float]) -> SpanList:
        """Spans in the same places, which are not copied, with other scores."""
        made = SpanList()
        made.starts, made.ends, made.scores = self.starts, self.ends, array("d", scores)
        return made

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return list(self)[place]
        return self.starts[place], self.ends[place], self.scores[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


Value: TypeAlias = float | Sequence[SpanRow] | None


class Tagger(Protocol):
    """A frozen dataclass; its fields are its parameters and, with `VERSION`, part of every key.

    `COLUMNS` gives each column's kind, "number" or "spans". Spans are half-open, in code points.
    """

    name: ClassVar[str]
    VERSION: ClassVar[str]
    COLUMNS: ClassVar[Mapping[str, str]]

    def measure(self, text: str) -> dict[str, Value]:
        """A value for each column; None where the measure is not defined for the text."""
        ...


State: TypeAlias = tuple[int, int]  # time and size of a file


def state_of(path: str) -> State:
    """What tells a file from what stood there before, for what a process remembers of it."""
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size
