"""Words as Unicode's annex 29 has them, counted by the paragraph."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import regex

from pipeline.data.compiled import kernel
from pipeline.data.compiled.characters import INSIDE, SPACE, code_point

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


@kernel
def count(data, kinds, bounds, newlines, table):
    """Paragraphs that are not blank: starts and ends in characters, words, and two sums a text.

    The sums are of its paragraphs and of their words.
    """
    num = len(bounds) - 1
    found, words = np.empty((2, newlines + num), np.int32), np.empty(newlines + num, np.float64)
    sums, at = np.zeros((num, 2), np.int64), 0
    for text in range(num):
        line, place = bounds[text], 0
        while line < bounds[text + 1]:
            after, characters = line, 0
            first = last = -1  # of what is no white space
            while after < bounds[text + 1]:
                kind = kinds[after]
                characters += not kind & INSIDE
                if not kind & (SPACE | INSIDE):
                    first, last = after if first < 0 else first, after
                after += 1
                if data[after - 1] == 10:
                    break
            if first >= 0:
                found[0, at], found[1, at] = place, place + characters
                num_words = _words(data, kinds, first, last, table)
                words[at] = num_words
                sums[text, 0] += 1
                sums[text, 1] += num_words
                at += 1
            line, place = after, place + characters
    return found[:, :at], words[:at], sums


@kernel
def _class(data, at, table):
    if data[at] < 0x80:
        return table[data[at]]
    point, _ = code_point(data, at)
    if point < BEFORE:
        return table[point]
    if TAGS <= point < TAGS_END:
        return table[point - TAGS + BEFORE]
    return np.uint8(OTHER)


@kernel
def _words(data, kinds, first, last, table):
    """How many pieces there are from one character to another that are not only white space."""
    num, seen = 0, False  # whether the piece has anything that is no white space
    beside = before = earlier = -1  # the last class, and the last two that are not passed over
    indicators = 0
    for at in range(first, last + 1):
        if kinds[at] & INSIDE:
            continue
        mark = _class(data, at, table)
        kind = np.int64(mark & ~np.uint8(PICTOGRAPH))
        passed = kind == EXTEND or kind == FORMAT or kind == ZWJ
        if beside < 0:
            joined = False
        elif beside == CR and kind == LF:
            joined = True
        elif CR <= beside <= NEWLINE or CR <= kind <= NEWLINE:
            joined = False
        elif beside == ZWJ and mark & PICTOGRAPH:
            joined = True
        elif (beside == BLANK and kind == BLANK) or passed:
            joined = True
        else:
            joined = _joined(earlier, before, kind, indicators)
            if not joined and (before == LETTER or before == HEBREW or before == NUMERIC):
                joined = _joined_by_next(data, kinds, at, last, before, kind, table)
        if not joined:
            num += seen
            seen = False
        seen |= not kinds[at] & SPACE
        beside = kind
        if not passed:
            indicators = indicators + 1 if kind == INDICATOR else 0
            earlier, before = before, kind
    return num + seen


@kernel
def _joined(earlier, before, kind, indicators):
    """Whether a character goes on with the word of the two before it: rules 5 to 16."""
    letter = kind == LETTER or kind == HEBREW
    after_letter = before == LETTER or before == HEBREW
    if letter:
        return (
            after_letter
            or before == NUMERIC
            or before == JOINER
            or (earlier == LETTER or earlier == HEBREW)
            and (before == MID_LETTER or before == MID_NUM_LET or before == QUOTE)
            or (earlier == HEBREW and before == DOUBLE and kind == HEBREW)
        )
    if kind == NUMERIC:
        return (
            before == NUMERIC
            or after_letter
            or before == JOINER
            or earlier == NUMERIC
            and (before == MID_NUM or before == MID_NUM_LET or before == QUOTE)
        )
    if kind == KATAKANA:
        return before == KATAKANA or before == JOINER
    if kind == JOINER:
        return after_letter or before == NUMERIC or before == KATAKANA or before == JOINER
    if kind == QUOTE and before == HEBREW:
        return True
    return kind == INDICATOR and before == INDICATOR and indicators % 2 == 1


@kernel
def _joined_by_next(data, kinds, at, last, before, kind, table):
    """Whether a sign stands inside of a word or number, which the character after it says."""
    in_word = kind == MID_LETTER or kind == MID_NUM_LET or kind == QUOTE
    in_number = kind == MID_NUM or kind == MID_NUM_LET or kind == QUOTE
    if not (in_word or in_number or kind == DOUBLE):
        return False
    for after in range(at + 1, last + 1):
        if kinds[after] & INSIDE:
            continue
        following = np.int64(_class(data, after, table) & ~np.uint8(PICTOGRAPH))
        if following == EXTEND or following == FORMAT or following == ZWJ:
            continue
        if before == NUMERIC:
            return in_number and following == NUMERIC
        if kind == DOUBLE:
            return before == HEBREW and following == HEBREW
        return in_word and (following == LETTER or following == HEBREW)
    return False
