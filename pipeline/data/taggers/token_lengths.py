"""How long a document is in the tokens of a tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from pipeline.core.errors import CorruptShard
from pipeline.core.fingerprints import OutsideFile
from pipeline.data.taggers import State, Value, state_of
from pipeline.data.text import CUT, pieces


@dataclass(frozen=True)
class TokenLengths:
    """`num_tokens`: how many tokens a document has, without those that would mark its ends.

    Args:
        tokenizer: a `tokenizer.json`, by path or by URL with its revision. A tagger takes a file
            and no step's result, as what a step reads stands among its own arguments; of a
            tokenizer that was trained in a run, give the path of its file.

    Source: allenai/dolma 1.2.1, `taggers/length.py`, `dolma_v1_tokenizer`, `dolma_v2_tokenizer`.
    Differs: text is not stripped first, as `tokenize` does not strip it; any tokenizer.
    """

    tokenizer: OutsideFile

    name: ClassVar[str] = "token_lengths"
    VERSION: ClassVar[str] = "001"
    COLUMNS: ClassVar[dict[str, str]] = {"num_tokens": "number"}

    def measure(self, text: str) -> dict[str, Value]:
        path = str(self.tokenizer.local())
        tokenizer, can_cut = _tokenizer(path, state_of(path))
        parts = pieces(text) if can_cut else [text]
        count = sum(len(tokenizer.encode(each, add_special_tokens=False).ids) for each in parts)
        return {"num_tokens": float(count)}


@cache
def _tokenizer(path: str, state: State) -> tuple[Any, bool]:
    """A tokenizer, and whether it finds in a text what it finds in its pieces, one by one."""
    from tokenizers import Tokenizer

    try:
        made = Tokenizer.from_file(path)
    except Exception as error:  # it raises no narrower one
        raise CorruptShard(path, None, f"is no tokenizer ({error})") from error
    form = json.loads(made.to_str())
    before = form["pre_tokenizer"] or {}
    can_cut = (
        before.get("type") == "ByteLevel"  # by the pattern of GPT-2
        and before.get("use_regex", True)
        and not before.get("add_prefix_space")
        and (form["normalizer"] or {"type": "NFC"})["type"] == "NFC"
        and not any(
            each["lstrip"] or each["rstrip"] or each["single_word"] or CUT.search(each["content"])
            for each in form["added_tokens"]
        )
    )
    return made, can_cut
