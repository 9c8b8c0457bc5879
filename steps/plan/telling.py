"""Differences in the words of the terminal."""

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
