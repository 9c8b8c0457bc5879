"""Direct preference optimization, its reference computed once for every run that shares it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa

from pipeline.core.artifacts import Checkpoints, Pairs
from pipeline.core.errors import MismatchedInputs
from pipeline.core.progress import Progress
from pipeline.core.shards import ShardWriter, read_batches
from pipeline.model.config import shape_in
from pipeline.model.hf import load_checkpoint_model
from pipeline.model.olmo import Olmo
from pipeline.model.scoring import masked_row, score_rows
from pipeline.tokens.batches import PairBatches
from pipeline.tokens.chat import PAIR
from pipeline.train.config import Conduct, TrainConfig, require_no_z_loss
from pipeline.train.loop import Training, train
from pipeline.train.ranks.distributed import Ranks
from pipeline.train.stages.objectives import DpoLoss
from pipeline.train.stages.start import latest_weights, require_same_tokenizer

ROWS = 512  # read at a time, and sorted by length
SIDES = ("chosen", "rejected")


def dpo(
    checkpoints: Checkpoints,
    pairs: Pairs,
    config: TrainConfig,
    *,
    beta: float,
    conduct: Conduct,
) -> Checkpoints:
    """Train the latest checkpoint, which is its own reference, to prefer the chosen answers.

    The reference is in float32, so under bf16 the first loss is ln 2 only nearly.

    Source: Rafailov et al. 2023, "Direct Preference Optimization"; allenai/open-instruct,
    `dpo_tune.py`.

    Raises:
        MismatchedInputs: the pairs' reference is not computed, or is another model.
        ValueError: there are no pairs, or `z_loss` is asked for, which this loss has not.
    """
    require_no_z_loss(config)
    require_same_tokenizer(checkpoints, pairs.tokenizer, "Pairs")
    if pairs.reference != checkpoints.latest.weights:
        held = f"is of {pairs.reference[:12]}" if pairs.reference else "is not computed"
        raise MismatchedInputs(
            f"Checkpoints {checkpoints.content[:12]}",
            f"Pairs {pairs.content[:12]}",
            f"the reference of the pairs {held}; it must be of {checkpoints.latest.weights[:12]}",
        )
    if not pairs.num_pairs:
        raise ValueError(f"there are no pairs; {pairs.num_skipped} were skipped")
    return train(
        Training(
            model=shape_in(checkpoints),
            objective=DpoLoss(beta),
            batches=partial(PairBatches, pairs, config.batch_size, config.seed),
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


def reference_logprobs(checkpoints: Checkpoints, pairs: Pairs, *, out: Path) -> Pairs:
    """The pairs with the log-probability of each answer under the latest checkpoint, in nats.

    Computed in float32 on a GPU if there is one, as in training, and added up in float64; rows of
    like length share a batch.
    """
    require_same_tokenizer(checkpoints, pairs.tokenizer, "Pairs")
    latest_weights(checkpoints)  # the digest in the result must be of what is loaded
    model = load_checkpoint_model(checkpoints, checkpoints.latest).to(Ranks().device).eval()
    shards = []
    num_done = 0
    with Progress("reference", pairs.num_pairs, "pair") as progress:
        for shard in pairs.shards:
            with ShardWriter(Path(out), shard.path, PAIR) as writer:
                for batch in read_batches(pairs.root, shard, batch_rows=ROWS):
                    table = pa.Table.from_batches([batch])
                    for side in SIDES:
                        place = PAIR.get_field_index(f"{side}_logprob")
                        values = pa.array(_logprobs(model, batch, side), pa.float64())
                        table = table.set_column(place, PAIR.field(place), values)
                    writer.write(table)
                    num_done += batch.num_rows
                    progress.note(num_done)
            shards.append(writer.shard)
    return Pairs.of(
        Path(out),
        tokenizer=pairs.tokenizer,
        num_pairs=pairs.num_pairs,
        num_skipped=pairs.num_skipped,
        reference=checkpoints.latest.weights,
        shards=shards,
    )


def _logprobs(model: Olmo, batch: pa.RecordBatch, side: str) -> list[float]:
    both = zip(batch[f"{side}_ids"].to_pylist(), batch[f"{side}_mask"].to_pylist(), strict=True)
    length = model.config.max_sequence_length
    scored = score_rows(model, [masked_row(ids, mask, length) for ids, mask in both])
    return [float(each.logprobs.sum()) for each in scored]
