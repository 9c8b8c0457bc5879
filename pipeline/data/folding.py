"""What every character becomes where texts are compared: its kind, and the bytes that stand for it.

Letters lose case and accents, punctuation and symbols become spaces; what makes words of characters
is the business of whoever reads the table. Characters are as the Unicode of the running Python
has them.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

SPACE, LETTER, ALONE, DROPPED, DIGIT = range(5)
NUM_POINTS = 0x20000  # characters from here on are ideographs, each a word of its own
DECIMAL_POINTS = ".,\u060c\u066b\u2396\u2397\u2398"
MOST_BYTES = 4  # for each byte of text, with a space before it
# Scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana, ideographs.
UNSPACED = (
    (0x0E00, 0x0F00),
    (0x1000, 0x10A0),
    (0x1780, 0x1800),
    (0x3041, 0x3100),
    (0x31F0, 0x3200),
    (0x3400, 0x4DC0),
    (0x4E00, 0xA000),
    (0xF900, 0xFB00),
)


class Folding(NamedTuple):
    """By code point: kind, and where in `pool` its UTF-8 begins and how long it is."""

    kinds: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.uint32]
    sizes: npt.NDArray[np.uint8]
    is_point: npt.NDArray[np.uint8]  # between the digits of one number
    pool: npt.NDArray[np.uint8]


@cache
def folding() -> Folding:
    """The table; the same for all that ask."""
    kinds = np.zeros(NUM_POINTS, np.uint8)
    starts, sizes = np.zeros(NUM_POINTS, np.uint32), np.zeros(NUM_POINTS, np.uint8)
    pool = bytearray()
    for point in range(NUM_POINTS):
        kinds[point], text = folded(chr(point))
        if text:
            starts[point], sizes[point] = len(pool), len(text)
            pool += text
            assert len(text) < MOST_BYTES * len(chr(point).encode())
    is_point = np.zeros(NUM_POINTS, np.uint8)
    is_point[[ord(each) for each in DECIMAL_POINTS]] = 1
    return Folding(kinds, starts, sizes, is_point, np.frombuffer(bytes(pool), np.uint8))


def folded(character: str) -> tuple[int, bytes]:
    """The kind of a character, and the UTF-8 that stands for it."""
    category = unicodedata.category(character)
    if category == "Nd":
        return DIGIT, b"0"
    if category in ("Mn", "Me", "Cf"):
        return DROPPED, b""
    if category[0] in "PSZC":
        return SPACE, b""
    apart = unicodedata.normalize("NFD", character.lower())
    plain = "".join(each for each in apart if unicodedata.category(each) != "Mn").encode()
    if not plain:
        return DROPPED, b""
    unspaced = any(low <= ord(character) < high for low, high in UNSPACED)
    return (ALONE if unspaced else LETTER), plain
