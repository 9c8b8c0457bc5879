"""Pretraining: next-token prediction over a mix of tokens, from start values."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.artifacts import Checkpoints, TokenMix
from pipeline.core.errors import MismatchedInputs
from pipeline.model.config import OlmoConfig
from pipeline.tokens.order import FEISTEL, Feistel, Piece, TokenBatches
from pipeline.train.config import UPKEEP, Launch, Lease, TrainConfig, Upkeep
from pipeline.train.loop import Training, train
from pipeline.train.stages.objectives import NextToken


def pretrain(
    mix: TokenMix,
    model: OlmoConfig,
    config: TrainConfig,
    *,
    series: Path,
    out: Path,
    launch: Launch,
    upkeep: Upkeep = UPKEEP,
    lease: Lease = nullcontext,
    order: Feistel = FEISTEL,
    mask_documents: bool = False,
) -> Checkpoints:
    """Train a model from its start values; what the series holds already is not trained again.

    Args:
        order: how the instances of the mix are numbered and shuffled.
        mask_documents: no token attends to another document than its own (`NextToken`).

    Source: Groeneveld et al. 2024, "OLMo", section 3; allenai/OLMo, `olmo/train.py`.

    Raises:
        MismatchedInputs: the model is too small for the ids or the sequences of the mix, or the
            order is of other data.
        ValueError: the order ends before the training does.
    """
    for name, held, must in (
        ("rows of the vocabulary", model.vocab_size, mix.vocab_size),
        ("tokens of a sequence", model.max_sequence_length, mix.sequence_length),
    ):
        if held < must:
            raise MismatchedInputs(
                "OlmoConfig",
                f"TokenMix {mix.content[:12]}",
                f"the model has {held} {name}, the mix needs {must}",
            )
    order.require_steps(config.last_step, config.batch_size)
    batches = _Instances(mix, config.batch_size, config.seed, order)
    batches()  # an order that is not of this mix fails here, before a rank is started
    return train(
        Training(
            model=model,
            objective=NextToken(config.z_loss, mix.end_id if mask_documents else None),
            batches=batches,
            config=config,
            launch=launch,
            upkeep=upkeep,
            series=series,
        ),
        tokenizer=mix.tokenizer,
        out=out,
        lease=lease,
    )


@dataclass(frozen=True)
class _Instances:
    """Makes the batches of a mix under the name that objectives read."""

    mix: TokenMix
    batch_size: int
    seed: int
    order: Feistel

    def __call__(self) -> _Named:
        return _Named(TokenBatches(self.mix, self.batch_size, self.seed, self.order))


@dataclass(frozen=True)
class _Named:
    batches: TokenBatches

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
        return {"input_ids": self.batches.at(step, rank, world_size)}

    def tokens_by_source(self, step: int) -> Counter[str]:
        """Tokens that all ranks read at a step of each part of the mix, by its name."""
        reader, mix = self.batches.reader, self.batches.mix
        places = (reader.locate(int(each))[0] for each in self.batches.order.at(step))
        seen = Counter(mix.parts[place].name for place in places)
        return Counter({name: mix.sequence_length * times for name, times in seen.items()})

    def documents(self, step: int) -> list[Piece]:
        return self.batches.documents(step)
