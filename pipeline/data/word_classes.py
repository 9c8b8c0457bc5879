"""The classes of characters by which Unicode's annex 29 tells where a word ends."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import numpy as np
import regex

CLASSES = """Other CR LF Newline Extend Format ZWJ Regional_Indicator Katakana Hebrew_Letter ALetter
Single_Quote Double_Quote MidNumLet MidLetter MidNum Numeric ExtendNumLet WSegSpace""".split()
(OTHER, CR, LF, NEWLINE, EXTEND, FORMAT, ZWJ, INDICATOR, KATAKANA, HEBREW, LETTER, QUOTE, DOUBLE,
 MID_NUM_LET, MID_LETTER, MID_NUM, NUMERIC, JOINER, BLANK) = range(len(CLASSES))  # fmt: skip
PICTOGRAPH = 64  # beside the class
# ideographs and private use, all Other, stand between; no character beyond
BEFORE, TAGS, TAGS_END = 0x20000, 0xE0000, 0xE0200


@cache
def class_table() -> Any:
    """The class of each character of planes 0, 1 and, after those, of the tags in plane 14."""
    points = [*range(BEFORE), *range(TAGS, TAGS_END)]
    text = "".join(map(chr, points))
    table = np.zeros(len(points), np.uint8)
    for number, name in enumerate(CLASSES):
        for found in regex.finditer(rf"\p{{WB={name}}}+", text):
            table[found.start() : found.end()] = number
    for found in regex.finditer(r"\p{Extended_Pictographic}+", text):
        table[found.start() : found.end()] |= PICTOGRAPH
    return table


@cache
def class_table_digest() -> str:
    """What the classes are here: another Unicode may have others, another release may not."""
    return hashlib.sha256(class_table().tobytes()).hexdigest()
