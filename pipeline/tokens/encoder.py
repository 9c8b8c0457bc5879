r"""The fastest exact way from text to the ids of a tokenizer.

A byte-level BPE is run by kernels of our own (`pipeline/data/compiled/bpe.py`), several times
as fast as `tokenizers`, where they give the same ids; any other tokenizer, and a piece of more than
1,024 bytes (a word, a line of signs), goes through `tokenizers`.

Why the ids are the same. The merging is BPE itself, on the ranks of `tokenizer.json`. What is a
letter, a digit or white space is asked of `tokenizers`, for each code point, so that its version of
Unicode is ours. NFC is made by its own code, of every text with a character that NFC could change
or that could join another. Added tokens are cut out before, the leftmost first and of those the
longest; runs of spaces, which code is full of, in the same pass as the pieces.
"""

from __future__ import annotations

import json
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import tokenizers
from numpy.typing import NDArray

from pipeline.core.artifacts import Tokenizer
from pipeline.data.text_columns import TextColumn
from pipeline.tokens.tokenizer import encode, load_tokenizer

Ids = NDArray[np.int64]
NUM_BYTES = 256
NUM_POINTS = 0x110000
BLOCK_IDS = 1 << 22
MOST_LEFT = 64  # pieces of a block that are left to `tokenizers`
NEVER = {0xC0, 0xC1, *range(0xF5, NUM_BYTES)}  # bytes that no UTF-8 holds
ASSIGNED = 0x40000  # beyond it no letter, digit or space is assigned
SURROGATES = range(0xD800, 0xE000)
# Han, Yi and Hangul, of which there are so many that a look at each takes time, and all others.
IDEOGRAPHS = [range(0x3400, 0x4DC0), range(0x4E00, 0xA490), range(0xAC00, 0xD7A4)]
IDEOGRAPHS += [range(0x17000, 0x18D00), range(0x20000, 0x2F800), range(0x30000, ASSIGNED)]
OTHERS = [range(0x3400), range(0x4DC0, 0x4E00), range(0xA490, 0xAC00), range(0xD7A4, 0xD800)]
OTHERS += [range(0xE000, 0x17000), range(0x18D00, 0x20000), range(0x2F800, 0x30000)]
JAMO = [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]  # vowels and finals, which join


