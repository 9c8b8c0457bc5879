"""What training minimizes. Each objective is a sum over items; the loop divides by their number.

So a loss does not depend on how a batch was cut over ranks and microbatches. The vocabulary
projection is computed where it is needed only, a chunk of rows at a time.

Shapes: B rows, T tokens, N learned tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pipeline.model.olmo import Olmo

CHUNK_BYTES = 64 << 20  # of float32 logits at a time
Batch = Mapping[str, Tensor]


class Objective(Protocol):
    """A loss as a sum and the number that it is to be divided by."""

    name: ClassVar[str]
    rows_per_item: ClassVar[int]  # rows of a batch that belong together, a whole batch apart

    def weight(self, batch: Batch) -> int:
        """What the sum is divided by, once it is added up over the whole batch."""
        ...

    def num_learned(self, batch: Batch) -> int:
        """The tokens that the loss is of."""
        ...

    def total(self, model: Olmo, batch: Batch) -> Tensor:
        """The loss, in nats, summed over the batch."""
        ...


def num_read(batch: Batch) -> int:
    """The ids of a batch, without what fills its rows to the longest one's length."""
    return int(batch["lengths"].sum()) if "lengths" in batch else batch["input_ids"].numel()


@dataclass(frozen=True)
class NextToken:
    """Cross-entropy of every token but the first of a row, a mean over the batch.

    Differs: allenai/OLMo since v0.4.0 divides by B*T though there are B*(T-1) labels.
    """

    z_loss: float = 0.0

    name: ClassVar[str] = "next_token"
    rows_per_item: ClassVar[int] = 1

    def weight(self, batch: Batch) -> int:
        rows, length = batch["input_ids"].shape
        return rows * (length - 1)

    def num_learned(self, batch: Batch) -> int:
        return self.weight(batch)

    def total(self, model: Olmo, batch: Batch) -> Tensor:
        ids_BT = batch["input_ids"]
        hidden_ND = model(ids_BT)[:, :-1].flatten(0, 1)
        return summed_loss(hidden_ND, _projection(model), ids_BT[:, 1:].flatten(), self.z_loss)


@dataclass(frozen=True)
class Masked:
    """Cross-entropy of the tokens whose mask is 1, a mean over those of the whole batch.

    Source: allenai/open-instruct, `finetune.py`, `reduce_loss` "mean"; there a mean for each
    device, here over the batch, so that the number of ranks changes nothing.
    """

    z_loss: float = 0.0

    name: ClassVar[str] = "masked"
    rows_per_item: ClassVar[int] = 1

    def weight(self, batch: Batch) -> int:
        return int(batch["mask"][:, 1:].sum())

    def num_learned(self, batch: Batch) -> int:
        return self.weight(batch)

    def total(self, model: Olmo, batch: Batch) -> Tensor:
        ids_BT, learned = batch["input_ids"], batch["mask"][:, 1:].bool()
        hidden_ND = model(ids_BT)[:, :-1][learned]
        return summed_loss(hidden_ND, _projection(model), ids_BT[:, 1:][learned], self.z_loss)


@dataclass(frozen=True)
class DpoLoss:
    """Direct preference loss: -log sigmoid of beta times the margin over the reference's.

    A batch is its pairs' chosen rows and then their rejected ones.

    Source: Rafailov et al. 2023, "Direct Preference Optimization", equation 7.
    Differs: the reference's log-probabilities are read from the batch, so no second model is held.
    """

    beta: float = 0.1

    name: ClassVar[str] = "dpo"
    rows_per_item: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"beta is {self.beta}; it must be positive")

    def weight(self, batch: Batch) -> int:
        return len(batch["input_ids"]) // 2

    def num_learned(self, batch: Batch) -> int:
        return int(batch["mask"][:, 1:].sum())

    def total(self, model: Olmo, batch: Batch) -> Tensor:
        policy_B = sequence_logprobs(model, batch["input_ids"], batch["mask"])
        gain_B = policy_B - batch["reference"]
        chosen, rejected = gain_B.chunk(2)
        return -F.logsigmoid(self.beta * (chosen - rejected)).sum()


def sequence_logprobs(model: Olmo, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Log-probability of each row's masked tokens, summed in float64, in nats, shape B."""
    learned = mask_BT[:, 1:].bool()
    losses_N = token_losses(
        model(ids_BT)[:, :-1][learned], _projection(model), ids_BT[:, 1:][learned]
    )
    rows_N = learned.nonzero()[:, 0]
    zeros_B = torch.zeros(len(ids_BT), dtype=torch.float64, device=ids_BT.device)
    return zeros_B.index_add(0, rows_N, -losses_N.double())


def token_losses(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Cross-entropy in nats of each token, shape N; logits are computed again going backward."""
    losses = []
    for hidden, targets in _chunks(hidden_ND, targets_N, weight_VD):
        if torch.is_grad_enabled() and len(hidden) < len(hidden_ND):
            losses.append(checkpoint(_losses, hidden, weight_VD, targets, use_reentrant=False))
        else:
            losses.append(_losses(hidden, weight_VD, targets))
    return torch.cat(losses) if losses else hidden_ND[:, 0].float()  # none, yet of the graph


def summed_loss(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, z_loss: float = 0.0
) -> Tensor:
    """The sum of the tokens' cross-entropy, and of `z_loss` times log(Z) squared.

    The gradients of a sum are known when the logits are, so they are computed with them, a chunk
    at a time, and no logits are kept. Added up in float64.
    """
    loss: Tensor = _SummedLoss.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, targets_N, z_loss, _product_type(hidden_ND)
    )
    return loss


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, z: float, kind: Any
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        weight = weight_VD.detach().to(kind)
        grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if wanted else None
        grads = []
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for hidden, targets in _chunks(hidden_ND.detach(), targets_N, weight_VD):
                rows = hidden.to(kind)
                logits = (rows @ weight.T).float()
                logprobs = logits.log_softmax(-1)
                said = logprobs.gather(-1, targets[:, None])
                logZ = logits.gather(-1, targets[:, None]) - said
                total -= said.sum(dtype=torch.float64)
                if z:
                    total += z * logZ.square().sum(dtype=torch.float64)
                if grad_VD is not None:
                    grad = logprobs.exp_()
                    if z:
                        grad *= 1 + 2 * z * logZ
                    places = torch.arange(len(targets), device=targets.device)
                    grad[places, targets] -= 1
                    grad = grad.to(kind)
                    grads.append((grad @ weight).to(hidden_ND.dtype))
                    grad_VD += (grad.T @ rows).float()
        if grad_VD is not None:
            made = torch.cat(grads) if grads else torch.zeros_like(hidden_ND)
            ctx.save_for_backward(made, grad_VD.to(weight_VD.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        hidden_grad, weight_grad = ctx.saved_tensors
        return hidden_grad * grads[0], weight_grad * grads[0], None, None, None


def _losses(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden_ND, weight_VD).float(), targets_N, reduction="none")


def _chunks(hidden_ND: Tensor, targets_N: Tensor, weight_VD: Tensor) -> list[tuple[Tensor, Tensor]]:
    rows = max(1, CHUNK_BYTES // (4 * len(weight_VD)))
    parts = zip(torch.split(hidden_ND, rows), torch.split(targets_N, rows), strict=True)
    return [(hidden, targets) for hidden, targets in parts if len(targets)]


def _projection(model: Olmo) -> Tensor:
    """The matrix from hidden states to logits, whole, after the model's forward pass."""
    weight = model.embed.weight if model.config.tie_embeddings else model.head.weight
    assert isinstance(weight, Tensor)
    return weight


def _product_type(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
