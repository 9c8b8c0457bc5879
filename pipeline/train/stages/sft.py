"""Supervised fine-tuning: the answers of examples, from the latest checkpoint of a model."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path

from pipeline.core.artifacts import Checkpoints, Examples
from pipeline.core.errors import CorruptShard, MismatchedInputs
from pipeline.model.config import OlmoConfig
from pipeline.model.weights import files_digest
from pipeline.store.tensors import tensor_files
from pipeline.tokens.batches import ExampleBatches
from pipeline.train.config import UPKEEP, Launch, Lease, TrainConfig, Upkeep
from pipeline.train.loop import Training, train
from pipeline.train.stages.objectives import Masked


def sft(
    checkpoints: Checkpoints,
    examples: Examples,
    config: TrainConfig,
    *,
    series: Path,
    out: Path,
    launch: Launch,
    upkeep: Upkeep = UPKEEP,
    lease: Lease = nullcontext,
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
            model=OlmoConfig(**checkpoints.model),
            objective=Masked(config.z_loss),
            batches=partial(ExampleBatches, examples, config.batch_size, config.seed),
            config=config,
            launch=launch,
            upkeep=upkeep,
            series=series,
            start=latest_weights(checkpoints),
        ),
        tokenizer=checkpoints.tokenizer,
        out=out,
        lease=lease,
    )


def latest_weights(checkpoints: Checkpoints) -> Path:
    """The folder of the latest weights; raises CorruptShard where they are not as recorded."""
    folder = checkpoints.folder(checkpoints.latest)
    found, wanted = files_digest(tensor_files(folder, "model")), checkpoints.latest.weights
    if found != wanted:
        raise CorruptShard(folder, None, f"holds weights {found[:12]}; must hold {wanted[:12]}")
    return folder


def require_same_tokenizer(checkpoints: Checkpoints, tokenizer: str, kind: str) -> None:
    """Raises MismatchedInputs unless a model reads the ids of that tokenizer."""
    if checkpoints.tokenizer != tokenizer:
        raise MismatchedInputs(
            f"Checkpoints {checkpoints.content[:12]}",
            kind,
            f"the model reads tokenizer {checkpoints.tokenizer[:12]}, "
            f"they are of tokenizer {tokenizer[:12]}",
        )
