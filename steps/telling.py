"""Numbers and differences in the words of the terminal."""

from __future__ import annotations

import json
import os

from pipeline.core.keys import MISSING, Json

CONTEXT = 15  # characters before the place where two long values begin to differ


def difference(old: Json, new: Json, width: int = 60) -> str:
    """`old -> new`; of long values, what is about the place where they begin to differ."""
    texts = [each if each == MISSING else json.dumps(each) for each in (old, new)]
    if max(map(len, texts)) > width:
        shared = len(os.path.commonprefix(texts))
        first = max(0, shared - CONTEXT)
        first = first if first > 1 else 0
        texts = [_cut(each, first, width) if each != MISSING else each for each in texts]
    return " -> ".join(texts)


def _cut(text: str, first: int, width: int) -> str:
    before, after = "…" * (first > 0), "…" * (len(text) > first + width)
    return f"{before}{text[first : first + width]}{after}"


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 20 s, 2 h 5 min, 12 d 3 h."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, left = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {left} s"
    hours, left = divmod(round(seconds / 60), 60)
    if hours < 24:
        return f"{hours} h {left} min"
    days, left = divmod(round(seconds / 3600), 24)
    return f"{days} d {left} h"


def size(num_bytes: float) -> str:
    """512 B, 1.2 kB, 34 MB, 5.6 GB, 1.1 TB."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        num_bytes /= 1000
        if num_bytes < 999.5 or unit == "TB":
            break
    return f"{num_bytes:.1f} {unit}" if num_bytes < 9.95 else f"{num_bytes:.0f} {unit}"
