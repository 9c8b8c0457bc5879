"""What training minimizes. Each objective is a sum over items; the loop divides by their number.

So a loss does not depend on how a batch was cut over ranks and microbatches. The vocabulary
projection is computed where it is needed only, a chunk of rows at a time (`chunked_loss.py`).

Shapes: B rows, T tokens, N learned tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.model.olmo import Olmo
from pipeline.train.stages.chunked_loss import summed_loss, token_losses

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

    def total(self, model: Olmo, batch: Batch, z_total: Tensor | None = None) -> Tensor:
        """The loss, in nats, summed over the batch.

        Args:
            z_total: a number to which the z-loss is added that is part of the sum.
        """
        ...


def num_read(batch: Batch) -> int:
    """The ids of a batch, without what fills its rows to the longest one's length."""
    return int(batch["lengths"].sum()) if "lengths" in batch else batch["input_ids"].numel()


@dataclass(frozen=True)
class NextToken:
    """Cross-entropy of every token but the first of a row, a mean over the batch.

    With an `end_id` no token attends to another document than its own, which ends with that id.
    As in the original, rotary positions still run over the whole row (attention sees differences
    only), and the first token of a document is still predicted from the end of the one before.

    Source: allenai/OLMo, `get_document_lengths` and `OLMoBlock._scaled_dot_product_attention`.
    Differs: allenai/OLMo since v0.4.0 divides by B*T though there are B*(T-1) labels.
    """

    z_loss: float = 0.0
    end_id: int | None = None

    name: ClassVar[str] = "next_token"
    rows_per_item: ClassVar[int] = 1

    def weight(self, batch: Batch) -> int:
        rows, length = batch["input_ids"].shape
        return rows * (length - 1)

    def num_learned(self, batch: Batch) -> int:
        return self.weight(batch)

    def total(self, model: Olmo, batch: Batch, z_total: Tensor | None = None) -> Tensor:
        ids_BT = batch["input_ids"]
        seen_BTT = None if self.end_id is None else within_documents(ids_BT, self.end_id)
        hidden_ND = model(ids_BT, seen_BTT=seen_BTT)[:, :-1].flatten(0, 1)
        targets_N = ids_BT[:, 1:].flatten()
        return _summed(model, hidden_ND, targets_N, self.z_loss, z_total)


def within_documents(ids_BT: Tensor, end_id: int) -> Tensor:
    """True where the first T may attend to the second: not later, and of its own document."""
    ended_BT = (ids_BT == end_id).long()
    numbers_BT = ended_BT.cumsum(1) - ended_BT  # an end is of the document that it ends
    return (numbers_BT[:, :, None] == numbers_BT[:, None]).tril()


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

    def total(self, model: Olmo, batch: Batch, z_total: Tensor | None = None) -> Tensor:
        ids_BT, learned = batch["input_ids"], batch["mask"][:, 1:].bool()
        hidden_ND = model(ids_BT)[:, :-1][learned]
        targets_N = ids_BT[:, 1:][learned]
        return _summed(model, hidden_ND, targets_N, self.z_loss, z_total)


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

    def total(self, model: Olmo, batch: Batch, z_total: Tensor | None = None) -> Tensor:
        policy_B = sequence_logprobs(model, batch["input_ids"], batch["mask"])
        gain_B = policy_B - batch["reference"]
        chosen, rejected = gain_B.chunk(2)
        return -F.logsigmoid(self.beta * (chosen - rejected)).sum()


def _summed(
    model: Olmo, hidden_ND: Tensor, targets_N: Tensor, z_loss: float, z_total: Tensor | None
) -> Tensor:
    loss, z = summed_loss(hidden_ND, _projection(model), targets_N, z_loss, model.compiled)
    if z_total is not None:
        z_total += z
    return loss


def sequence_logprobs(model: Olmo, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Log-probability of each row's masked tokens, summed in float64, in nats, shape B."""
    learned = mask_BT[:, 1:].bool()
    losses_N = token_losses(
        model(ids_BT)[:, :-1][learned], _projection(model), ids_BT[:, 1:][learned]
    )
    rows_N = learned.nonzero()[:, 0]
    zeros_B = torch.zeros(len(ids_BT), dtype=torch.float64, device=ids_BT.device)
    return zeros_B.index_add(0, rows_N, -losses_N.double())


def _projection(model: Olmo) -> Tensor:
    """The matrix from hidden states to logits, whole, after the model's forward pass."""
    weight = model.embed.weight if model.config.tie_embeddings else model.head.weight
    assert isinstance(weight, Tensor)
    return weight
