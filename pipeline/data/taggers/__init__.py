"""What a tagger is: a measure of one text, with a name, a version and columns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar, Protocol, TypeAlias

SpanRow: TypeAlias = tuple[int, int, float]  # start, end, score
Value: TypeAlias = float | list[SpanRow] | None
DECIMALS = 5  # Dolma rounds every score to five


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
