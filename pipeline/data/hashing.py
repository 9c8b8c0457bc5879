"""Kernels over Arrow's own buffers: hashes of texts and paragraphs, and who was first to have one.

Importing this file loads numba, and machine code that the first call leaves beside it; so only the
work itself imports it, inside of functions. That machine code is made anew when this file changes
and no other, so nothing of ours is imported here. All arithmetic is on integers, the same anywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]  # a row a text: 128 bits
Places = npt.NDArray[np.int64]
U = np.uint64
C1, C2 = U(0x87C37B91114253D5), U(0x4CF5AD432745937F)
ONES, TOPS, NEWLINES = U(0x0101010101010101), U(0x8080808080808080), U(0x0A0A0A0A0A0A0A0A)


@njit(nogil=True, inline="always")
def word_at(data: Bytes, at: np.uint64) -> Any:
    """Eight bytes, the first one lowest; LLVM makes one load of it."""
    return (
        U(data[at])
        | U(data[at + U(1)]) << U(8)
        | U(data[at + U(2)]) << U(16)
        | U(data[at + U(3)]) << U(24)
        | U(data[at + U(4)]) << U(32)
        | U(data[at + U(5)]) << U(40)
        | U(data[at + U(6)]) << U(48)
        | U(data[at + U(7)]) << U(56)
    )


@njit(nogil=True)
def rotated(x: np.uint64, num_bits: int) -> Any:
    """`x` turned left by so many bits."""
    return (x << U(num_bits)) | (x >> U(64 - num_bits))


@njit(nogil=True)
def mixed(x: np.uint64) -> Any:
    """`x` with every bit depending on every other: one to one."""
    x ^= x >> U(33)
    x *= U(0xFF51AFD7ED558CCD)
    x ^= x >> U(33)
    x *= U(0xC4CEB9FE1A85EC53)
    return x ^ (x >> U(33))


@njit(nogil=True)
def hashed(data: Bytes, start: np.uint64, end: np.uint64) -> Any:
    """The 128-bit hash of `data[start:end]`, as two words.

    Source: Appleby, MurmurHash3_x64_128, seed 0.
    """
    high, low, at = U(0), U(0), start
    while at + U(16) <= end:
        first, second = word_at(data, at), word_at(data, at + U(8))
        high ^= rotated(first * C1, 31) * C2
        high = (rotated(high, 27) + low) * U(5) + U(0x52DCE729)
        low ^= rotated(second * C2, 33) * C1
        low = (rotated(low, 31) + high) * U(5) + U(0x38495AB5)
        at += U(16)
    first, second, left = U(0), U(0), end - at
    if at + U(16) <= U(len(data)):  # read beyond the end and cut off, where there is something
        first = word_at(data, at)
        if left > U(8):
            second = word_at(data, at + U(8)) & ((U(1) << (U(8) * (left - U(8)))) - U(1))
        elif left < U(8):
            first &= (U(1) << (U(8) * left)) - U(1)
    else:
        place = U(0)
        while place < left:
            if place < U(8):
                first |= U(data[at + place]) << (U(8) * place)
            else:
                second |= U(data[at + place]) << (U(8) * (place - U(8)))
            place += U(1)
    low ^= rotated(second * C2, 33) * C1
    high ^= rotated(first * C1, 31) * C2
    high ^= end - start
    low ^= end - start
    high += low
    low += high
    high, low = mixed(high), mixed(low)
    high += low
    return high, low + high


@njit(nogil=True, cache=True)
def hash_texts(data: Bytes, offsets: Offsets) -> Any:
    """The hash of each text `data[offsets[i]:offsets[i + 1]]`."""
    keys = np.empty((max(0, len(offsets) - 1), 2), np.uint64)
    for place in range(len(keys)):
        high, low = hashed(data, U(offsets[place]), U(offsets[place + 1]))
        keys[place, 0], keys[place, 1] = high, low
    return keys


@njit(nogil=True)
def is_space(point: int) -> Any:
    """`str.isspace` of a code point."""
    if point < 0x80:
        return 9 <= point <= 13 or 28 <= point <= 32
    if point < 0x2000:
        return point == 0x85 or point == 0xA0 or point == 0x1680
    return point <= 0x200A or point in (0x2028, 0x2029, 0x202F, 0x205F, 0x3000)


@njit(nogil=True)
def is_blank(data: Bytes, start: np.uint64, end: np.uint64) -> Any:
    """Is there nothing but white space? The bytes are UTF-8."""
    at = start
    while at < end:
        point, size = int(data[at]), U(1)
        if point >= 0xF0:
            return False
        if point >= 0xE0:
            size = U(3)
            point = (point & 0x0F) << 12 | (int(data[at + U(1)]) & 0x3F) << 6
            point |= int(data[at + U(2)]) & 0x3F
        elif point >= 0x80:
            size = U(2)
            point = (point & 0x1F) << 6 | (int(data[at + U(1)]) & 0x3F)
        if not is_space(point):
            return False
        at += size
    return True


@njit(nogil=True, cache=True)
def cut_paragraphs(
    data: Bytes,
    offsets: Offsets,
    state: Places,
    keys: Keys,
    spans: npt.NDArray[np.int32],
    counts: Places,
    lengths: Places,
) -> Any:
    """Hash the paragraphs of texts until `keys` is full or there is no more; gives their number.

    Args:
        state: text, byte and code point where to go on; begins as 0, `offsets[0]`, 0. The first is
            the number of texts when all is done.
        spans: of each key the paragraph with its newline, half-open, in code points.
        counts, lengths: paragraphs and code points of each text; begin as zeros.
    """
    found = 0
    text, at, point = state[0], U(state[1]), state[2]
    while text < len(offsets) - 1:
        end = U(offsets[text + 1])
        while at < end:
            if found == len(keys):
                state[0], state[1], state[2] = text, np.int64(at), point
                return found
            start, num_inner = at, U(0)  # bytes that begin no character
            while at + U(8) <= end:
                word = word_at(data, at)
                other = word ^ NEWLINES
                if (other - ONES) & ~other & TOPS:
                    break
                num_inner += ((word >> U(7)) & ~(word >> U(6)) & ONES) * ONES >> U(56)
                at += U(8)
            while at < end and data[at] != 10:
                num_inner += U(data[at] & 0xC0 == 0x80)
                at += U(1)
            num_points = np.int64(at - start - num_inner)
            stop = at
            if at < end:
                at += U(1)
                num_points += 1
            if not is_blank(data, start, stop):
                high, low = hashed(data, start, stop)
                keys[found, 0], keys[found, 1] = high, low
                spans[found, 0], spans[found, 1] = point, point + num_points
                counts[text] += 1
                found += 1
            point += num_points
        lengths[text] = point
        text, point = text + 1, 0
    state[0], state[1], state[2] = text, np.int64(at), point
    return found


@njit(nogil=True, cache=True)
def choose_spans(spans: npt.NDArray[np.int32], marks: Bytes, counts: Places) -> Any:
    """Of texts with `counts[i]` spans each, those marked: starts, ends, and bounds of each text's.

    The last of the four is how many code points of each text they cover.
    """
    num_marked = 0
    for i in range(len(marks)):
        num_marked += marks[i]
    starts, ends = np.empty(num_marked, np.int32), np.empty(num_marked, np.int32)
    bounds, covered = np.zeros(len(counts) + 1, np.int32), np.zeros(len(counts), np.int64)
    at, found = 0, 0
    for text in range(len(counts)):
        for i in range(at, at + counts[text]):
            if marks[i]:
                starts[found], ends[found] = spans[i, 0], spans[i, 1]
                covered[text] += spans[i, 1] - spans[i, 0]
                found += 1
        at += int(counts[text])
        bounds[text + 1] = found
    return starts, ends, bounds, covered


@njit(nogil=True, cache=True)
def group(keys: Keys, places: Places, num_bits: int) -> Any:
    """Keys and places in the order of the keys' first bits, equals as they stood; and the bounds.

    Part `p` is `[bounds[p], bounds[p + 1])`.
    """
    num_parts = 1 << num_bits
    bounds = np.zeros(num_parts + 1, np.int64)
    if num_bits == 0:
        bounds[1] = len(keys)
        return keys.copy(), places.copy(), bounds
    shift = U(64 - num_bits)
    for i in range(len(keys)):
        bounds[np.int64(keys[i, 0] >> shift) + 1] += 1
    for part in range(num_parts):
        bounds[part + 1] += bounds[part]
    free = bounds[:-1].copy()
    grouped, moved = np.empty_like(keys), np.empty_like(places)
    for i in range(len(keys)):
        chosen = np.int64(keys[i, 0] >> shift)
        to = free[chosen]
        grouped[to, 0], grouped[to, 1], moved[to] = keys[i, 0], keys[i, 1], places[i]
        free[chosen] = to + 1
    return grouped, moved, bounds


@njit(nogil=True, cache=True)
def find_firsts(keys: Keys, places: Places, slots: Keys, owners: Places, firsts: Places) -> Any:
    """`firsts[i]` is the place of the first key, of this call or earlier ones, that is `keys[i]`.

    Args:
        slots, owners: an open-addressing table of a power of two of keys and their places, less
            than full; a slot whose second word is 0 is free.

    Returns:
        The number of keys that are new in the table.
    """
    mask, num_new = np.int64(len(slots) - 1), 0
    for i in range(len(keys)):
        high, low = keys[i, 0], max(keys[i, 1], U(1))
        slot = np.int64(low & U(mask))
        while slots[slot, 1] != 0 and (slots[slot, 0] != high or slots[slot, 1] != low):
            slot = (slot + 1) & mask
        if slots[slot, 1] == 0:
            slots[slot, 0], slots[slot, 1], owners[slot] = high, low, places[i]
            num_new += 1
        firsts[i] = owners[slot]
    return num_new


@njit(nogil=True, cache=True)
def move_slots(slots: Keys, owners: Places, wider: Keys, wider_owners: Places) -> None:
    """Put what a table holds into a wider one."""
    mask = np.int64(len(wider) - 1)
    for old in range(len(slots)):
        if slots[old, 1] != 0:
            slot = np.int64(slots[old, 1] & U(mask))
            while wider[slot, 1] != 0:
                slot = (slot + 1) & mask
            wider[slot, 0], wider[slot, 1] = slots[old, 0], slots[old, 1]
            wider_owners[slot] = owners[old]


@njit(nogil=True, cache=True)
def join_sets(parents: Places, left: Places, right: Places) -> None:
    """Put `left[i]` and `right[i]` into one set; the root of a set is its smallest member."""
    for i in range(len(left)):
        one, other = left[i], right[i]
        while parents[one] != one:
            parents[one] = parents[parents[one]]
            one = parents[one]
        while parents[other] != other:
            parents[other] = parents[parents[other]]
            other = parents[other]
        if one < other:
            parents[other] = one
        elif other < one:
            parents[one] = other


@njit(nogil=True, cache=True)
def settle_sets(parents: Places, sizes: Places) -> None:
    """Make every parent the root of its set, and count each set at its root."""
    for i in range(len(parents)):
        parents[i] = parents[parents[i]]  # what stands before is settled, and a parent does
        sizes[parents[i]] += 1