class Encoder:
    """A tokenizer, ready to encode; `is_fast` says whether the kernels do it.

    The ids are those of `pipeline.tokens.tokenizer.encode`, for every text.
    """

    def __init__(self, loaded: tokenizers.Tokenizer) -> None:
        self.loaded = loaded
        self._fast = _fast_form(loaded)
        self._own = threading.local()

    @property
    def is_fast(self) -> bool:
        return self._fast is not None

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, with nothing added at either end."""
        ids, ends = self.encode_column(TextColumn.of(pa.array(list(texts), pa.string())))
        return [each.astype(np.int64) for each in np.split(ids, ends[:-1])] if len(ends) else []

    def encode_column(
        self, texts: TextColumn, end_id: int | None = None
    ) -> tuple[NDArray[np.uint32], Ids]:
        """The ids of all texts, one after the other, and where those of each end.

        Args:
            end_id: put after the ids of each text.
        """
        parts = [(np.empty(0, np.uint32), np.empty(0, np.int64)), *self.blocks(texts, end_id)]
        ids, ends = zip(*parts, strict=True)
        return np.concatenate(ids), np.concatenate(ends)

    def blocks(
        self, texts: TextColumn, end_id: int | None = None
    ) -> Iterator[tuple[NDArray[np.uint32], Ids]]:
        """The same in blocks of some four million ids, each with the ends of texts that end in it.

        A text may go over several; ends are told from the beginning of the first block.
        """
        if self._fast is None:
            yield self._encode_slowly(texts, end_id)
            return
        from pipeline.data.compiled import bpe  # numba

        if not hasattr(self._own, "cache"):  # of each thread, as the kernel writes to it
            self._own.cache = np.zeros((bpe.CACHE_SLOTS, bpe.SLOT_WORDS), np.uint64)
        if self._fast.normalizer is not None:
            texts = _normalized(texts, self._fast.normalizer)
        last = -1 if end_id is None else end_id
        first, num_texts = int(texts.offsets[0]), len(texts.offsets) - 1
        room = min(BLOCK_IDS, int(texts.offsets[-1]) - first + num_texts)
        given = (self._fast.cuts(texts), *self._fast.tables, self._own.cache, last)
        state, ends = np.array([0, first, 0]), np.empty(num_texts, np.int64)
        left, begin = np.empty((MOST_LEFT, 4), np.int64), 0
        while (text := int(state[0])) < num_texts:
            ids = np.empty(room + bpe.LONGEST_PIECE + 1, np.uint32)
            num, num_left = bpe.encode_texts(*texts, *given, state, ids, ends, left)
            ids, ended = ids[:num], ends[text : state[0]]
            if num_left:
                left[:num_left, 0] -= text
                ids = self._with_left(texts, ids, left[:num_left], ended)
            ended += begin
            begin += len(ids)
            yield ids, ended

    def _with_left(
        self, texts: TextColumn, ids: NDArray[np.uint32], left: Ids, ends: Ids
    ) -> NDArray[np.uint32]:
        """A block with the ids of the pieces that were left out, and its ends moved accordingly."""
        parts: list[NDArray[np.uint32]] = []
        before = 0
        for text, start, stop, place in left.tolist():
            piece = texts.data[start:stop].tobytes().decode()
            made = np.array(encode(self.loaded, [piece])[0], np.uint32)
            parts += [ids[before:place], made]
            ends[text:] += len(made)
            before = place
        return np.concatenate([*parts, ids[before:]])

    def _encode_slowly(
        self, texts: TextColumn, end_id: int | None
    ) -> tuple[NDArray[np.uint32], Ids]:
        data, offsets = texts
        bounds = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        after = [] if end_id is None else [end_id]
        made = encode(self.loaded, [data[a:b].tobytes().decode() for a, b in bounds])
        parts = [np.array([*ids, *after], np.uint32) for ids in made]
        ends = np.cumsum([len(each) for each in parts], dtype=np.int64)
        return np.concatenate([*parts, np.empty(0, np.uint32)]), ends


def load_encoder(tokenizer: Tokenizer) -> Encoder:
    """The encoder of a tokenizer, made once a process; raises CorruptShard as `load_tokenizer`."""
    tokenizer.file.verify(tokenizer.root)
    with _LOCK:
        return _encoder(tokenizer)


_LOCK = threading.Lock()


@lru_cache(maxsize=4)
def _encoder(tokenizer: Tokenizer) -> Encoder:
    return Encoder(load_tokenizer(tokenizer))


class _FastBpe(NamedTuple):
    """What the kernels take; `tables` in the order of `bpe.encode_texts`."""

    tables: tuple[Any, ...]
    tokens: NDArray[np.uint8]
    bounds: Ids
    token_ids: Ids
    normalizer: Any

    def cuts(self, texts: TextColumn) -> NDArray[np.int32]:
        """Where added tokens stand in texts: start, end and id of each."""
        from pipeline.data.compiled import bpe  # numba

        cuts = np.empty((1024 if len(self.token_ids) else 0, 3), np.int32)
        while len(self.token_ids):
            num = bpe.find_tokens(*texts, self.tokens, self.bounds, self.token_ids, cuts)
            if num <= len(cuts):
                return cuts[:num]
            cuts = np.empty((num, 3), np.int32)
        return cuts


def _fast_form(loaded: tokenizers.Tokenizer) -> _FastBpe | None:
    """The tokenizer for the kernels; None where it is another kind of one."""
    form = json.loads(loaded.to_str())
    added = _added_tokens(form)
    pairs = _pairs(form["model"]) if _is_byte_level(form) else None
    if added is None or pairs is None:
        return None
    runs, apart = added
    vocabulary: dict[str, int] = form["model"]["vocab"]
    byte_ids = np.full(NUM_BYTES, -1, np.int64)
    for symbol, byte in _bytes_of_symbols().items():
        if byte not in NEVER:
            if symbol not in vocabulary:
                return None
            byte_ids[byte] = vocabulary[symbol]
    contents = sorted(apart, key=lambda each: -len(each.encode()))
    spelled = [each.encode() for each in contents]
    return _FastBpe(
        tables=(*_kinds(), np.array(runs, np.int64), byte_ids, *_pair_table(*pairs)),
        tokens=np.frombuffer(b"".join(spelled), np.uint8),
        bounds=np.cumsum([0, *map(len, spelled)], dtype=np.int64),
        token_ids=np.array([apart[each] for each in contents], np.int64),
        normalizer=loaded.normalizer if form["normalizer"] else None,
    )


def _is_byte_level(form: dict[str, Any]) -> bool:
    model, before = form["model"], form["pre_tokenizer"] or {}
    more = ["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"]
    return (
        model["type"] == "BPE"
        and not any(model.get(name) for name in [*more, "byte_fallback", "ignore_merges"])
        and before.get("type") == "ByteLevel"
        and before.get("use_regex", True)
        and not before.get("add_prefix_space")
        and (form["normalizer"] or {"type": "NFC"})["type"] == "NFC"
    )


def _added_tokens(form: dict[str, Any]) -> tuple[list[int], dict[str, int]] | None:
    """The ids of runs of spaces by their length, and those of other tokens by what they spell.

    None where the kernels cannot cut them out. Special tokens are ordinary text here.
    """
    runs: dict[int, int] = {}
    apart: dict[str, int] = {}
    for token in form["added_tokens"]:
        content = token["content"]
        if token["special"]:
            continue
        if any(token[name] for name in ("lstrip", "rstrip", "single_word")):
            return None
        if len(content) > 1 and not content.strip(" "):
            runs[len(content)] = token["id"]
        elif not content or content != content.strip(" ") or "  " in content:
            return None
        elif not unicodedata.is_normalized("NFC", content) or _may_join(token):
            return None
        else:
            apart[content] = token["id"]
    if not runs:
        return [], apart
    if sorted(runs) != list(range(2, max(runs) + 1)):
        return None
    return [-1, -1, *(runs[length] for length in sorted(runs))], apart


def _may_join(token: dict[str, Any]) -> bool:
    """Whether NFC may join a token with its neighbour, though it is cut out before."""
    content: str = token["content"]
    aside = content[-1].isascii() and not content[-1].isalnum() and content[-1] not in "<=>"
    return not token["normalized"] and not (content[0].isascii() and aside)


def _pairs(model: dict[str, Any]) -> list[Ids] | None:
    """The ids of left and right of each merge, by rank, and of what it makes."""
    vocabulary: dict[str, int] = model["vocab"]
    merges = [each.split(" ") if isinstance(each, str) else each for each in model["merges"]]
    if len({tuple(each) for each in merges}) < len(merges):
        return None
    rows = [[vocabulary.get(each, -1) for each in (a, b, a + b)] for a, b in merges]
    table = np.array(rows, np.int64).reshape(-1, 3)
    return None if (table < 0).any() else [np.ascontiguousarray(each) for each in table.T]


def _pair_table(lefts: Ids, rights: Ids, made: Ids) -> tuple[Any, Any]:
    from pipeline.data.compiled import bpe  # numba

    width = 1 << (2 * len(lefts) + 1).bit_length()
    keys, values = np.full(width, bpe.NO_PAIR, np.uint64), np.zeros(width, np.uint64)
    bpe.put_pairs(lefts, rights, made, keys, values)
    return keys, values


def _bytes_of_symbols() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary.

    Source: Radford et al. 2019; openai/gpt-2, `encoder.py`, `bytes_to_unicode`.
    """
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    shown += range(ord("®"), ord("ÿ") + 1)
    hidden = [byte for byte in range(NUM_BYTES) if byte not in shown]
    made = {chr(byte): byte for byte in shown}
    return made | {chr(NUM_BYTES + place): byte for place, byte in enumerate(hidden)}


