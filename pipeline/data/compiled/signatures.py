"""Signatures of MinHash: characters are folded, words become n-grams, n-grams the least hashes.

Characters are as the Unicode of the running Python has them.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from pipeline.data.compiled import kernel
from pipeline.data.compiled.hashing import rotated, word_at

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
U = np.uint64
P1, P2 = U(0x9E3779B185EBCA87), U(0xC2B2AE3D27D4EB4F)
P3, P4, P5 = U(0x165667B19E3779F9), U(0x85EBCA77C2B2AE63), U(0x27D4EB2F165667C5)
PRIME = U((1 << 61) - 1)
MOST = U((1 << 64) - 1)
BLOCK = 512  # n-grams whose hashes are held; those of one function are worked on together
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


@njit(nogil=True)
def _round(state: np.uint64, word: np.uint64) -> Any:
    return rotated(state + word * P2, 31) * P1


@njit(nogil=True)
def xxh64(data: Bytes, start: np.uint64, end: np.uint64) -> Any:
    """The 64-bit hash of `data[start:end]`.

    Source: Collet, xxHash specification, XXH64, seed 0.
    """
    size, at = end - start, start
    if size >= U(32):
        one, two, three, four = P1 + P2, P2, U(0), U(0) - P1
        while at + U(32) <= end:
            one, two = _round(one, word_at(data, at)), _round(two, word_at(data, at + U(8)))
            three = _round(three, word_at(data, at + U(16)))
            four = _round(four, word_at(data, at + U(24)))
            at += U(32)
        found = rotated(one, 1) + rotated(two, 7) + rotated(three, 12) + rotated(four, 18)
        for each in (one, two, three, four):
            found = (found ^ _round(U(0), each)) * P1 + P4
    else:
        found = P5
    found += size
    while at + U(8) <= end:
        found = rotated(found ^ _round(U(0), word_at(data, at)), 27) * P1 + P4
        at += U(8)
    if at + U(4) <= end:
        word = U(data[at]) | U(data[at + U(1)]) << U(8)
        word |= U(data[at + U(2)]) << U(16) | U(data[at + U(3)]) << U(24)
        found = rotated(found ^ (word * P1), 23) * P2 + P3
        at += U(4)
    while at < end:
        found = rotated(found ^ (U(data[at]) * P5), 11) * P1
        at += U(1)
    found = (found ^ (found >> U(33))) * P2
    found = (found ^ (found >> U(29))) * P3
    return found ^ (found >> U(32))


@njit(nogil=True)
def _take_least(least: Words, hashes: Words, num: int, factors: Words, terms: Words) -> None:
    """Lower `least[k]` to the least of function `k` over `hashes[:num]`."""
    for k in range(len(least)):
        factor, term, found = factors[k], terms[k], least[k]
        for i in range(num):
            value = hashes[i] * factor + term  # modulo 2^64, as is the reference's
            value = (value & PRIME) + (value >> U(61))
            value = min(value, value - PRIME)  # below the prime it wraps round and is the larger
            found = min(found, value)
        least[k] = found


@njit(nogil=True)
def decoded(data: Bytes, at: int) -> Any:
    """The code point that begins at a byte, and its number of bytes."""
    first = np.int64(data[at])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | (np.int64(data[at + 1]) & 0x3F), 2
    second = np.int64(data[at + 1]) & 0x3F
    third = np.int64(data[at + 2]) & 0x3F
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third, 3
    return (first & 0x07) << 18 | second << 12 | third << 6 | (np.int64(data[at + 3]) & 0x3F), 4


@njit(nogil=True)
def skip_digits(data: Bytes, at: int, end: int, kinds: Bytes, is_point: Bytes) -> Any:
    """Where the number that begins at `at` ends: digits, and once a decimal point and digits."""
    after_point = False
    while at < end:
        point, size = decoded(data, at)
        if point < NUM_POINTS and kinds[point] == DIGIT:
            at += size
        elif not after_point and point < NUM_POINTS and is_point[point] and at + size < end:
            following, _ = decoded(data, at + size)
            if following >= NUM_POINTS or kinds[following] != DIGIT:
                return at
            after_point = True
            at += size
        else:
            return at
    return at


@njit(nogil=True)
def _end_word(
    out: Bytes,
    begin: int,
    end: int,
    begins: Places,
    count: int,
    hashes: Words,
    num_held: int,
    least: Words,
    factors: Words,
    terms: Words,
) -> Any:
    """Take a word, and the n-gram that ends with it; gives the words and the hashes held so far."""
    begins[count % len(begins)] = begin
    count += 1
    if count >= len(begins):
        hashes[num_held] = xxh64(out, U(begins[count % len(begins)]), U(end))
        num_held += 1
        if num_held == BLOCK:
            _take_least(least, hashes, num_held, factors, terms)
            num_held = 0
    out[end] = 32
    return count, num_held


@kernel(nogil=True)
def sign(
    data: Bytes,
    offsets: Offsets,
    num_words: int,
    factors: Words,
    terms: Words,
    kinds: Bytes,
    starts: npt.NDArray[np.uint32],
    sizes: Bytes,
    is_point: Bytes,
    pool: Bytes,
    out: Bytes,
) -> Any:
    """The MinHash signature of each text, a row of `least` each; and its number of words.

    A text is folded into `out`, its words with a space between them, so that an n-gram is a run of
    bytes. A text of fewer than `num_words` words has a row of the largest values.
    """
    least = np.full((len(offsets) - 1, len(factors)), MOST)
    counts = np.zeros(len(offsets) - 1, np.int64)
    hashes, begins = np.empty(BLOCK, np.uint64), np.zeros(num_words, np.int64)
    for text in range(len(offsets) - 1):
        at, end = np.int64(offsets[text]), np.int64(offsets[text + 1])
        begin, filled, count, num_held = 0, 0, 0, 0
        row = least[text]
        while at < end:
            point, size = decoded(data, at)
            kind = np.int64(kinds[point]) if point < NUM_POINTS else ALONE
            if (kind == SPACE or kind == ALONE) and filled > begin:
                count, num_held = _end_word(
                    out, begin, filled, begins, count, hashes, num_held, row, factors, terms
                )
                filled += 1
                begin = filled
            if kind == DIGIT:
                out[filled] = 48
                filled += 1
                at = skip_digits(data, at, end, kinds, is_point)
                continue
            if kind == LETTER or kind == ALONE:
                if point < NUM_POINTS:
                    for i in range(sizes[point]):
                        out[filled + i] = pool[starts[point] + i]
                    filled += sizes[point]
                else:
                    for i in range(size):
                        out[filled + i] = data[at + i]
                    filled += size
            at += size
            if kind == ALONE:
                count, num_held = _end_word(
                    out, begin, filled, begins, count, hashes, num_held, row, factors, terms
                )
                filled += 1
                begin = filled
        if filled > begin:
            count, num_held = _end_word(
                out, begin, filled, begins, count, hashes, num_held, row, factors, terms
            )
        _take_least(row, hashes, num_held, factors, terms)
        counts[text] = count
    return least, counts
