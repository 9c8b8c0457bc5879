"""What a paragraph and a sentence are: defined once for every measure of text.

Places in text are Unicode code points; spans are half-open.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.core.errors import MissingDependency

PIECE = 1 << 20  # characters that are worked on together, where a text may be cut
CUT = re.compile(r"\S(?=[ \n])")  # after which it is cut
_END = re.compile("\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")


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


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the sentences that BlingFire finds; what it leaves out between them is in none.

    Raises:
        MissingDependency: it is not installed, or has no library for this machine.

    Source: allenai/dolma, `dolma/core/utils.py`, `split_sentences`.
    """
    if not text:
        return
    try:
        from blingfire import text_to_sentences_and_offsets
    except (ImportError, OSError) as error:
        raise MissingDependency("blingfire", "a tagger of sentences") from error
    _, spans = text_to_sentences_and_offsets(text)
    yield from spans


def pieces(text: str, size: int = PIECE) -> Iterator[str]:
    """The text in pieces of about so many characters, so that what each is made to is not large.

    Each but the first begins with a space or newline that follows no white space. What goes by
    words that hold no white space, and takes what is around a word to be no part of it, finds the
    same in the pieces.
    """
    start = 0
    while len(text) - start > size and (found := CUT.search(text, start + size)):
        yield text[start : found.end()]
        start = found.end()
    yield text[start:] if start else text


def lines(text: str, keepends: bool = False) -> Iterator[str]:
    """`text.splitlines(keepends)`, of which not all are held."""
    start = 0
    while start < len(text):
        found = _END.search(text, start + PIECE)
        end = found.end() if found else len(text)
        yield from text[start:end].splitlines(keepends)
        start = end
