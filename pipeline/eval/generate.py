"""Text that a checkpoint writes after prompts; a seed and a prompt's place decide every draw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from pipeline.core.artifacts import Checkpoints, Generations, Tokenizer
from pipeline.core.shards import shard_name, write_shard
from pipeline.eval.scoring import named_models
from pipeline.model.olmo import Olmo
from pipeline.tokens.tokenizer import decode, encode, load_tokenizer

SCHEMA = pa.schema(
    [("checkpoint", pa.string()), ("prompt", pa.string()), ("text", pa.string())]
    + [("tokens", pa.list_(pa.int32())), ("seed", pa.int64())]
)


def generate_text(
    checkpoints: Checkpoints,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    out: Path,
) -> Generations:
    """What the latest checkpoint writes after each prompt, up to the end token.

    The end token stands before the prompt; ids that only pad the vocabulary are never written. A
    sequence longer than the model keeps its right end.

    Args:
        prompts: already rendered, as in training.
        temperature: 0 takes the likeliest token.
    """
    if max_new_tokens < 1 or temperature < 0:
        raise ValueError(
            f"max_new_tokens is {max_new_tokens}, temperature is {temperature}; "
            "they must be at least 1 and at least 0"
        )
    (named,) = named_models({"model": checkpoints}, tokenizer.content, None)
    model, loaded = named.load(), load_tokenizer(tokenizer)
    rows: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for place, (prompt, ids) in enumerate(zip(prompts, encode(loaded, prompts), strict=True)):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + place) % 2**63)
        start = [tokenizer.end_id, *ids]
        new = _continued(model, tokenizer, start, max_new_tokens, temperature, generator)
        values = (checkpoints.latest.name, prompt, decode(loaded, new), new, seed)
        for name, value in zip(SCHEMA.names, values, strict=True):
            rows[name].append(value)
    return Generations.of(
        Path(out),
        settings={"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed},
        shards=[write_shard(Path(out), shard_name(0), rows, SCHEMA)],
    )


@torch.inference_mode()
def _continued(
    model: Olmo,
    tokenizer: Tokenizer,
    ids: list[int],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> list[int]:
    """The new ids, without the end token that stopped them."""
    device = next(model.parameters()).device
    new: list[int] = []
    for _ in range(max_new_tokens):
        seen = (ids + new)[-model.config.max_sequence_length :]
        hidden_D = model(torch.tensor([seen], device=device))[0, -1]
        logits_V = model.logits(hidden_D).float().cpu()[: tokenizer.vocab_size]
        if temperature == 0:
            token = int(logits_V.argmax())
        else:
            chances_V = torch.softmax(logits_V / temperature, -1)
            token = int(torch.multinomial(chances_V, 1, generator=generator))
        if token == tokenizer.end_id:
            break
        new.append(token)
    return new
