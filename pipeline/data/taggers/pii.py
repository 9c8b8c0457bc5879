"""E-mail addresses, telephone numbers and IP addresses, as Dolma's patterns find them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.data.batch import BatchTagger, Column, Spans, Texts, rounded

MAX_QUESTION_MARKS = 10_000  # beyond which Dolma does not look


@dataclass(frozen=True)
class Pii(BatchTagger):
    """Spans of what may identify a person, a paragraph at a time, and how many there are.

    A span is the whole match: with the white space and punctuation that the patterns take.
    `doc_frac` is the text's length with the spans' lengths added, over the text's length, so it is
    at least 1; -1 for no text.

    Source: allenai/dolma 1.2.1, `taggers/pii.py`, `pii_regex_with_counts_fast_v2`.
    """

    name: ClassVar[str] = "pii"
    VERSION: ClassVar[str] = "001"
    COLUMNS: ClassVar[dict[str, str]] = {
        "email_address": "spans",
        "phone_number": "spans",
        "ip_address": "spans",
        "doc_count": "number",
        "doc_frac": "number",
    }

    def measure_all(self, texts: Texts) -> dict[str, Column]:
        from pipeline.data.compiled.pii import measure

        *found, counts = measure(texts.data, texts.kinds, texts.bounds, MAX_QUESTION_MARKS)
        spans = [Spans(each[0], each[1], num) for each, num in zip(found, counts.T, strict=True)]
        length = texts.num_characters
        covered = sum((each.covered for each in spans), length)
        fraction = np.divide(covered, length, out=np.full(len(texts), -1.0), where=length > 0)
        made: dict[str, Column] = dict(zip(self.COLUMNS, spans, strict=False))
        numbers = {
            "doc_count": counts.sum(axis=1).astype(np.float64),
            "doc_frac": rounded(fraction),
        }
        return made | numbers
