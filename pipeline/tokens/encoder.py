"""The fastest exact way from text to the ids of a tokenizer.

A byte-level BPE is run by `tiktoken`, several times as fast as `tokenizers`, where it provably
gives the same ids; any other tokenizer, and a text that the proof leaves out, goes through
`tokenizers`.

Why the ids are the same. `tiktoken` merges two neighbours whenever their bytes together are a
token; BPE only where that pair is the token's own merge. Inside a token the two agree as long as
BPE alone makes that token of its bytes: then the last two parts of it are always the same two. So
tokens that BPE does not make of their own bytes, which no text can ever give, are left out, and
ranks are the places of the merges. What remains is to cut text as `tokenizers` does: NFC by its own
code, the pattern of GPT-2, and, before it, added tokens that are runs of spaces, longest first.

Where a space or newline follows something that is no white space, or a digit or ASCII punctuation a
letter, each of the three ends what it has, and nothing before depends on what comes after: there a
long text is cut into pieces, unless an added token may stand there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from pipeline.core.artifacts import Tokenizer
from pipeline.data.text import CUT, pieces
from pipeline.tokens.tokenizer import encode, load_tokenizer

Ids = NDArray[np.int64]
NUM_BYTES = 256
NEVER = {0xC0, 0xC1, *range(0xF5, NUM_BYTES)}  # bytes that no UTF-8 holds
_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
PATTERN = rf"{_WORDS}|\s+(?!\S)|\s+"
# A run of two spaces or more is one piece, so no white space runs over the first two of one.
SPACED_PATTERN = rf" {{2,%d}}|{_WORDS}|(?:[^\S ]| (?! ))+(?!\S)|(?:[^\S ]| (?! ))+"
LONGEST_PIECE = 1 << 16  # characters; a longer one is left to `tokenizers`
CUTS = [CUT.pattern, "[A-Za-z](?=[0-9])", r"[A-Za-z](?=[!-/:-@\[-`{-~])"]
_SPACE = re.compile(r"\s+")


class Encoder:
    """A tokenizer, ready to encode; `is_fast` says whether `tiktoken` does it.

    The ids are those of `pipeline.tokens.tokenizer.encode`, for every text.
    """

    def __init__(self, loaded: tokenizers.Tokenizer) -> None:
        self.loaded = loaded
        self._fast = _FastBpe.of(loaded)

    @property
    def is_fast(self) -> bool:
        return self._fast is not None

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, with nothing added at either end."""
        if self._fast is None:
            return [np.array(ids, np.int64) for ids in encode(self.loaded, texts)]
        made = [self._fast.encode(text) for text in texts]
        left = [place for place, ids in enumerate(made) if ids is None]
        if left:
            ids_of = encode(self.loaded, [texts[place] for place in left])
            for place, ids in zip(left, ids_of, strict=True):
                made[place] = np.array(ids, np.int64)
        return [ids for ids in made if ids is not None]

    def encode_long(self, text: str) -> Iterator[Ids]:
        """The ids of a text in pieces; one piece where it is not known that it can be cut."""
        cut = self._fast.cut if self._fast is not None else None
        for piece in pieces(text, cut=cut) if cut is not None else [text]:
            yield from self.encode([piece])


def load_encoder(tokenizer: Tokenizer) -> Encoder:
    """The encoder of a tokenizer, made once a process; raises CorruptShard as `load_tokenizer`."""
    tokenizer.file.verify(tokenizer.root)
    return _encoder(tokenizer)


@lru_cache(maxsize=4)
def _encoder(tokenizer: Tokenizer) -> Encoder:
    return Encoder(load_tokenizer(tokenizer))


