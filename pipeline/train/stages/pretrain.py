"""Pretraining: next-token prediction over a mix of tokens, from start values."""

from __future__ import annotations

from functools import partial

from pipeline.core.artifacts import Checkpoints, TokenMix
from pipeline.core.errors import MismatchedInputs
from pipeline.model.config import OlmoConfig
from pipeline.tokens.order import FEISTEL, OrderRule, TokenBatches
from pipeline.train.config import Conduct, TrainConfig
from pipeline.train.loop import Training, train
from pipeline.train.stages.objectives import NextToken


def pretrain(
    mix: TokenMix,
    model: OlmoConfig,
    config: TrainConfig,
    *,
    conduct: Conduct,
    order: OrderRule = FEISTEL,
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
    order.require_steps(config.last_step, config.batch_size, config.told_last_step)
    batches = partial(TokenBatches, mix, config.batch_size, config.seed, order)
    batches()  # an order that is not of this mix fails here, before a rank is started
    return train(
        Training(
            model=model,
            objective=NextToken(config.z_loss, mix.end_id if mask_documents else None),
            batches=batches,
            config=config,
            launch=conduct.launch,
            upkeep=conduct.upkeep,
            series=conduct.series,
        ),
        tokenizer=mix.tokenizer,
        out=conduct.out,
        lease=conduct.lease,
    )
