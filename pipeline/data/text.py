"""What a word, a line and a paragraph are: defined once for every measure of text.

Places in text are Unicode code points; spans are half-open.
"""

from __future__ import annotations

from collections.abc import Iterator


def words(text: str) -> list[str]:
    """What stands between white space."""
    return text.split()


def paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the paragraphs: each ends with its newline, but for a last one without.

    Source: allenai/dolma, `dolma/core/utils.py`, `split_paragraphs`.
    """
    start = 0
    while start < len(text):
        newline = text.find("\n", start)
        end = len(text) if newline < 0 else newline + 1
        yield start, end
        start = end
