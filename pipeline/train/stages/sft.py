"""Supervised fine-tuning: the answers of examples, from the latest checkpoint of a model."""

from __future__ import annotations

from functools import partial

from pipeline.core.artifacts import Checkpoints, Examples
from pipeline.model.config import shape_in
from pipeline.tokens.batches import ExampleBatches
from pipeline.train.config import Conduct, TrainConfig
from pipeline.train.loop import Training, train
from pipeline.train.stages.objectives import Masked
from pipeline.train.stages.start import latest_weights, require_same_tokenizer


def sft(
    checkpoints: Checkpoints,
    examples: Examples,
    config: TrainConfig,
    *,
    conduct: Conduct,
) -> Checkpoints:
    """Train the latest checkpoint on the answers of examples, with a new optimizer.

    Source: Groeneveld et al. 2024, "OLMo", appendix on adaptation; allenai/open-instruct.

    Raises:
        MismatchedInputs: the examples are ids of another tokenizer.
        ValueError: there are no examples.
    """
    require_same_tokenizer(checkpoints, examples.tokenizer, "Examples")
    if not examples.num_examples:
        raise ValueError(f"there are no examples; {examples.num_skipped} were skipped")
    return train(
        Training(
            model=shape_in(checkpoints),
            objective=Masked(config.z_loss),
            batches=partial(ExampleBatches, examples, config.batch_size, config.seed),
            config=config,
            launch=conduct.launch,
            upkeep=conduct.upkeep,
            series=conduct.series,
            start=latest_weights(checkpoints),
        ),
        tokenizer=checkpoints.tokenizer,
        out=conduct.out,
        lease=conduct.lease,
    )
