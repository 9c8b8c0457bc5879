"""A table of what optimizer steps read, which are counted from 1 here."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipeline.core.artifacts import OrderTable, TokenMix
from pipeline.core.shards import ShardWriter
from pipeline.tokens.order import FEISTEL, MOST_STEPS, OrderRule, TokenBatches

ORDER = pa.schema(
    [(name, pa.int64()) for name in ("step", "rank", "row")]
    + [(name, pa.string()) for name in ("part", "source", "id")]
    + [(name, pa.int64()) for name in ("start", "end")]
)


def told_steps(num_steps: int, first_step: int) -> str:
    """Which steps are asked for, in the words of the parameters."""
    return f"num_steps is {num_steps}" + f" from first_step {first_step}" * (first_step > 1)


def inspect_order(
    mix: TokenMix,
    *,
    batch_instances: int,
    seed: int,
    num_steps: int,
    out: Path,
    first_step: int = 1,
    world_size: int = 1,
    order: OrderRule = FEISTEL,
) -> OrderTable:
    """Tell which documents `num_steps` optimizer steps read: a row a document in an instance.

    `step` counts updates from 1, as histories, checkpoints and `olmo batch --at` do. `row` is of
    the whole batch, so step and row do not depend on `world_size`; `rank` reads it. `start` and
    `end` are token offsets in the document, its end token included.

    Args:
        first_step: the first update told of.
    """
    numbers = {"num_steps": num_steps, "first_step": first_step, "world_size": world_size}
    for name, number in numbers.items():
        if not 1 <= number <= MOST_STEPS:
            raise ValueError(f"{name} is {number}; it must be at least 1 and at most {MOST_STEPS}")
    last = first_step - 1 + num_steps
    order.require_steps(last, batch_instances, told_steps(num_steps, first_step))
    batches = TokenBatches(mix, batch_instances, seed, order)
    with ShardWriter(Path(out), "order.parquet", ORDER) as writer:
        for step in range(first_step, first_step + num_steps):
            rows = [
                (step, row % world_size, row, *piece)
                for row, pieces in enumerate(batches.rows(step - 1))
                for piece in pieces
            ]
            columns = zip(*rows, strict=True)
            writer.write({n: list(c) for n, c in zip(ORDER.names, columns, strict=True)})
    return OrderTable.of(Path(out), num_steps=num_steps, table=writer.shard)
