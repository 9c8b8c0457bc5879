"""C4's marks: lines without an end or with few words, and what code and filler are told by."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.data.compiled import kernel
from pipeline.data.compiled.characters import INSIDE, SPACE, code_point
from pipeline.data.compiled.gopher import FIRST, MIX

MIN_WORDS = 3
JAVASCRIPT = np.frombuffer(b"javascript", np.uint8)
LOREM_IPSUM = np.frombuffer(b"lorem ipsum", np.uint8)


@kernel
def measure(data, kinds, bounds, newlines, whole_words):
    """Marks of each text, and of its lines of both kinds (starts and ends, how many a text).

    Marks are `javascript`, `lorem ipsum`, a curly brace and the count of lines.
    """
    num = len(bounds) - 1
    marks = np.zeros((num, 4), np.float64)
    unended, num_unended = np.empty((2, newlines + num), np.int32), np.zeros(num, np.int64)
    short, num_short = np.empty((2, newlines + num), np.int32), np.zeros(num, np.int64)
    at_unended = at_short = 0
    for text in range(num):
        end = bounds[text + 1]
        place = begun = words = lines = 0  # in characters
        last, space = 0, True
        for at in range(bounds[text], end + 1):
            byte, kind = (data[at], kinds[at]) if at < end else (np.uint8(10), np.uint8(SPACE))
            if kind & INSIDE:
                continue
            place += at < end
            if byte == 10:
                if last != 46 and last != 63 and last != 33 and last != 34:  # .?!"
                    unended[0, at_unended], unended[1, at_unended] = begun, place
                    at_unended += 1
                    num_unended[text] += 1
                if words < MIN_WORDS:
                    short[0, at_short], short[1, at_short] = begun, place
                    at_short += 1
                    num_short[text] += 1
                lines += 1
                begun, words, last, space = place, 0, 0, True
                continue
            if kind & SPACE:
                space = True
                continue
            if byte | 32 == 106 and (space or not whole_words) and not marks[text, 0]:  # j
                after = at + len(JAVASCRIPT)
                if spelled(data, at, end, JAVASCRIPT) and (
                    not whole_words or after == end or kinds[after] & SPACE
                ):
                    marks[text, 0] = 1
            elif byte | 32 == 108 and not marks[text, 1]:  # l
                marks[text, 1] = spelled(data, at, end, LOREM_IPSUM)
            elif byte == 123:
                marks[text, 2] = 1
            words += space
            last, space = byte, False
        marks[text, 3] = lines
    return marks, unended[:, :at_unended], num_unended, short[:, :at_short], num_short


@kernel
def lowered(byte):
    """An ASCII letter in lower case, any other byte as it is."""
    return byte + np.uint8(32) if 65 <= byte <= 90 else byte


@kernel
def spelled(data, at, end, name):
    """Whether `name`, in lower case, stands at a place before `end`, in whatever case."""
    if at + len(name) > end:
        return False
    for step in range(len(name)):
        if lowered(data[at + step]) != name[step]:
            return False
    return True


@kernel
def find_listed(data, kinds, bounds, entries, cuts, slots, buckets, order, odd):
    """For each text whether it has a word or phrase of a list: 1, 0, or 2 where Python must look.

    Args:
        entries, cuts: the bytes of all entries, and where each begins.
        slots: a hash table of entries that are words, by number and one.
        buckets, order: of each two bytes around a phrase's first space, which phrases have them.
        odd: code points of which lower case is more than changed ASCII letters.
    """
    found = np.zeros(len(bounds) - 1, np.uint8)
    for text in range(len(bounds) - 1):
        start, end = bounds[text], bounds[text + 1]
        word, key, inside, result = start, FIRST, False, 0
        for at in range(start, end + 1):
            byte, kind = (data[at], kinds[at]) if at < end else (np.uint8(32), np.uint8(SPACE))
            if kind & INSIDE and not inside:  # of white space
                continue
            if byte >= 0xC0:
                point, _ = code_point(data, at)
                if point < len(odd) and odd[point]:
                    result = 2
                    break
            if not kind & SPACE:
                if not inside:
                    word, key, inside = at, FIRST, True
                key = (key ^ np.uint64(lowered(byte))) * MIX
                continue
            if inside:
                inside = False
                slot = np.int64(key >> np.uint64(32)) & (len(slots) - 1)
                while slots[slot]:
                    entry = slots[slot] - 1
                    size = cuts[entry + 1] - cuts[entry]
                    if size == at - word and spelled(
                        data, word, at, entries[cuts[entry] : cuts[entry + 1]]
                    ):
                        result = 1
                        break
                    slot = (slot + 1) & (len(slots) - 1)
            if byte == 32 and start < at < end - 1:
                pair = np.int64(lowered(data[at - 1])) << 8 | np.int64(lowered(data[at + 1]))
                for number in range(buckets[pair], buckets[pair + 1]):
                    entry, before = order[number, 0], order[number, 1]
                    if at - before >= start and spelled(
                        data, at - before, end, entries[cuts[entry] : cuts[entry + 1]]
                    ):
                        result = 1
                        break
            if result:
                break
        found[text] = result
    return found


def tables_of(entries: list[bytes], odd: Any) -> tuple[Any, ...]:
    """What `find_listed` takes, of entries in lower case; those with a space are phrases."""
    cuts = np.cumsum([0, *map(len, entries)])
    room = 4
    while room < 4 * len(entries):
        room *= 2
    slots = np.zeros(room, np.int32)
    pairs = []
    for number, entry in enumerate(entries):
        before = entry.find(b" ")
        if before >= 0:
            pairs.append((entry[before - 1] << 8 | entry[before + 1], number, before))
            continue
        key = int(FIRST)
        for byte in entry:
            key = (key ^ byte) * int(MIX) % 2**64
        slot = (key >> 32) % room
        while slots[slot]:
            slot = (slot + 1) % room
        slots[slot] = number + 1
    table = np.array(sorted(pairs), np.int64).reshape(-1, 3)
    buckets = np.searchsorted(table[:, 0], np.arange(2**16 + 1))
    data = np.frombuffer(b"".join(entries) or b"\0", np.uint8)
    return data, cuts, slots, buckets, np.ascontiguousarray(table[:, 1:]), odd
