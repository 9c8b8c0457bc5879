"""What the parameters of a step may be beyond their types, as notes on its type hints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pipeline.core.seeds import seed_fault


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, both included, and above `above`."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf

    def fault(self, value: float) -> str:
        """What is wrong with a number; empty where nothing is."""
        if self.least <= value <= self.most and value > self.above:
            return ""
        if self.most == math.inf:
            bound = f"above {self.above:g}" if self.above > self.least else f"at least {self.least}"
        elif self.above > self.least:
            bound = f"above {self.above:g} and at most {self.most:g}"
        else:
            bound = f"from {self.least} to {self.most}"
        return f"is {value}; it must be {bound}"


@dataclass(frozen=True)
class NotEmpty:
    """A list or an object with something in it."""

    def fault(self, value: list[object] | dict[str, object]) -> str:
        """What is wrong with a list or object; empty where nothing is."""
        return "" if value else "is empty; it must hold at least one item"


@dataclass(frozen=True)
class ExactSeed:
    """A seed that an experiment's file carries exactly."""

    def fault(self, value: int) -> str:
        """What is wrong with a seed; empty where nothing is."""
        return seed_fault(value)


NOT_EMPTY = NotEmpty()
Count = Annotated[int, Range(0)]
Positive = Annotated[int, Range(1)]
Seed = Annotated[int, ExactSeed()]
