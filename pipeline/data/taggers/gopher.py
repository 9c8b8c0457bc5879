"""Gopher's measures of quality and repetition, number for number as Dolma computes them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from pipeline.data.taggers import DECIMALS, Value
from pipeline.data.text import words

REQUIRED = ("the", "be", "to", "of", "and", "that", "have", "with")
ELLIPSIS = "\u2026"
TOP = (2, 3, 4)
DUPLICATE = (5, 6, 7, 8, 9, 10)
LINES = {"v1": re.compile(r"\n"), "v2": re.compile(r"\n+")}
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Gopher:
    """Words, symbols, lines and repeated n-grams of a document.

    Words are what stands between white space; C is the sum of their lengths. An n-gram's length
    leaves out the spaces. With fewer than n words a measure of n-grams is not defined.

    Args:
        variant: `v1` takes blank lines for lines, and so for duplicates of each other; `v2` not.

    Source: Rae et al. 2021, "Gopher", table A1; allenai/dolma 1.2.1, `taggers/gopher.py`.
    """

    variant: Literal["v1", "v2"] = "v1"

    name: ClassVar[str] = "gopher"
    VERSION: ClassVar[str] = "001"
    COLUMNS: ClassVar[dict[str, str]] = {
        name: "number"
        for name in (
            "character_count",
            "word_count",
            "median_word_length",
            "symbol_to_word_ratio",
            "fraction_of_words_with_alpha_character",
            "required_word_count",
            "fraction_of_lines_starting_with_bullet_point",
            "fraction_of_lines_ending_with_ellipsis",
            "fraction_of_duplicate_lines",
            "fraction_of_characters_in_duplicate_lines",
            *(f"fraction_of_characters_in_most_common_{n}grams" for n in (2, 3, 4)),
            *(f"fraction_of_characters_in_duplicate_{n}grams" for n in (5, 6, 7, 8, 9, 10)),
        )
    }

    def __post_init__(self) -> None:
        if self.variant not in LINES:
            raise ValueError(f"variant is {self.variant!r}; it must be 'v1' or 'v2'")

    def measure(self, text: str) -> dict[str, Value]:
        every = words(text)
        lengths = list(map(len, every))
        num_characters = sum(lengths)
        made: dict[str, float | None] = {"character_count": len(text)}
        made |= _of_words(every, lengths)
        made |= self._of_lines(text, num_characters)
        made |= _of_ngrams(every, lengths, num_characters)
        return {k: None if v is None else round(float(v), DECIMALS) for k, v in made.items()}

    def _of_lines(self, text: str, num_characters: int) -> dict[str, float | None]:
        lines = LINES[self.variant].split(text) if text else []
        count = len(lines) or 1
        repeated = [(line, n) for line, n in Counter(lines).items() if n > 1]
        in_repeated = sum(len(line) * n for line, n in repeated)
        return {
            "fraction_of_lines_starting_with_bullet_point": sum(
                line.startswith(("*", "-")) for line in lines
            )
            / count,
            "fraction_of_lines_ending_with_ellipsis": sum(line.endswith(ELLIPSIS) for line in lines)
            / count,
            "fraction_of_duplicate_lines": sum(n for _, n in repeated) / count,
            "fraction_of_characters_in_duplicate_lines": (
                in_repeated / num_characters if num_characters else 0.0
            ),
        }


def _of_words(every: list[str], lengths: list[int]) -> dict[str, float | None]:
    num = len(every) or 1
    counts = Counter(every)
    symbols = sum(n for word, n in counts.items() if "#" in word or ELLIPSIS in word)
    alpha = sum(n for word, n in counts.items() if word.isalpha() or any(map(str.isalpha, word)))
    return {
        "word_count": len(every),
        "median_word_length": median(lengths) if lengths else 0.0,
        "symbol_to_word_ratio": symbols / num,
        "fraction_of_words_with_alpha_character": alpha / num,
        "required_word_count": sum(counts[word] for word in REQUIRED),
    }


def _of_ngrams(
    every: list[str], lengths: list[int], num_characters: int
) -> dict[str, float | None]:
    """Each n-gram gets a number; those of n words are pairs of one of n - 1 words and a word."""
    known: dict[str, int] = {}
    ids = np.fromiter((known.setdefault(w, len(known)) for w in every), np.int64, len(every))
    ends = np.concatenate(([0], np.cumsum(np.asarray(lengths, np.int64))))
    numbers: Ints = ids
    repeats = len(known) < len(every)
    made: dict[str, float | None] = {}
    for n in range(2, DUPLICATE[-1] + 1):
        top = f"fraction_of_characters_in_most_common_{n}grams"
        duplicate = f"fraction_of_characters_in_duplicate_{n}grams"
        if len(every) < n:
            made |= {name: None for name, held in ((top, TOP), (duplicate, DUPLICATE)) if n in held}
            continue
        sizes = ends[n:] - ends[:-n]
        counts: Any = None
        if repeats:  # an n-gram that repeats begins with one of n - 1 words that does
            pairs = numbers[: len(sizes)] * len(known) + ids[n - 1 :]
            _, first, numbers, counts = np.unique(
                pairs, return_index=True, return_inverse=True, return_counts=True
            )
            repeats = len(counts) < len(pairs)
        if n in TOP:
            place, times = 0, 1
            if repeats:  # of equals the first in the text
                times = int(counts.max())
                place = int(first[counts == times].min())
            made[top] = times * int(sizes[place]) / num_characters
        if n in DUPLICATE:
            inside = int(sizes[counts[numbers] > 1].sum()) if repeats else 0
            made[duplicate] = inside / int(sizes.sum())
    return made
