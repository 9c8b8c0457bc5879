"""Byte-level BPE: from text to the ids of tokens.

Text is cut into pieces by the pattern of GPT-2, and the bytes of each piece are merged pair by
pair, the lowest rank first and of equals the leftmost. Pieces repeat, so a cache of what they
became comes before the merging: a slot is one line of a processor's cache, and the piece itself is
in it, so a hit is never another piece that merely looks alike.

Sources: Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.2,
and openai/gpt-2, `encoder.py`; Sennrich et al. 2016, "Neural machine translation of rare words with
subword units", algorithm 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from pipeline.data.compiled import kernel
from pipeline.data.compiled.characters import code_point
from pipeline.data.compiled.hashing import mixed, rotated, word_at

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
U = np.uint64
LETTER, DIGIT, SPACE, OTHER = 0, 1, 2, 3  # kinds of characters, as the pattern tells them apart
LONGEST_PIECE = 1024  # bytes; merging takes time by its square
NO_PAIR = U(0xFFFFFFFFFFFFFFFF)
LONGEST_KEPT, MOST_KEPT = 31, 7  # bytes of a piece in the cache, and ids
CACHE_SLOTS, SLOT_WORDS = 1 << 16, 8
APOSTROPHE, BLANK = 39, 32


@kernel(nogil=True)
def put_pairs(lefts: Numbers, rights: Numbers, made: Numbers, keys: Words, values: Words) -> None:
    """Fill an open-addressing table: of a pair of ids its rank, and the id that it becomes.

    Args:
        keys: a power of two of `NO_PAIR`, less than full when all pairs are in.
    """
    mask = U(len(keys) - 1)
    for rank in range(len(lefts)):
        key = U(lefts[rank]) << U(32) | U(rights[rank])
        slot = mixed(key) & mask
        while keys[slot] != NO_PAIR:
            slot = (slot + U(1)) & mask
        keys[slot], values[slot] = key, U(rank) << U(32) | U(made[rank])


@njit(nogil=True, inline="always")
def pair_of(left: np.uint64, right: np.uint64, keys: Words, values: Words) -> Any:
    """Rank and id of a pair in one word, or NO_PAIR."""
    key, mask = left << U(32) | right, U(len(keys) - 1)
    slot = mixed(key) & mask
    while keys[slot] != NO_PAIR:
        if keys[slot] == key:
            return values[slot]
        slot = (slot + U(1)) & mask
    return NO_PAIR


@njit(nogil=True)
def kind_at(data: Bytes, at: int, blocks: Any, kinds: Bytes) -> Any:
    """The kind of the character that begins at a byte of valid UTF-8, and its bytes."""
    byte = np.int64(data[at])
    if byte < 0x80:
        return kinds[byte], 1
    point, size = code_point(data, at)
    return kinds[np.int64(blocks[point >> 8]) << 8 | (point & 0xFF)], size


@njit(nogil=True)
def piece_end(data: Bytes, at: int, end: int, blocks: Any, kinds: Bytes, spaced: bool) -> Any:
    r"""Where the piece of `data[at:end]` ends that begins at `at`.

    The pattern is `'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.

    Args:
        spaced: two spaces end what stands before them, as runs of spaces are tokens of their own;
            there are not two at `at`.
    """
    if data[at] == APOSTROPHE and at + 1 < end:
        one = data[at + 1]
        if one == 115 or one == 100 or one == 109 or one == 116:  # s d m t
            return at + 2
        if at + 2 < end:
            two = data[at + 2]
            if (one == 108 and two == 108) or (two == 101 and (one == 118 or one == 114)):
                return at + 3  # ll, ve, re
    start = at
    if data[at] == BLANK and at + 1 < end and kind_at(data, at + 1, blocks, kinds)[0] != SPACE:
        start = at + 1
    kind, size = kind_at(data, start, blocks, kinds)
    place = start + size
    if kind != SPACE:
        while place < end:
            other, size = kind_at(data, place, blocks, kinds)
            if other != kind:
                break
            place += size
        return place
    last = at
    while place < end:
        if spaced and data[place] == BLANK and place + 1 < end and data[place + 1] == BLANK:
            return place
        other, size = kind_at(data, place, blocks, kinds)
        if other != SPACE:  # the last of the white space goes with what follows, or stands alone
            return last if last > at else place
        last = place
        place += size
    return place


@njit(nogil=True)
def word_of(data: Bytes, at: int, stop: int) -> Any:
    """Up to eight bytes from `at` on, those from `stop` on as zeros."""
    if at >= stop:
        return U(0)
    if at + 8 <= len(data):
        word = word_at(data, U(at))
        return word if stop - at >= 8 else word & ((U(1) << U(8 * (stop - at))) - U(1))
    word = U(0)
    for place in range(at, min(stop, at + 8)):
        word |= U(data[place]) << U(8 * (place - at))
    return word


@njit(nogil=True)
def merge(
    data: Bytes,
    at: int,
    stop: int,
    byte_ids: Numbers,
    keys: Words,
    values: Words,
    parts: Words,
    pairs: Words,
) -> Any:
    """Merge the bytes of a piece; `parts` begins with the ids then, and their number is given."""
    num = stop - at
    for place in range(num):
        parts[place] = U(byte_ids[data[at + place]])
    for place in range(num - 1):
        pairs[place] = pair_of(parts[place], parts[place + 1], keys, values)
    while num > 1:
        least, best = NO_PAIR, 0
        for place in range(num - 1):
            if pairs[place] < least:
                least, best = pairs[place], place
        if least == NO_PAIR:
            break
        parts[best] = least & U(0xFFFFFFFF)
        num -= 1
        for place in range(best + 1, num):
            parts[place] = parts[place + 1]
            pairs[place - 1] = pairs[place]
        if best > 0:
            pairs[best - 1] = pair_of(parts[best - 1], parts[best], keys, values)
        if best + 1 < num:
            pairs[best] = pair_of(parts[best], parts[best + 1], keys, values)
    return num


@njit(nogil=True)
def key_of(data: Bytes, at: int, stop: int) -> Any:
    """A piece of up to `LONGEST_KEPT` bytes in four words, its length in the last byte."""
    length = U(stop - at) << U(56)
    first, second = word_of(data, at, stop), word_of(data, at + 8, stop)
    return first, second, word_of(data, at + 16, stop), word_of(data, at + 24, stop) | length


@njit(nogil=True)
def slot_of(key: Any) -> Any:
    """A number for the key, of which the last bits are taken."""
    return mixed(key[0] ^ rotated(key[1], 21) ^ rotated(key[2], 42) ^ key[3])


@njit(nogil=True)
def kept_ids(cache: Words, slot: np.uint64, key: Any, parts: Words) -> Any:
    """Put the ids of a piece into `parts`; gives their number, 0 if the piece is not there."""
    if (
        cache[slot, 0] != key[0]
        or cache[slot, 1] != key[1]
        or cache[slot, 2] != key[2]
        or cache[slot, 3] != key[3]
    ):
        return 0
    count = np.int64(cache[slot, 4] & U(0xFFFFFFFF))
    for place in range(1, count + 1):
        parts[place - 1] = (cache[slot, 4 + (place >> 1)] >> U(32 * (place & 1))) & U(0xFFFFFFFF)
    return count


@njit(nogil=True)
def keep_ids(cache: Words, slot: np.uint64, key: Any, parts: Words, count: int) -> None:
    """Keep the ids of a piece in the place of another one's, where they are few enough.

    A row is the key, then in halves of words their number and the ids.
    """
    if count > MOST_KEPT:
        return
    cache[slot, 0], cache[slot, 1], cache[slot, 2], cache[slot, 3] = key
    cache[slot, 4], cache[slot, 5], cache[slot, 6], cache[slot, 7] = U(count), U(0), U(0), U(0)
    for place in range(1, count + 1):
        cache[slot, 4 + (place >> 1)] |= parts[place - 1] << U(32 * (place & 1))


@kernel(nogil=True)
def encode_texts(
    data: Bytes,
    offsets: npt.NDArray[np.int32],
    cuts: npt.NDArray[np.int32],
    blocks: npt.NDArray[np.uint16],
    kinds: Bytes,
    space_ids: Numbers,
    byte_ids: Numbers,
    keys: Words,
    values: Words,
    cache: Words,
    end_id: int,
    state: Numbers,
    ids: npt.NDArray[np.uint32],
    ends: Numbers,
    left: Numbers,
) -> Any:
    """Some more ids of texts, one after the other, until `ids` or `left` are full or all is done.

    Those of a piece of more than `LONGEST_PIECE` bytes are left out.

    Args:
        cuts: tokens that are cut out before, a row each of start, end and id, in their order.
        blocks, kinds: kinds of characters; `kinds[blocks[point >> 8] << 8 | point & 0xFF]`.
        space_ids: of a run of `n` spaces, from two on; empty where there are no such tokens.
        byte_ids: of each byte.
        keys, values: of `put_pairs`.
        cache: a power of two of rows of `SLOT_WORDS`, zeros before the first call; of one thread.
        end_id: put after each text, where it is not negative.
        state: text, byte and cut where to go on; begins as 0, `offsets[0]`, 0. The first is the
            number of texts when all is done.
        ids: room for `LONGEST_PIECE` and more.
        ends: set to where in `ids` those of a text end, of each text that ends.
        left: filled with text, start and end of each longer piece, and the place in `ids` where its
            own are missing.

    Returns:
        The number of ids, and of longer pieces.
    """
    num, num_left, mask = 0, 0, U(len(cache) - 1)
    text, at, cut = state[0], state[1], state[2]
    room = len(ids) - LONGEST_PIECE - 1
    parts, pairs = np.empty(LONGEST_PIECE, np.uint64), np.empty(LONGEST_PIECE, np.uint64)
    spaced = len(space_ids) > 0
    while text < len(offsets) - 1 and num <= room:
        end = np.int64(offsets[text + 1])
        while at < end:
            if num > room or num_left == len(left):
                state[0], state[1], state[2] = text, at, cut
                return num, num_left
            limit = end
            if cut < len(cuts) and cuts[cut, 0] < end:
                limit = np.int64(cuts[cut, 0])
                if limit == at:
                    ids[num] = cuts[cut, 2]
                    num, at, cut = num + 1, np.int64(cuts[cut, 1]), cut + 1
                    continue
            if spaced and data[at] == BLANK and at + 1 < limit and data[at + 1] == BLANK:
                run = 2
                while run + 1 < len(space_ids) and at + run < limit and data[at + run] == BLANK:
                    run += 1
                ids[num] = space_ids[run]
                num, at = num + 1, at + run
                continue
            stop = piece_end(data, at, limit, blocks, kinds, spaced)
            size = stop - at
            if size > LONGEST_PIECE:
                left[num_left, 0], left[num_left, 1] = text, at
                left[num_left, 2], left[num_left, 3] = stop, num
                num_left, at = num_left + 1, stop
                continue
            if size == 1:
                ids[num] = byte_ids[data[at]]
                num, at = num + 1, stop
                continue
            if size > LONGEST_KEPT:
                count = merge(data, at, stop, byte_ids, keys, values, parts, pairs)
            else:
                key = key_of(data, at, stop)
                slot = slot_of(key) & mask
                count = kept_ids(cache, slot, key, parts)
                if count == 0:
                    count = merge(data, at, stop, byte_ids, keys, values, parts, pairs)
                    keep_ids(cache, slot, key, parts, count)
            for place in range(count):
                ids[num + place] = parts[place]
            num, at = num + count, stop
        if end_id >= 0:
            ids[num] = end_id
            num += 1
        ends[text] = num
        text += 1
    state[0], state[1], state[2] = text, at, cut
    return num, num_left


@kernel(nogil=True)
def find_tokens(
    data: Bytes,
    offsets: npt.NDArray[np.int32],
    tokens: Bytes,
    bounds: Numbers,
    token_ids: Numbers,
    cuts: npt.NDArray[np.int32],
) -> Any:
    """Where texts spell a token, from left to right, the first of `tokens` that fits; their number.

    Args:
        tokens, bounds: token `i` is `tokens[bounds[i]:bounds[i + 1]]`, longer ones first.
        cuts: filled with start, end and id of each; where it is full the number is of all.
    """
    begins = np.zeros(256, np.uint8)
    for token in range(len(token_ids)):
        begins[tokens[bounds[token]]] = 1
    num = 0
    for text in range(len(offsets) - 1):
        at, end = np.int64(offsets[text]), np.int64(offsets[text + 1])
        while at < end:
            if not begins[data[at]]:
                at += 1
                continue
            stop = at + 1
            for token in range(len(token_ids)):
                size = bounds[token + 1] - bounds[token]
                if at + size > end:
                    continue
                same = True
                for place in range(size):
                    if data[at + place] != tokens[bounds[token] + place]:
                        same = False
                        break
                if same:
                    stop = at + size
                    if num < len(cuts):
                        cuts[num, 0], cuts[num, 1], cuts[num, 2] = at, stop, token_ids[token]
                    num += 1
                    break
            at = stop
    return num


@kernel(nogil=True)
def texts_with(data: Bytes, offsets: npt.NDArray[np.int32], blocks: Any, marks: Bytes) -> Any:
    """Which texts have a character that is marked; `marks` stand as `kinds` do."""
    found = np.zeros(max(0, len(offsets) - 1), np.bool_)
    for text in range(len(found)):
        at, end = np.int64(offsets[text]), np.int64(offsets[text + 1])
        while at < end:
            if data[at] < 0x80:
                at += 1
                continue
            marked, size = kind_at(data, at, blocks, marks)
            if marked:
                found[text] = True
                break
            at += size
    return found
