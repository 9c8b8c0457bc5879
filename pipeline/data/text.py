"""What a paragraph and a sentence are: defined once for every measure of text.

Places in text are Unicode code points; spans are half-open.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.core.errors import MissingDependency


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
