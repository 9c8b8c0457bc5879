"""Gopher's measures of texts: their words, their lines, and what is repeated of both.

Nothing is counted by its hash alone: equal hashes are looked at, byte by byte for words and lines,
and an n-gram is told by the two of n - 1 words that it is made of.
"""

from __future__ import annotations

import numpy as np

from pipeline.data.compiled import kernel
from pipeline.data.compiled.characters import ALPHA, INSIDE, SPACE, SYMBOL

FIRST, MIX = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a
SPREAD = np.uint64(0x9E3779B97F4A7C15)
HALF = np.uint64(32)
LONGEST = 10  # n-gram
MOST_COMMON = 4  # the longest n-gram of which the most common counts
NUM_MEASURES = 19
# "the be to of and that have with" as bytes of one number, the first lowest
REQUIRED = np.array(
    [int.from_bytes(each.encode(), "little") for each in "the be to of and that have with".split()]
)
REQUIRED_BYTES = 4
FEW = 1024  # word lengths that are counted; longer ones are sorted
MANY = 1 << 20  # words, from which on a table of them is smaller, and fuller


@kernel
def measure(data, kinds, bounds, counts, join_newlines):
    """A row a text, in the order of the tagger's columns; NaN where a measure is not defined.

    Args:
        counts: of characters, words and newlines of each text.
        join_newlines: whether several newlines in a row part two lines as one would.
    """
    made = np.full((len(bounds) - 1, NUM_MEASURES), np.nan)
    most = 1
    for text in range(len(counts)):
        most = max(most, counts[text, 1], counts[text, 2] + 1)
    # of words or lines: where each begins, its bytes, its hash, how often there is one
    starts, sizes = np.empty(most, np.int32), np.empty(most, np.int32)
    hashes, times = np.empty(most, np.uint32), np.empty(most, np.int32)
    pieces = (starts, sizes, hashes, times)
    table = np.empty(_room(most), np.int32)
    ends = np.zeros(most + 1, np.int32)  # of words, in characters without white space
    ids = np.empty(most, np.int32)
    words = (ids, ends)
    for text in range(len(bounds) - 1):
        row, start, end = made[text], bounds[text], bounds[text + 1]
        num_words, room = counts[text, 1], _room(counts[text, 2] + 1)
        own, own_kinds = data[start:end], kinds[start:end]
        table[:room] = 0
        _lines(row, own, own_kinds, join_newlines, pieces, table[:room])
        room = _room(num_words)
        table[:room] = 0
        _words(row, own, own_kinds, words, pieces, table[:room])
        _ngrams(row, num_words, words, times, table, starts, sizes)  # which are of no more use
        row[0] = counts[text, 0]
        row[9] /= max(1, ends[num_words])
    return made


