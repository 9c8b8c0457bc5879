"""The OLMo 1 transformer: non-parametric layer norm, rotary attention, gated feed-forward.

Shapes: B batch, T tokens, D width, H heads, K width of a head, V rows of the vocabulary,
F doubled width of the feed-forward.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.model.config import OlmoConfig

NORM_EPSILON = 1e-5
CUTOFF = 3.0  # standard deviations at which the start values are cut
Rope = tuple[Tensor, Tensor]  # cosines and sines, float32 whatever the precision


class _Linear(nn.Linear):
    """A matrix without bias whose creation draws nothing from the global generator."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__(num_in, num_out, bias=False)

    def reset_parameters(self) -> None:
        pass


class _Embedding(nn.Embedding):
    """An embedding whose creation draws nothing from the global generator."""

    def reset_parameters(self) -> None:
        pass


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind a layer norm and around a residual.

    With `recomputed` true it keeps its input only, and is computed again in the backward pass.
    """

    def __init__(self, config: OlmoConfig) -> None:
        super().__init__()
        self.config = config
        self.recomputed = False
        d = config.d_model
        self.att_proj = _Linear(d, 3 * d)
        self.attn_out = _Linear(d, d)
        self.ff_proj = _Linear(d, config.mlp_hidden_size)
        self.ff_out = _Linear(config.mlp_hidden_size // 2, d)

    def forward(self, x_BTD: Tensor, rope: Rope, seen_BTT: Tensor | None = None) -> Tensor:
        if not self.recomputed:
            return self._output(x_BTD, rope, seen_BTT)
        made: Tensor = checkpoint(
            self._output, x_BTD, rope, seen_BTT, use_reentrant=False, preserve_rng_state=False
        )
        return made

    def _output(self, x_BTD: Tensor, rope: Rope, seen_BTT: Tensor | None) -> Tensor:
        qkv_BTX = self.att_proj(_norm(x_BTD))
        x_BTD = x_BTD + self.attn_out(self._attend(qkv_BTX, rope, seen_BTT))
        up_BTF, gate_BTF = self.ff_proj(_norm(x_BTD)).chunk(2, dim=-1)
        added_BTD: Tensor = self.ff_out(F.silu(gate_BTF) * up_BTF)
        return x_BTD + added_BTD

    def _attend(self, qkv_BTX: Tensor, rope: Rope, seen_BTT: Tensor | None) -> Tensor:
        config = self.config
        if config.clip_qkv is not None:
            qkv_BTX = qkv_BTX.clamp(-config.clip_qkv, config.clip_qkv)
        B, T, _ = qkv_BTX.shape
        q_BHTK, k_BHTK, v_BHTK = (
            part_BTD.view(B, T, config.n_heads, config.head_size).transpose(1, 2)
            for part_BTD in qkv_BTX.chunk(3, dim=-1)
        )
        mixed_BHTK = F.scaled_dot_product_attention(
            _rotate(q_BHTK, *rope),
            _rotate(k_BHTK, *rope),
            v_BHTK,
            attn_mask=None if seen_BTT is None else seen_BTT[:, None],
            is_causal=seen_BTT is None,
        )
        return mixed_BHTK.transpose(1, 2).reshape(B, T, config.d_model)


class Olmo(nn.Module):
    """The language model; `forward` gives hidden states and `logits` projects those you want.

    With a `seed` the parameters have their start values; without one they are uninitialised
    memory, to be loaded. The state dict has parameters only.

    Source: allenai/OLMo v0.2.4, `olmo/model.py`.
    """

    def __init__(self, config: OlmoConfig, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.compiled = False  # whether its layers are, and with them what is made of its output
        self.embed = _Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        if not config.tie_embeddings:
            self.head = _Linear(config.d_model, config.vocab_size)
        if seed is not None:
            self.init_weights(seed)

    def forward(
        self, ids_BT: Tensor, places_BT: Tensor | None = None, seen_BTT: Tensor | None = None
    ) -> Tensor:
        """Hidden states after the last norm, shape BTD; position t sees ids 0 to t.

        Args:
            places_BT: where each id stands in its sequence, for rows that are not one sequence.
            seen_BTT: true where the first T may attend to the second, in place of what is before.
        """
        if places_BT is None and ids_BT.shape[1] > self.config.max_sequence_length:
            raise ValueError(
                f"sequence has {ids_BT.shape[1]} tokens; it must have at most "
                f"{self.config.max_sequence_length}"
            )
        length, device = ids_BT.shape[1], ids_BT.device
        places = torch.arange(length, device=device) if places_BT is None else places_BT[:, None]
        rope = rope_tables(places, self.config.head_size, self.config.rope_theta)
        x_BTD = self.embed(ids_BT)
        if torch.is_autocast_enabled(device.type):  # as OLMo's bf16: the residual stream too
            x_BTD = x_BTD.to(torch.get_autocast_dtype(device.type))
        for block in self.blocks:
            x_BTD = block(x_BTD, rope, seen_BTT)
        return _norm(x_BTD)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states of any leading shape, `... D` to `... V`."""
        if self.config.tie_embeddings:
            return F.linear(hidden, self.embed.weight)
        logits: Tensor = self.head(hidden)
        return logits

    def init_weights(self, seed: int) -> None:
        """Draw the start values; the same seed gives the same values on any device or sharding.

        The generator is private and on the CPU, and one whole matrix is held at a time, so a model
        made on `meta`, sharded and emptied may be filled here.

        Hidden states have unit variance and the projection's sigma is 1/sqrt(d), so logits begin
        with a variance of 0.97 (what the cut leaves of one) and the first loss is not ln V but half
        of that above it, as for any logits that are normal and know nothing.

        Source: allenai/OLMo, `InitFnType.mitchell`.
        Differs: the original bits depend on the sharding of the run and cannot be had again.
        """
        generator = torch.Generator().manual_seed(seed)
        d, inter = self.config.d_model, self.config.mlp_hidden_size // 2
        _fill(self.embed.weight, d**-0.5, generator)
        if not self.config.tie_embeddings:
            _fill(self.head.weight, d**-0.5, generator)
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            _fill(block.attn_out.weight, 1 / math.sqrt(2 * d * (layer + 1)), generator)
            _fill(block.ff_out.weight, 1 / math.sqrt(2 * inter * (layer + 1)), generator)
            _fill(block.att_proj.weight, d**-0.5, generator)
            _fill(block.ff_proj.weight, d**-0.5, generator)


def rope_tables(places_T: Tensor, head_size: int, theta: float) -> Rope:
    """Cosines and sines of rotary positions, float32, each of the places' shape and K / 2."""
    device = places_T.device
    powers = torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size
    angles = places_T.float()[..., None] * (1.0 / theta**powers)  # a matmul would be autocast
    return angles.cos(), angles.sin()


def _rotate(x_BHTK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x_BHTK.float().chunk(2, dim=-1)
    turned_BHTK = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned_BHTK.to(x_BHTK.dtype)


def _norm(x_BTD: Tensor) -> Tensor:
    return F.layer_norm(x_BTD, x_BTD.shape[-1:], eps=NORM_EPSILON)


@torch.no_grad()
def _fill(weight: Tensor, sigma: float, generator: torch.Generator) -> None:
    full = torch.empty(weight.shape, dtype=torch.float32)
    nn.init.trunc_normal_(full, 0.0, sigma, -CUTOFF * sigma, CUTOFF * sigma, generator=generator)
    if hasattr(weight, "device_mesh"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(weight, DTensor)
        local = full.to(weight.device)
        weight.copy_(
            distribute_tensor(local, weight.device_mesh, weight.placements, src_data_rank=None)
        )
    else:
        weight.copy_(full)
