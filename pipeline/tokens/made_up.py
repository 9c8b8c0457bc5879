"""In the place of what was published: a small tokenizer with as many ids, token ids, indices."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from pipeline.tokens.tokenizer import NUM_BYTES

NUM_TRAINED = 1024
NUM_IDS = 1 << 16


def write_made_up_tokenizer(
    path: Path,
    texts: Iterable[str],
    *,
    vocab_size: int,
    end_token: str = "<|endoftext|>",
    pad_token: str = "<|padding|>",
) -> None:
    """Train a byte-level BPE and write it as a `tokenizer.json` with `vocab_size` ids.

    The end and padding tokens have the last ids; between them and what was trained stand ids that
    no text has, so that whatever depends on the size of the vocabulary is as it will be.

    Raises:
        ValueError: the vocabulary has no room for every byte and two special tokens.
    """
    specials = list(dict.fromkeys([end_token, pad_token]))
    room = vocab_size - len(specials)
    if room < NUM_BYTES:
        least = NUM_BYTES + len(specials)
        raise ValueError(f"vocab_size is {vocab_size}; it must be at least {least}")
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(NUM_TRAINED, room),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    form = json.loads(model.to_str())
    vocabulary = form["model"]["vocab"]
    for number in range(len(vocabulary), room):
        vocabulary[f"<|unused {number}|>"] = number  # a space is no symbol of a byte-level token
    filled = tokenizers.Tokenizer.from_str(json.dumps(form))
    filled.add_special_tokens(
        [AddedToken(each, special=True, normalized=False) for each in specials]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(filled.to_str(), encoding="utf-8")


def write_made_up_tokens(path: Path) -> None:
    """Write a file of two-byte ids that every byte-level tokenizer has, none of them special."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((2 + np.arange(NUM_IDS) % (NUM_BYTES - 2)).astype("<u2").tobytes())


def write_made_up_indices(path: Path) -> None:
    """Write a reading order, as ai2-olmo does, of instances from the first on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.arange(NUM_IDS, dtype="<u4").tobytes())
