"""C4's marks of lines and documents that are no prose, as Dolma computes them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from pipeline.core.files import file_sha256
from pipeline.data.batch import BatchTagger, Column, Floats, Spans, Texts
from pipeline.data.taggers import State, state_of, unicode_version


@dataclass(frozen=True)
class C4(BatchTagger):
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
        if self.naughty_words is not None:
            if not Path(self.naughty_words).is_file():
                raise ValueError(f"naughty_words is {self.naughty_words!r}, which is no file")
            _entries(self.naughty_words, state_of(self.naughty_words))

    def fingerprint(self) -> str:
        """What tells white space and lower case, and the digest of the list, if there is one."""
        if self.naughty_words is None:
            return unicode_version()
        return f"{unicode_version()}, {file_sha256(Path(self.naughty_words))}"

    def measure_all(self, texts: Texts) -> dict[str, Column]:
        from pipeline.data.compiled.c4 import measure

        newlines, whole_words = int(texts.counts[:, 2].sum()), self.variant == "v1"
        marks, unended, num_unended, short, num_short = measure(
            texts.data, texts.kinds, texts.bounds, newlines, whole_words
        )
        if np.array_equal(unended, short):  # as of millions of lines of a word each
            short = unended
        return {
            "lines_with_no_ending_punctuation": Spans(unended[0], unended[1], num_unended),
            "lines_with_too_few_words": Spans(short[0], short[1], num_short),
            "has_naughty_word": self._naughty(texts),
            "has_javascript": marks[:, 0],
            "has_lorem_ipsum": marks[:, 1],
            "has_curly_brace": marks[:, 2],
            "line_count": marks[:, 3],
        }

    def _naughty(self, texts: Texts) -> Floats:
        if self.naughty_words is None:
            return np.full(len(texts), np.nan)
        listed = _listed(self.naughty_words, state_of(self.naughty_words))
        return listed.found_in(texts)


@dataclass(frozen=True)
class _Listed:
    """Words and phrases, and the tables by which compiled code finds them."""

    words: frozenset[str]
    phrases: tuple[str, ...]
    tables: tuple[Any, ...]

    @classmethod
    def of(cls, entries: list[str]) -> _Listed:
        from pipeline.data.compiled.c4 import tables_of

        phrases = tuple(each for each in entries if " " in each)
        tables = tables_of([each.encode() for each in entries], _odd(set("".join(entries))))
        return cls(frozenset(entries) - set(phrases), phrases, tables)

    def found_in(self, texts: Texts) -> Floats:
        from pipeline.data.compiled.c4 import find_listed

        found = find_listed(texts.data, texts.kinds, texts.bounds, *self.tables).astype(np.float64)
        for place in np.flatnonzero(found == 2):  # lower case is more than changed ASCII letters
            lower = texts[int(place)].lower()
            found[place] = not self.words.isdisjoint(lower.split()) or any(
                phrase in lower for phrase in self.phrases
            )
        made: Floats = found
        return made


def _odd(characters: set[str]) -> Any:
    """Code points beyond ASCII that some of the characters may be the lower case of."""
    from pipeline.data.compiled.characters import CODE_POINTS

    if not characters.isdisjoint("σς"):  # which of the two depends on what is around
        characters = characters | set("σς")
    odd = np.zeros(CODE_POINTS, np.bool_)
    every = list(map(chr, range(128, CODE_POINTS)))
    for each in {*filter(str.isupper, every), *filter(str.istitle, every)}:
        lower = each.lower()
        odd[ord(each)] = lower != each and not characters.isdisjoint(lower)
    return odd


@cache
def _entries(path: str, state: State) -> list[str]:
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"naughty_words is {path!r}, which is no UTF-8 ({error})") from error
    entries = [line.strip().lower() for line in lines]
    return list(dict.fromkeys(each for each in entries if each))


@cache
def _listed(path: str, state: State) -> _Listed:
    return _Listed.of(_entries(path, state))