@cache
def _kinds() -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """The kind of each code point for `tokenizers`, as blocks.

    All code points in their order are cut into pieces: each piece is of one kind, and a character
    of it that forms one piece with a letter is a letter.
    """
    from pipeline.data.compiled import bpe  # numba

    cutter = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)

    def pieces(text: str) -> list[tuple[int, int]]:
        return [place for _, place in cutter.pre_tokenize_str(text)]

    points = [point for point in range(ASSIGNED) if point not in SURROGATES]
    kinds = np.full(NUM_POINTS, bpe.OTHER, np.uint8)
    for start, end in pieces("".join(map(chr, points))):
        if points[start] == ord(" "):  # which goes with what stands behind it
            kinds[points[start]] = bpe.SPACE
            start += 1
        kind = next(
            (
                kind
                for kind, like in ((bpe.LETTER, "a"), (bpe.DIGIT, "1"), (bpe.OTHER, "!"))
                if len(pieces(like + chr(points[start]))) == 1
            ),
            bpe.SPACE,
        )
        kinds[points[start:end]] = kind
    return _as_blocks(kinds)


@cache
def _may_change() -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """The code points that NFC changes, or that may join what stands before them, as blocks.

    A text of others alone is in NFC. Those that this Python does not know are among them.

    Source: Unicode Standard Annex 15, sections 5 and 9.
    """
    marks = np.ones(NUM_POINTS, np.uint8)
    for block in IDEOGRAPHS:  # letters that do neither
        marks[block.start : block.stop] = [not chr(point).isalpha() for point in block]
    joins = set(JAMO)
    for point in chain(*OTHERS):
        each = chr(point)
        parts = unicodedata.decomposition(each)
        if parts and not parts.startswith("<") and " " in parts:
            joins.add(int(parts.split(" ")[1], 16))
        marks[point] = (
            unicodedata.category(each) == "Cn"
            or unicodedata.combining(each) != 0
            or (parts != "" and not unicodedata.is_normalized("NFC", each))
        )
    marks[list(joins)] = 1
    return _as_blocks(marks)


def _as_blocks(table: NDArray[np.uint8]) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """A table of all code points as the numbers of its blocks, and the blocks that differ.

    The first block stays the first, as kernels look up ASCII there.
    """
    rows = [row.tobytes() for row in table.reshape(-1, NUM_BYTES)]
    numbers = {row: number for number, row in enumerate(dict.fromkeys(rows))}
    blocks = np.array([numbers[row] for row in rows], np.uint16)
    return blocks, np.frombuffer(b"".join(numbers), np.uint8)


def _normalized(texts: TextColumn, normalizer: Any) -> TextColumn:
    """The texts in NFC."""
    from pipeline.data.compiled import bpe  # numba

    places = np.flatnonzero(bpe.texts_with(*texts, *_may_change())).tolist()
    if not places:
        return texts
    data, offsets = texts
    made = [data[offsets[n] : offsets[n + 1]].tobytes() for n in range(len(offsets) - 1)]
    for place in places:
        made[place] = normalizer.normalize_str(made[place].decode()).encode()
    return TextColumn.of(pa.array(made, pa.binary()))
