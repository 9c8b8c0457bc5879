"""How long a document is, in the units that rules are written in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.data.batch import BatchTagger, Column, Texts
from pipeline.data.taggers import unicode_version


@dataclass(frozen=True)
class Lengths(BatchTagger):
    """Characters (code points), UTF-8 bytes, words and lines of a document."""

    name: ClassVar[str] = "lengths"
    VERSION: ClassVar[str] = "001"
    COLUMNS: ClassVar[dict[str, str]] = {
        "num_characters": "number",
        "num_bytes": "number",
        "num_words": "number",
        "num_lines": "number",
    }

    def fingerprint(self) -> str:
        """What tells white space."""
        return unicode_version()

    def measure_all(self, texts: Texts) -> dict[str, Column]:
        num_bytes = np.diff(texts.bounds)
        characters, words, newlines = texts.counts.T
        unended = num_bytes > 0
        unended[unended] = texts.data[texts.bounds[1:][unended] - 1] != ord("\n")
        numbers = (characters, num_bytes, words, newlines + unended)
        made = (each.astype(np.float64) for each in numbers)
        return dict(zip(self.COLUMNS, made, strict=True))
