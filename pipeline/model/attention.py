"""Causal attention in blocks of queries, for training on a CPU.

PyTorch's own kernel for CPUs multiplies in small tiles; the products of a block of queries with all
keys up to it are large enough for the processor's library, and no scores are kept.

Shapes: N rows times heads, T tokens, K width of a head, Q queries of a block, S keys up to its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

QUERIES = 64  # of a block
LONGEST = 1024  # tokens; of longer rows the scores of a block leave the processor's cache


def suits_blocks(query: Tensor) -> bool:
    """Whether causal attention of these queries, shape `... T K`, is to be computed in blocks.

    It is where a gradient is wanted, so that evaluation is PyTorch's; and in float32, as a product
    of narrower numbers would round the scores.
    """
    fits = query.dtype == torch.float32 and query.shape[-2] <= LONGEST
    return fits and query.device.type == "cpu" and query.requires_grad


def causal_attention(q_NTK: Tensor, k_NTK: Tensor, v_NTK: Tensor) -> Tensor:
    """What `F.scaled_dot_product_attention` gives with `is_causal`, to rounding; shape NTK."""
    mixed: Tensor = _attend(q_NTK, k_NTK, v_NTK)
    return mixed


@torch.library.custom_op("olmo_tango::causal_attention", mutates_args=())
def _attend(q_NTK: Tensor, k_NTK: Tensor, v_NTK: Tensor) -> Tensor:
    mixed_NTK = torch.empty_like(v_NTK, memory_format=torch.contiguous_format)
    for block, seen, shares_NQS in _shares(q_NTK, k_NTK):
        mixed_NTK[:, block] = shares_NQS @ v_NTK[:, seen]
    return mixed_NTK


@torch.library.custom_op("olmo_tango::causal_attention_backward", mutates_args=())
def _attend_backward(
    grad_NTK: Tensor, q_NTK: Tensor, k_NTK: Tensor, v_NTK: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    q_grad, k_grad, v_grad = (
        torch.zeros_like(each, memory_format=torch.contiguous_format)
        for each in (q_NTK, k_NTK, v_NTK)
    )
    scale = q_NTK.shape[-1] ** -0.5
    for block, seen, shares_NQS in _shares(q_NTK, k_NTK):
        grad_NQK = grad_NTK[:, block]
        v_grad[:, seen] += shares_NQS.mT @ grad_NQK
        wanted_NQS = grad_NQK @ v_NTK[:, seen].mT
        scores_grad = torch._softmax_backward_data(wanted_NQS, shares_NQS, -1, shares_NQS.dtype)
        q_grad[:, block] = scores_grad @ k_NTK[:, seen]
        k_grad[:, seen] += scores_grad.mT @ q_NTK[:, block]
    return q_grad.mul_(scale), k_grad.mul_(scale), v_grad


def _shares(q_NTK: Tensor, k_NTK: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Each block of queries, the keys that it sees, and the share of its attention each has."""
    T, K = q_NTK.shape[1:]
    later_QQ = torch.full((QUERIES, QUERIES), -math.inf, dtype=q_NTK.dtype).triu(1)
    for start in range(0, T, QUERIES):
        block, seen = slice(start, min(start + QUERIES, T)), slice(0, min(start + QUERIES, T))
        scores_NQS = torch.baddbmm(
            q_NTK.new_empty(()), q_NTK[:, block], k_NTK[:, seen].mT, beta=0, alpha=K**-0.5
        )
        size = seen.stop - start
        scores_NQS[:, :, start:] += later_QQ[:size, :size]
        yield block, seen, scores_NQS.softmax(-1)


@_attend.register_fake
def _(q_NTK: Tensor, k_NTK: Tensor, v_NTK: Tensor) -> Tensor:
    return torch.empty_like(v_NTK, memory_format=torch.contiguous_format)


@_attend_backward.register_fake
def _(
    grad_NTK: Tensor, q_NTK: Tensor, k_NTK: Tensor, v_NTK: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    like = torch.contiguous_format
    return (
        torch.empty_like(q_NTK, memory_format=like),
        torch.empty_like(k_NTK, memory_format=like),
        torch.empty_like(v_NTK, memory_format=like),
    )


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_NTK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    made: tuple[Tensor, Tensor, Tensor] = _attend_backward(grad_NTK, *ctx.saved_tensors)
    return made


_attend.register_autograd(_backward, setup_context=_keep)
