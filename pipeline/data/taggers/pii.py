"""E-mail addresses, telephone numbers and IP addresses, found by Dolma's patterns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from pipeline.data.taggers import DECIMALS, SpanRow, Value
from pipeline.data.text import paragraphs

_AROUND = r".\s@,?!;:)("
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9]{1,2})"
_EMAIL = re.compile(rf"[{_AROUND}]*([^\s@]+@[^\s@,?!;:)(]+?)[{_AROUND}]?\s")
_PHONE = re.compile(r"\s+\(?(\d{3})\)?[-. ]*(\d{3})[-. ]?(\d{4})")
_IP = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}")
MAX_QUESTION_MARKS = 10_000  # beyond which Dolma does not look


@dataclass(frozen=True)
class Pii:
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

    def measure(self, text: str) -> dict[str, Value]:
        emails: list[SpanRow] = []
        phones: list[SpanRow] = []
        addresses: list[SpanRow] = []
        for start, end in paragraphs(text) if text.count("?") <= MAX_QUESTION_MARKS else ():
            paragraph = text[start:end]
            if "@" in paragraph:
                for match in _EMAIL.finditer(paragraph):
                    local, domain = match.group(1).split("@", 1)
                    if local != "(" and "." in domain:
                        emails.append((start + match.start(), start + match.end(), 1.0))
            for pattern, found in ((_PHONE, phones), (_IP, addresses)):
                for match in pattern.finditer(paragraph):
                    found.append((start + match.start(), start + match.end(), 1.0))
        every = [*emails, *phones, *addresses]
        covered = sum(end - start for start, end, _ in every)
        return {
            "email_address": emails,
            "phone_number": phones,
            "ip_address": addresses,
            "doc_count": float(len(every)),
            "doc_frac": round((covered + len(text)) / len(text), DECIMALS) if text else -1.0,
        }
