"""Numbers and times as people read them, and their shapes in characters."""

from __future__ import annotations

import math
import time

BARS = "▁▂▃▄▅▆▇█"


def as_age(made: float, now: float | None = None) -> str:
    """How long ago something was; a clock that was put back makes nothing younger than now."""
    seconds = max(0.0, (time.time() if now is None else now) - made)
    return as_seconds(seconds)


def as_seconds(seconds: float) -> str:
    """A duration in the largest unit of which it has at least two."""
    for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def as_number(value: float) -> str:
    """A number as short as it can be read: integers whole, others to four digits."""
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value.is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.4g}" if 1e-4 <= abs(value) < 1e6 else f"{value:.3e}"


def bars(counts: list[int]) -> str:
    """A histogram in one line; what is not empty is at least a bar."""
    most = max(counts, default=0)
    if most == 0:
        return " " * len(counts)
    return "".join(
        " " if each == 0 else BARS[min(len(BARS) - 1, each * len(BARS) // (most + 1))]
        for each in counts
    )


def curve(values: list[float], width: int = 72, height: int = 12) -> list[str]:
    """A line through values, left to right, drawn with braille dots; one text a line.

    Where there are more values than dots, a column shows the mean of those that fall on it.
    """
    finite = [each for each in values if math.isfinite(each)]
    if not finite:
        return []
    columns = min(width * 2, max(1, len(values)))
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    rows = height * 4
    dots = [[0] * width for _ in range(height)]
    before: int | None = None
    for column in range(columns):
        part = values[column * len(values) // columns : (column + 1) * len(values) // columns]
        seen = [each for each in part if math.isfinite(each)]
        if not seen:
            before = None
            continue
        place = round((high - math.fsum(seen) / len(seen)) / span * (rows - 1))
        first, last = sorted((place, place if before is None else before))
        for row in range(first + (before is not None and before < place), last + 1):
            if before is None or row != before or first == last:
                dots[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
        before = place
    return ["".join(chr(0x2800 + dot) for dot in row).rstrip("⠀") for row in dots]


_DOTS = [(0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80)]
