"""C4's marks of lines and documents that are no prose, as Dolma computes them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

from pipeline.core.files import file_sha256
from pipeline.data.taggers import SpanRow, Value

ENDINGS = (".", "?", "!", '"')
MIN_WORDS = 3


@dataclass(frozen=True)
class C4:
    """Lines without ending punctuation or with few words; signs of code and of filler.

    Lines are split at each newline, and a span has the newline too. An empty line, and the nothing
    after a last newline, lacks punctuation and words.

    Args:
        variant: `v1` finds `javascript` as a word of a line, `v2` anywhere.
        naughty_words: a file with a word or phrase a line; without it `has_naughty_word` is not
            defined. Words are compared with whole words, phrases with any part of the text.

    Source: Raffel et al. 2020, "T5", section 2.2; allenai/dolma 1.2.1, `taggers/c4.py`.
    Differs: places are of the text itself, where Dolma's v2 counts in its lower-cased form.
    """

    variant: Literal["v1", "v2"] = "v1"
    naughty_words: str | None = None

    name: ClassVar[str] = "c4"
    VERSION: ClassVar[str] = "001"
    UNKEYED: ClassVar[tuple[str, ...]] = ("naughty_words",)  # its fingerprint stands for it
    COLUMNS: ClassVar[dict[str, str]] = {
        "lines_with_no_ending_punctuation": "spans",
        "lines_with_too_few_words": "spans",
        "has_naughty_word": "number",
        "has_javascript": "number",
        "has_lorem_ipsum": "number",
        "has_curly_brace": "number",
        "line_count": "number",
    }

    def __post_init__(self) -> None:
        if self.variant not in ("v1", "v2"):
            raise ValueError(f"variant is {self.variant!r}; it must be 'v1' or 'v2'")
        if self.naughty_words is not None and not Path(self.naughty_words).is_file():
            raise ValueError(f"naughty_words is {self.naughty_words!r}, which is no file")

    def fingerprint(self) -> str:
        """Digest of the list, or nothing."""
        return "" if self.naughty_words is None else file_sha256(Path(self.naughty_words))

    def measure(self, text: str) -> dict[str, Value]:
        unended: list[SpanRow] = []
        short: list[SpanRow] = []
        javascript, at = False, 0
        lines = text.split("\n")
        for number, line in enumerate(lines):
            end = at + len(line) + (number < len(lines) - 1)
            stripped = line.strip().lower()
            tokens = stripped.split()
            if not stripped.endswith(ENDINGS):
                unended.append((at, end, 1.0))
            if len(tokens) < MIN_WORDS:
                short.append((at, end, 1.0))
            found = stripped if self.variant == "v2" else tokens
            javascript = javascript or "javascript" in found
            at = end
        lower = text.lower()
        return {
            "lines_with_no_ending_punctuation": unended,
            "lines_with_too_few_words": short,
            "has_naughty_word": self._naughty(lower),
            "has_javascript": float(javascript),
            "has_lorem_ipsum": float("lorem ipsum" in lower),
            "has_curly_brace": float("{" in text),
            "line_count": float(len(lines)),
        }

    def _naughty(self, lower: str) -> float | None:
        if self.naughty_words is None:
            return None
        single, phrases = _naughty_list(self.naughty_words)
        return float(
            not single.isdisjoint(lower.split()) or any(phrase in lower for phrase in phrases)
        )


@cache
def _naughty_list(path: str) -> tuple[frozenset[str], tuple[str, ...]]:
    entries = [line.strip().lower() for line in Path(path).read_text("utf-8").splitlines()]
    entries = [each for each in entries if each]
    single = frozenset(each for each in entries if " " not in each)
    return single, tuple(each for each in entries if " " in each)