@kernel
def _room(count):
    return max(4, min(2 * count, max(2 * MANY, count + count // 2)))


@kernel
def _spread(key):
    """32 bits of a hash, of which each depends on many of its."""
    return np.uint32((key ^ key >> HALF) * SPREAD >> HALF)


@kernel
def _slot(key, room):
    """The place in a table of so many, in proportion to a key of 32 bits."""
    return np.int64(np.uint64(key) * np.uint64(room) >> HALF)


@kernel
def _find(data, pieces, table, place):
    """The first piece of the text that is equal to the one at `place`, which is added if new."""
    starts, sizes, hashes, _ = pieces
    key = hashes[place]
    slot = _slot(key, len(table))
    while table[slot]:
        found = table[slot] - 1
        if hashes[found] == key and sizes[found] == sizes[place]:
            a, b, same = starts[found], starts[place], True
            for step in range(sizes[place]):
                if data[a + step] != data[b + step]:
                    same = False
                    break
            if same:
                return found
        slot = slot + 1 if slot + 1 < len(table) else 0
    table[slot] = place + 1
    return place


@kernel
def _lines(row, data, kinds, join_newlines, pieces, table):
    starts, sizes, hashes, times = pieces
    num = bullets = ellipses = repeated = in_repeated = 0
    line, length, key, end = 0, 0, FIRST, len(data)
    for at in range(end + 1):
        if at < end and data[at] != 10:
            length += not kinds[at] & INSIDE
            key = (key ^ np.uint64(data[at])) * MIX
            continue
        if at < end and join_newlines and at > 0 and data[at - 1] == 10:
            line = at + 1
            continue
        starts[num], sizes[num], hashes[num], times[num] = line, at - line, _spread(key), 0
        if at > line:
            bullets += data[line] == 42 or data[line] == 45
            ellipses += (
                at - line > 2
                and data[at - 3] == 0xE2
                and data[at - 2] == 0x80
                and data[at - 1] == 0xA6
            )
        first = _find(data, pieces, table, num)
        times[first] += 1
        if times[first] > 1:
            more = 2 if times[first] == 2 else 1
            repeated += more
            in_repeated += more * length
        num += 1
        line, length, key = at + 1, 0, FIRST
    if end == 0:  # no text has no lines
        num, repeated = 1, 0
    row[6], row[7], row[8], row[9] = bullets / num, ellipses / num, repeated / num, in_repeated


@kernel
def _words(row, data, kinds, words, pieces, table):
    ids, ends = words
    starts, sizes, hashes, times = pieces
    num = symbols = alphas = required = 0
    at, end = 0, len(data)
    while at < end:
        if kinds[at] & (SPACE | INSIDE):  # of white space, as a word takes its own
            at += 1
            continue
        word, length, key, every = at, 0, FIRST, 0
        while at < end and not kinds[at] & SPACE:
            kind = kinds[at]
            length += not kind & INSIDE
            every |= kind
            key = (key ^ np.uint64(data[at])) * MIX
            at += 1
        starts[num], sizes[num], hashes[num], times[num] = word, at - word, _spread(key), 0
        ends[num + 1] = ends[num] + length
        symbols += every & SYMBOL != 0
        alphas += every & ALPHA != 0
        if at - word <= REQUIRED_BYTES:
            packed = 0
            for place in range(at - 1, word - 1, -1):
                packed = packed << 8 | np.int64(data[place])
            if data[at - 1]:  # else shorter than it looks
                for each in REQUIRED:
                    required += packed == each
        first = _find(data, pieces, table, num)
        ids[num] = first
        times[first] += 1
        num += 1
    row[1] = num
    row[2] = _median(ends, num) if num else 0.0
    row[3], row[4], row[5] = symbols / max(1, num), alphas / max(1, num), required


@kernel
def _median(ends, num):
    counts = np.zeros(FEW, np.int64)
    num_long = 0
    for word in range(num):
        length = ends[word + 1] - ends[word]
        if length < FEW:
            counts[length] += 1
        else:
            num_long += 1
    long = np.empty(num_long, np.int64)
    for word in range(num if num_long else 0):
        length = ends[word + 1] - ends[word]
        if length >= FEW:
            num_long -= 1
            long[num_long] = length
    long.sort()
    return (_ranked(counts, long, (num - 1) // 2) + _ranked(counts, long, num // 2)) / 2


@kernel
def _ranked(counts, long, rank):
    """The word length of a rank from 0; `long` has those that are not counted, in order."""
    for length in range(len(counts)):
        rank -= counts[length]
        if rank < 0:
            return length
    return long[rank]


@kernel
def _ngrams(row, num, words, times, table, active, other):
    """An n-gram has the number of its first place; one that repeats is made of two that do."""
    ids, ends = words
    num_active = 0
    for place in range(num):
        if times[ids[place]] > 1:
            active[num_active] = place
            num_active += 1
    column = 10
    for n in range(2, LONGEST + 1):
        if num < n:
            return
        room = _room(num_active)
        table[:room] = 0
        num_other, best, best_place = 0, 1, 0
        for index in range(num_active - 1):
            place = active[index]
            if active[index + 1] != place + 1:
                continue
            a, b = ids[place], ids[place + 1]
            key = (np.uint64(a) << HALF | np.uint64(b)) * SPREAD
            slot = _slot(key >> HALF, room)
            first = place
            while table[slot]:
                found = table[slot] - 1
                if ids[found] == a and ids[found + 1] == b:
                    first = found
                    break
                slot = slot + 1 if slot + 1 < room else 0
            if first == place:
                table[slot] = place + 1
                times[place] = 0
            times[first] += 1
            # both may be written: those that are read from here on stand further to the right
            other[num_other] = place
            active[num_other] = first
            num_other += 1
        kept = inside = 0
        for index in range(num_other):
            place, first = other[index], active[index]
            if times[first] == 1:
                continue
            ids[place] = first
            if first == place and times[first] > best:
                best, best_place = times[first], place
            inside += ends[place + n] - ends[place]
            active[kept] = place
            kept += 1
        num_active = kept
        if n <= MOST_COMMON:
            row[column] = best * (ends[best_place + n] - ends[best_place]) / ends[num]
        else:
            total = 0
            for place in range(n):
                total += ends[num - place] - ends[place]
            row[column] = inside / total
        column += 1
