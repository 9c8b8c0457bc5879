"""Cross-entropy over a large vocabulary without all of its logits: a chunk of rows at a time.

Shapes: N tokens that are learned, D width, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pipeline.train.stages.chunks import tokens_of_chunk


def summed_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    z_loss: float = 0.0,
    compiled: bool = False,
) -> tuple[Tensor, Tensor]:
    """The sum of the tokens' cross-entropy, and of `z_loss` times log(Z) squared, in nats.

    Returns:
        The sum, and the part of it that is no cross-entropy, which has no gradient of its own.

    The gradients of a sum are known when the logits are, so they are computed with them, a chunk
    at a time, and no logits are kept. Added up in float64.

    Args:
        compiled: compile what is done to a chunk, so that its logits are written once, and their
            gradient once, both as wide as the matrix products are.
    """
    sums: tuple[Tensor, Tensor] = _SummedLoss.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, targets_N, z_loss, _product_type(hidden_ND), compiled
    )
    return sums


def token_losses(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Cross-entropy in nats of each token, shape N; logits are computed again going backward."""
    losses = []
    for hidden, targets in _chunks(hidden_ND, targets_N, weight_VD):
        if torch.is_grad_enabled() and len(hidden) < len(hidden_ND):
            losses.append(checkpoint(_losses, hidden, weight_VD, targets, use_reentrant=False))
        else:
            losses.append(_losses(hidden, weight_VD, targets))
    return torch.cat(losses) if losses else hidden_ND[:, 0].float()  # none, yet of the graph


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        z_loss: float,
        kind: torch.dtype,
        compiled: bool,
    ) -> tuple[Tensor, Tensor]:
        total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
        z_total = torch.zeros_like(total)
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if wanted else None
        grads = []
        add = _compiled_add_chunk() if compiled else _add_chunk
        with torch.autocast(hidden_ND.device.type, enabled=False):
            weight = weight_VD.detach().to(kind)
            for hidden, targets in _chunks(hidden_ND.detach(), targets_N, weight_VD):
                loss, z, grad = add(hidden.to(kind), weight, targets, z_loss, grad_VD)
                total += loss
                z_total += z
                if grad is not None:
                    grads.append(grad)
        if grad_VD is not None:
            made = torch.cat(grads).to(hidden_ND.dtype) if grads else torch.zeros_like(hidden_ND)
            ctx.save_for_backward(made, grad_VD.to(weight_VD.dtype))
        ctx.mark_non_differentiable(z_total)
        return total, z_total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        hidden_grad, weight_grad = ctx.saved_tensors  # in place: a second time is an error
        return hidden_grad.mul_(grads[0]), weight_grad.mul_(grads[0]), None, None, None, None


def _add_chunk(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    z_loss: float,
    grad_VD: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A chunk's summed loss, the z-loss in it, and its gradient by the rows.

    The gradient by the matrix is added to `grad_VD`.
    """
    logits_NV = (hidden_ND @ weight_VD.T).float()
    logprobs_NV = logits_NV.log_softmax(-1)
    places = targets_N[:, None]
    said = logprobs_NV.gather(-1, places)
    log_z = logits_NV.gather(-1, places) - said
    loss = -said.sum(dtype=torch.float64)
    z = torch.zeros_like(loss)
    if z_loss:
        z = z_loss * log_z.square().sum(dtype=torch.float64)
        loss = loss + z
    if grad_VD is None:
        return loss, z, None
    probs_NV = logprobs_NV.exp_()
    of_target = said.exp()
    if z_loss:
        scale = 1 + 2 * z_loss * log_z
        probs_NV *= scale
        of_target = of_target * scale
    kind = hidden_ND.dtype
    grad_NV = probs_NV.to(kind).scatter_(-1, places, (of_target - 1).to(kind))
    grad_VD += grad_NV.T @ hidden_ND
    return loss, z, grad_NV @ weight_VD


@functools.cache
def _compiled_add_chunk() -> Callable[..., tuple[Tensor, Tensor, Tensor | None]]:
    return torch.compile(_add_chunk)


def _losses(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden_ND, weight_VD).float(), targets_N, reduction="none")


def _chunks(hidden_ND: Tensor, targets_N: Tensor, weight_VD: Tensor) -> list[tuple[Tensor, Tensor]]:
    rows = max(1, tokens_of_chunk(len(targets_N), len(weight_VD)))
    parts = zip(torch.split(hidden_ND, rows), torch.split(targets_N, rows), strict=True)
    return [(hidden, targets) for hidden, targets in parts if len(targets)]


def _product_type(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
