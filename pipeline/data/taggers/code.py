"""Measures of source code: its lines, its letters, its notices, and whether a program wrote it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import regex

from pipeline.data.taggers import DECIMALS, SpanRow, Value
from pipeline.data.text import lines

TOKEN = regex.compile(r"\w+|[^\w\s]+")  # its word characters have marks, as in Unicode
BLOCK = re.compile(r"/\*[^*]*\*+(?:[^/*][^*]*\*+)*/")
COPYRIGHT = re.compile("copyright", re.IGNORECASE)
COMMENT = ("//", "#", "--")
GENERATED = re.compile(
    r"auto-?generated|automatically generated|generated (?:by|from|file)|do not (?:edit|modify)",
    re.IGNORECASE,
)
FIRST_LINES = 10
XML_CHARACTERS = 100


@dataclass(frozen=True)
class Code:
    """What rules on source code are written in.

    `max_line_length` and `avg_line_length` are in characters; `alnum_prop` is the share of letters
    and digits; `alpha_token_prop` is letters over tokens and one, where a token is a run of word
    characters or of signs. `has_xml_template` is 1 where the first 100 characters declare XML.
    `copyright_notice` is the first `/* */` if it names a copyright; without such a comment,
    `comment_block` is the text's leading lines that are blank or begin with `//`, `#` or `--`;
    `notice_prop` is their share of the text. `is_generated` is 1 where one of the first ten lines
    says that a program wrote it.

    Source: allenai/dolma 1.2.1, `taggers/code`, `code_redpajama_taggers_v1` and
        `code_copyright_comments_v1`; Li et al. 2023, "StarCoder", section 3 (generated files).
    Differs: `comment_block` ends where its lines do (there each line that is not blank lacks its
        newline); `notice_prop` counts the span's characters (there one more); no text has no notice
        (there -1).
    """

    name: ClassVar[str] = "code"
    VERSION: ClassVar[str] = "001"
    COLUMNS: ClassVar[dict[str, str]] = {
        "max_line_length": "number",
        "avg_line_length": "number",
        "alnum_prop": "number",
        "alpha_token_prop": "number",
        "has_xml_template": "number",
        "copyright_notice": "spans",
        "comment_block": "spans",
        "notice_prop": "number",
        "is_generated": "number",
    }

    def measure(self, text: str) -> dict[str, Value]:
        num_lines = longest = total = 0
        for length in map(len, lines(text)):
            num_lines += 1
            total += length
            if length > longest:
                longest = length
        num_alnum = sum(map(str.isalnum, text))
        num_alpha = sum(map(str.isalpha, text))
        notice, block = _notices(text)
        covered = sum(end - start for start, end, _ in notice + block)
        numbers = {
            "max_line_length": longest,
            "avg_line_length": total / num_lines if num_lines else 0.0,
            "alnum_prop": num_alnum / len(text) if text else 0.0,
            "alpha_token_prop": num_alpha / (1 + sum(1 for _ in TOKEN.finditer(text))),
            "has_xml_template": "<?xml version=" in text[:XML_CHARACTERS],
            "notice_prop": covered / len(text) if text else 0.0,
            "is_generated": any(map(GENERATED.search, islice(lines(text), FIRST_LINES))),
        }
        made: dict[str, Value] = {n: round(float(v), DECIMALS) for n, v in numbers.items()}
        return made | {"copyright_notice": notice, "comment_block": block}


def _notices(text: str) -> tuple[list[SpanRow], list[SpanRow]]:
    found = BLOCK.search(text)
    if found is not None:
        named = COPYRIGHT.search(found.group()) is not None
        return [(*found.span(), 1.0)] if named else [], []
    end = 0
    for line in lines(text, keepends=True):
        if line.strip("\r\n") and not line.startswith(COMMENT):
            break
        end += len(line)
    return [], [(0, end, 1.0)] if end else []
