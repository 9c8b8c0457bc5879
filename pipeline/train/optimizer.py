"""AdamW with OLMo's parameter groups, and global norms of gradients and parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.model.olmo import Olmo
from pipeline.train.config import AdamW

STATE = ("exp_avg", "exp_avg_sq")


def make_optimizer(model: Olmo, config: AdamW) -> torch.optim.AdamW:
    """AdamW over two groups, decayed and not, each sorted by name.

    The matrices of linear layers are decayed; embeddings are not, so neither is a tied head.

    Source: allenai/OLMo, `olmo/optim.py`, `get_param_groups`.
    """
    decayed = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    by_name = sorted(model.named_parameters())
    groups: list[dict[str, Any]] = [
        {
            "params": [p for name, p in by_name if (name in decayed) == with_decay],
            "weight_decay": config.weight_decay if with_decay else 0.0,
        }
        for with_decay in (True, False)
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The global L2 norm of the gradients over all ranks, in float32, not yet waited for."""
    return _global_norm([p.grad for p in parameters if p.grad is not None])


def parameter_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The global L2 norm of the parameters over all ranks, in float32, not yet waited for."""
    return _global_norm([p.detach() for p in parameters])


def _global_norm(tensors: list[Tensor]) -> Tensor:
    norm = torch.nn.utils.get_total_norm(tensors)
    whole: Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return whole


def clip_gradients(parameters: Iterable[Tensor], norm: float, max_norm: float | None) -> None:
    """Scale gradients of this global norm by min(1, max_norm / (norm + 1e-6))."""
    if max_norm is not None and norm + 1e-6 > max_norm:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, torch.tensor(norm))
