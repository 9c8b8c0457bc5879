"""Means and ratios over items, with standard errors that know which items belong together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple


class Estimate(NamedTuple):
    """A value, its standard error (NaN where there is one group) and the number of groups."""

    value: float
    error: float
    num_groups: int


def ratio(
    sums: Sequence[float], counts: Sequence[float], groups: Sequence[str] | None = None
) -> Estimate:
    """The sum of `sums` over the sum of `counts`, as bits over bytes; items weigh by their counts.

    Args:
        groups: what each item belongs to. Items of one group are not independent, as functions of
            one module: the group is what was drawn. An item whose group is "" stands alone.

    Raises:
        ValueError: the counts sum to nothing.

    Source: Cochran 1977, "Sampling Techniques", 6.3 (the error of a ratio, linearized), 9A.1
        (clusters of unequal size); Miller 2024, "Adding Error Bars to Evals", 2.2.
    """
    total = math.fsum(counts)
    if not total > 0:
        raise ValueError(f"the counts of {len(counts)} items sum to {total:g}; it must be over 0")
    value = math.fsum(sums) / total
    away: dict[str | int, list[float]] = defaultdict(list)
    for place, (part, count) in enumerate(zip(sums, counts, strict=True)):
        away[(groups[place] if groups else "") or place].append(part - value * count)
    number = len(away)
    if number < 2:
        return Estimate(value, math.nan, number)
    spread = math.fsum(math.fsum(each) ** 2 for each in away.values())
    return Estimate(value, math.sqrt(spread * number / (number - 1)) / total, number)


def mean(values: Sequence[float], groups: Sequence[str] | None = None) -> Estimate:
    """The mean of values, all of one weight; the rest as for a ratio."""
    return ratio(values, [1.0] * len(values), groups)
