"""How long a document is, in the units that rules are written in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.data.taggers import Value
from pipeline.data.text import words


@dataclass(frozen=True)
class Lengths:
    """Characters (code points), UTF-8 bytes, words and lines of a document."""

    name: ClassVar[str] = "lengths"
    VERSION: ClassVar[str] = "001"
    COLUMNS: ClassVar[dict[str, str]] = {
        "num_characters": "number",
        "num_bytes": "number",
        "num_words": "number",
        "num_lines": "number",
    }

    def measure(self, text: str) -> dict[str, Value]:
        lines = text.count("\n") + (not text.endswith("\n") and bool(text))
        return {
            "num_characters": float(len(text)),
            "num_bytes": float(len(text.encode())),
            "num_words": float(len(words(text))),
            "num_lines": float(lines),
        }
