"""What each byte of UTF-8 text is, and how many characters, words and lines texts have."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from pipeline.data.compiled import kernel

# kinds of the character that begins at a byte; a byte inside of a character is INSIDE and no more
SPACE = 1
ALPHA = 2
DECIMAL = 4
SYMBOL = 8  # a number sign or an ellipsis
AROUND = 16  # what may stand around an e-mail address: white space and .@,?!;:)(
STOP = 32  # what ends the domain of one: ,?!;:)(
INSIDE = 128
CODE_POINTS = 0x40000  # no letter, digit or space is assigned, or will be soon, beyond plane 3


@cache
def kind_table() -> Any:
    """The kinds of each code point, as this Python's own tables of Unicode have them."""
    table = np.zeros(CODE_POINTS, np.uint8)
    every = list(map(chr, range(CODE_POINTS)))
    for kind, test in (
        (SPACE | AROUND, str.isspace),
        (ALPHA, str.isalpha),
        (DECIMAL, str.isdecimal),
    ):
        found = np.fromiter(map(test, every), np.bool_, CODE_POINTS)
        table[found] |= kind
    for kind, characters in ((SYMBOL, "#\u2026"), (AROUND, ".@,?!;:)("), (STOP, ",?!;:)(")):
        table[[ord(each) for each in characters]] |= kind
    return table


@kernel
def kinds_of(data, table):
    """The kinds of the character that begins at each byte of valid UTF-8."""
    kinds = np.empty(len(data), np.uint8)
    at = 0
    while at < len(data):
        byte = data[at]
        if byte < 0x80:
            kinds[at] = table[byte]
            at += 1
            continue
        point, size = code_point(data, at)
        kinds[at] = table[point] if point < len(table) else 0
        for inside in range(at + 1, at + size):
            kinds[inside] = INSIDE
        at += size
    return kinds


@kernel
def code_point(data, at):
    """The character that begins at a byte of 128 or more, and its bytes."""
    byte = np.int64(data[at])
    size, point = 4, byte & 0x07
    if byte < 0xE0:
        size, point = 2, byte & 0x1F
    elif byte < 0xF0:
        size, point = 3, byte & 0x0F
    for inside in range(at + 1, at + size):
        point = point << 6 | np.int64(data[inside]) & 0x3F
    return point, size


@kernel
def counts_of(data, kinds, bounds):
    """Characters, words and newlines of each text."""
    counts = np.zeros((len(bounds) - 1, 3), np.int64)
    for text in range(len(bounds) - 1):
        characters = words = newlines = 0
        space = True
        for at in range(bounds[text], bounds[text + 1]):
            kind = kinds[at]
            if kind & INSIDE:
                continue
            characters += 1
            newlines += data[at] == 10
            words += space and not kind & SPACE
            space = kind & SPACE != 0
        counts[text, 0], counts[text, 1], counts[text, 2] = characters, words, newlines
    return counts
