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
    starts, sizes = np.empty(most, np.int64), np.empty(most, np.int32)
    hashes, times = np.empty(most, np.uint64), np.empty(most, np.int32)
    pieces = (starts, sizes, hashes, times)
    table = np.empty(_room(most), np.int32)
    ends = np.zeros(most + 1, np.int64)  # of words, in characters without white space
    ids, active, other = (
        np.empty(most, np.int32),
        np.empty(most, np.int32),
        np.empty(most, np.int32),
    )
    words = (ids, ends)
    for text in range(len(bounds) - 1):
        row, start, end = made[text], bounds[text], bounds[text + 1]
        num_words, room = counts[text, 1], _room(counts[text, 2] + 1)
        table[:room] = 0
        _lines(row, data, kinds, (start, end), join_newlines, pieces, table[:room])
        room = _room(num_words)
        table[:room] = 0
        _words(row, data, kinds, (start, end), words, pieces, table[:room])
        _ngrams(row, num_words, words, times, table, active, other)
        row[0] = counts[text, 0]
        row[9] /= max(1, ends[num_words])
    return made


@kernel
def _room(count):
    room = 4
    while room < 2 * count:
        room *= 2
    return room


@kernel
def _find(data, pieces, table, place):
    """The first piece of the text that is equal to the one at `place`, which is added if new."""
    starts, sizes, hashes, _ = pieces
    last = len(table) - 1
    key = hashes[place]
    slot = np.int64((key ^ key >> HALF) & np.uint64(last))
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
        slot = (slot + 1) & last
    table[slot] = place + 1
    return place


@kernel
def _lines(row, data, kinds, bounds, join_newlines, pieces, table):
    start, end = bounds
    starts, sizes, hashes, times = pieces
    num = bullets = ellipses = repeated = in_repeated = 0
    line, length, key = start, 0, FIRST
    for at in range(start, end + 1):
        if at < end and data[at] != 10:
            length += not kinds[at] & INSIDE
            key = (key ^ np.uint64(data[at])) * MIX
            continue
        if at < end and join_newlines and at > start and data[at - 1] == 10:
            line = at + 1
            continue
        starts[num], sizes[num], hashes[num], times[num] = line, at - line, key, 0
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
    if start == end:  # no text has no lines
        num, repeated = 1, 0
    row[6], row[7], row[8], row[9] = bullets / num, ellipses / num, repeated / num, in_repeated


@kernel
def _words(row, data, kinds, bounds, words, pieces, table):
    start, end = bounds
    ids, ends = words
    starts, sizes, hashes, times = pieces
    num = symbols = alphas = required = longest = 0
    at = start
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
        starts[num], sizes[num], hashes[num], times[num] = word, at - word, key, 0
        ends[num + 1] = ends[num] + length
        longest = max(longest, length)
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
    row[2] = _median(ends, num, longest) if num else 0.0
    row[3], row[4], row[5] = symbols / max(1, num), alphas / max(1, num), required


@kernel
def _median(ends, num, longest):
    low, high = (num - 1) // 2, num // 2
    if longest > FEW:
        lengths = np.sort(np.diff(ends[: num + 1]))
        return (lengths[low] + lengths[high]) / 2
    counts = np.zeros(longest + 1, np.int64)
    for word in range(num):
        counts[ends[word + 1] - ends[word]] += 1
    below, first, second = 0, -1, -1
    for length in range(longest + 1):
        below += counts[length]
        if first < 0 and below > low:
            first = length
        if second < 0 and below > high:
            second = length
    return (first + second) / 2


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
        shift = np.uint64(64)
        size = room
        while size > 1:
            size //= 2
            shift -= np.uint64(1)
        table[:room] = 0
        num_other, best, best_place = 0, 1, 0
        for index in range(num_active - 1):
            place = active[index]
            if active[index + 1] != place + 1:
                continue
            a, b = ids[place], ids[place + 1]
            key = (np.uint64(a) << HALF | np.uint64(b)) * SPREAD
            slot = np.int64(key >> shift)
            first = place
            while table[slot]:
                found = table[slot] - 1
                if ids[found] == a and ids[found + 1] == b:
                    first = found
                    break
                slot = (slot + 1) & (room - 1)
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
