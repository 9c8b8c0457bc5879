"""The shape of a model, checked once, and the two published shapes.

Nothing here imports torch, so a plan can be made and counted without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.artifacts import MANIFEST, Checkpoints, HfModel
from pipeline.core.errors import CorruptShard
from pipeline.core.untrusted import built


@dataclass(frozen=True)
class OlmoConfig:
    """The shape of an OLMo 1 transformer.

    `vocab_size` counts the rows of the embedding: those of the tokenizer and those that pad it to a
    multiple of 128 for fast products. As in OLMo, the latter have start values and stand in the
    softmax, and as no text holds them, training makes them unlikely.

    `mlp_hidden_size` is the doubled width, as OLMo writes it: the output of the projection whose
    second half gates its first.

    Source: Groeneveld et al. 2024, "OLMo", table 1; allenai/OLMo, `olmo/config.py`.
    """

    d_model: int
    n_layers: int
    n_heads: int
    mlp_hidden_size: int
    vocab_size: int
    max_sequence_length: int
    rope_theta: float = 10000.0
    tie_embeddings: bool = False
    clip_qkv: float | None = None

    def __post_init__(self) -> None:
        for name in (
            "d_model",
            "n_layers",
            "n_heads",
            "mlp_hidden_size",
            "vocab_size",
            "max_sequence_length",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.d_model % self.n_heads or self.head_size % 2:
            raise ValueError(
                f"d_model is {self.d_model}; it must be n_heads, {self.n_heads}, times an even "
                "number"
            )
        if self.mlp_hidden_size % 2:
            raise ValueError(
                f"mlp_hidden_size is {self.mlp_hidden_size}; it must be even, as half of it gates "
                "the other half"
            )
        if not 0 < self.rope_theta < math.inf:
            raise ValueError(f"rope_theta is {self.rope_theta}; it must be positive and finite")
        if self.clip_qkv is not None and not 0 < self.clip_qkv < math.inf:
            raise ValueError(
                f"clip_qkv is {self.clip_qkv}; it must be positive and finite, or null"
            )

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads

    def require_room(self, num_tokens: int, rows: str) -> None:
        """Raises ValueError where rows of so many tokens are too long for the model."""
        if num_tokens > self.max_sequence_length:
            raise ValueError(
                f"{rows} is {num_tokens}; it must be at most the model's max_sequence_length, "
                f"{self.max_sequence_length}"
            )

    def num_parameters(self) -> int:
        """Parameters of the whole model; tied embeddings count once."""
        matrices = self.vocab_size * self.d_model * (1 if self.tie_embeddings else 2)
        return self.n_layers * self.layer_parameters() + matrices

    def layer_parameters(self) -> int:
        """Parameters of one layer: attention's four matrices, the feed-forward's two."""
        d, hidden = self.d_model, self.mlp_hidden_size
        return 4 * d * d + d * hidden + hidden // 2 * d

    def flops_per_token(self, sequence_length: int) -> int:
        """Floating-point operations of training on one token of a sequence: 6 M + 12 L d T.

        M counts the weights that a token is multiplied by: those of the layers and of the
        projection to the vocabulary; to look up an embedding is no operation. Each weight takes a
        multiplication and an addition forward and four operations backward. Attention multiplies
        by T keys and T values in each of L layers of width d, the masked half counted too. Norms,
        activations and what is computed a second time are not counted.

        Source: Chowdhery et al. 2022, "PaLM", appendix B.
        """
        looked_up = 0 if self.tie_embeddings else self.vocab_size * self.d_model
        weights = self.num_parameters() - looked_up
        return 6 * weights + 12 * self.n_layers * self.d_model * sequence_length


OLMO_1B = OlmoConfig(
    d_model=2048,
    n_layers=16,
    n_heads=16,
    mlp_hidden_size=16384,
    vocab_size=50304,
    max_sequence_length=2048,
    tie_embeddings=True,
)
OLMO_7B = OlmoConfig(
    d_model=4096,
    n_layers=32,
    n_heads=32,
    mlp_hidden_size=22016,
    vocab_size=50304,
    max_sequence_length=2048,
)


def shape_in(artifact: Checkpoints | HfModel) -> OlmoConfig:
    """The shape in a manifest, which came with a workspace and so from anywhere.

    Raises:
        CorruptShard: there is no shape of a model in it.
    """
    try:
        shape: OlmoConfig = built(OlmoConfig, artifact.model, "model")
    except ValueError as error:
        raise CorruptShard(artifact.root / MANIFEST, None, f"is of no model ({error})") from error
    return shape


def require_layers(
    config: OlmoConfig, num_tensors: int, path: Path, name: str = "n_layers"
) -> None:
    """Raises CorruptShard for more layers than tensors: to make them could take all memory."""
    if config.n_layers > num_tensors:
        reason = f"is {config.n_layers}; its files hold {num_tensors} tensors, and a layer has some"
        raise CorruptShard(path, name, reason)
