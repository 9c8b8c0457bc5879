"""Gopher's measures of quality and repetition, number for number as Dolma computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipeline.data.batch import BatchTagger, Column, Texts, rounded
from pipeline.data.taggers import unicode_version


@dataclass(frozen=True)
class Gopher(BatchTagger):
    """Words, symbols, lines and repeated n-grams of a document.

    Words are what stands between white space; C is the sum of their lengths. An n-gram's length
    leaves out the spaces; of n-grams that are as common, the first in the text counts. With fewer
    than n words a measure of n-grams is not defined.

    Args:
        variant: `v1` takes blank lines for lines, and so for duplicates of each other; `v2` not.

    Source: Rae et al. 2021, "Gopher", table A1; allenai/dolma 1.2.1, `taggers/gopher.py`.
    """

    variant: Literal["v1", "v2"] = "v1"

    name: ClassVar[str] = "gopher"
    VERSION: ClassVar[str] = "002"
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
        if self.variant not in ("v1", "v2"):
            raise ValueError(f"variant is {self.variant!r}; it must be 'v1' or 'v2'")

    def fingerprint(self) -> str:
        """What tells letters and white space."""
        return unicode_version()

    def measure_all(self, texts: Texts) -> dict[str, Column]:
        from pipeline.data.compiled.gopher import measure

        join_newlines = self.variant == "v2"
        made = rounded(measure(texts.data, texts.kinds, texts.bounds, texts.counts, join_newlines))
        return dict(zip(self.COLUMNS, made.T, strict=True))
