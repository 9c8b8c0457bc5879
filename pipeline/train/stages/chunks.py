"""How many tokens the loss takes at a time; without torch, as a plan reckons with it too."""

from __future__ import annotations

CHUNK_BYTES = 64 << 20  # of float32 logits in one chunk, where the tokens are few
MAX_CHUNKS = 8  # for each, the gradient of the whole matrix is read and written once


def tokens_of_chunk(num_tokens: int, vocabulary: int) -> int:
    """Tokens of a chunk of so many, at most all of them."""
    wanted = max(1, CHUNK_BYTES // (4 * vocabulary), -(-num_tokens // MAX_CHUNKS))
    return min(num_tokens, wanted)
