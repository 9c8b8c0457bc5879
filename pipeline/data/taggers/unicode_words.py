"""Words by Unicode's rules, which punctuation is a word of too, of each paragraph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.data.batch import BatchTagger, Column, Spans, Texts


@dataclass(frozen=True)
class UnicodeWords(BatchTagger):
    """How many words, by Unicode's annex 29, a document has, and each of its paragraphs.

    A paragraph is a line that is not blank, with its newline; its span's score is its count. White
    space is no word, a sign of punctuation is one. `num_words` is the sum.

    Source: allenai/dolma 1.2.1, `taggers/length.py`, `uniseg_length_paragraphs_with_doc_length_v1`.
    Differs: counts below zero are not kept twice, as rules know `at_most`; what class a character
        is of says the package `regex`, whose Unicode may be newer than that of `uniseg`.
    """

    name: ClassVar[str] = "unicode_words"
    VERSION: ClassVar[str] = "001"
    COLUMNS: ClassVar[dict[str, str]] = {"paragraphs": "spans", "num_words": "number"}

    def measure_all(self, texts: Texts) -> dict[str, Column]:
        from pipeline.data.compiled.unicode_words import class_table, count

        newlines = int(texts.counts[:, 2].sum())
        found, words, sums = count(texts.data, texts.kinds, texts.bounds, newlines, class_table())
        return {
            "paragraphs": Spans(found[0], found[1], sums[:, 0], words),
            "num_words": sums[:, 1].astype(np.float64),
        }