class _FastBpe:
    """A byte-level BPE under `tiktoken`."""

    def __init__(
        self, merged: list[tuple[bytes, int]], spaces: dict[int, int], apart: list[str], nfc: Any
    ) -> None:
        import tiktoken

        self.apart, self.nfc = apart, nfc
        cuts = [each for each in CUTS if not any(re.search(each, token) for token in apart)]
        self.cut = re.compile("|".join(cuts)) if cuts else None
        ranks: dict[bytes, int] = {}
        ids: list[int] = []
        for token, number in merged:
            if spaces and b"  " in token:
                continue  # a run of spaces is cut out before
            ranks[token] = len(ids)
            ids.append(number)
        for length, number in spaces.items():
            ranks[b" " * length] = len(ids)
            ids.append(number)
        pattern = SPACED_PATTERN % max(spaces) if spaces else PATTERN
        self.ids = np.array(ids, np.int64)
        self.model = tiktoken.Encoding(
            "bpe", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
        )

    @classmethod
    def of(cls, loaded: tokenizers.Tokenizer) -> _FastBpe | None:
        """None where the proof does not hold."""
        form = json.loads(loaded.to_str())
        model, before = form["model"], form["pre_tokenizer"] or {}
        plain = (
            model["type"] == "BPE"
            and not any(
                model.get(name)
                for name in (
                    "dropout",
                    "unk_token",
                    "continuing_subword_prefix",
                    "end_of_word_suffix",
                    "byte_fallback",
                    "ignore_merges",
                )
            )
            and before.get("type") == "ByteLevel"
            and before.get("use_regex", True)
            and not before.get("add_prefix_space")
            and (form["normalizer"] or {"type": "NFC"})["type"] == "NFC"
        )
        merged = _in_order_of_merges(loaded, model) if plain else None
        if merged is None:
            return None
        spaces: dict[int, int] = {}
        apart: list[str] = []
        for token in form["added_tokens"]:
            content = token["content"]
            if token["special"]:
                continue  # ordinary text here
            if any(token[name] for name in ("lstrip", "rstrip", "single_word")):
                return None
            if len(content) > 1 and not content.strip(" "):
                spaces[len(content)] = token["id"]
            else:
                apart.append(content)
        if spaces and sorted(spaces) != list(range(2, max(spaces) + 1)):
            return None
        return cls(merged, spaces, apart, loaded.normalizer if form["normalizer"] else None)

    def encode(self, text: str) -> Ids | None:
        """The ids of a text; None where it must go through `tokenizers`."""
        if self.nfc is not None and not text.isascii():
            text = self.nfc.normalize_str(text)
        if any(each in text for each in self.apart) or _has_long_piece(text):
            return None
        found = self.model.encode_to_numpy(text, allowed_special=set(), disallowed_special=())
        ids: Ids = self.ids[found]
        return ids


def _has_long_piece(text: str) -> bool:
    """Whether more than `LONGEST_PIECE` characters on end are all white space, or none is."""
    if len(text) <= LONGEST_PIECE:
        return False
    longest = max(map(len, text.split()), default=0)
    return longest > LONGEST_PIECE or any(
        run.end() - run.start() > LONGEST_PIECE for run in _SPACE.finditer(text)
    )


def _in_order_of_merges(
    loaded: tokenizers.Tokenizer, model: dict[str, Any]
) -> list[tuple[bytes, int]] | None:
    """Bytes and id of every token that text can give, single bytes first, then as they merge."""
    byte_of = _bytes_of_symbols()
    vocabulary: dict[str, int] = model["vocab"]
    if any(symbol not in vocabulary for symbol, byte in byte_of.items() if byte not in NEVER):
        return None
    made = [(bytes([b]), vocabulary[symbol]) for symbol, b in byte_of.items() if b not in NEVER]
    made.sort()
    seen: set[str] = set()
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        whole = left + right
        if whole in seen or whole not in vocabulary or any(each not in byte_of for each in whole):
            return None
        seen.add(whole)
        parts = loaded.model.tokenize(whole)
        if len(parts) == 1 and parts[0].id == vocabulary[whole]:
            made.append((bytes(byte_of[each] for each in whole), vocabulary[whole]))
    return made


def _bytes_of_symbols() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary.

    Source: Radford et al. 2019; openai/gpt-2, `encoder.py`, `bytes_to_unicode`.
    """
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    shown += range(ord("®"), ord("ÿ") + 1)
    hidden = [byte for byte in range(NUM_BYTES) if byte not in shown]
    made = {chr(byte): byte for byte in shown}
    return made | {chr(NUM_BYTES + place): byte for place, byte in enumerate(hidden)}
