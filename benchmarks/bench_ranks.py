"""Two FSDP ranks of one thread against one rank of two, on two cores, in one run.

    python benchmarks/bench_ranks.py [--rounds 3] [--updates 8] [--json FILE]

Each round runs every variant once, so that other work on the machine meets all of them alike; a
rate is the middle of a variant's updates over all rounds, without each round's first two. What
counts is the ratio to one rank with two threads of the same precision.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pipeline.model.config import OlmoConfig
from pipeline.train.config import AdamW, Linear, TrainConfig
from pipeline.train.loop import Run, Training
from pipeline.train.processor import kept_memory
from pipeline.train.ranks import sharding
from pipeline.train.ranks.launches import Launch
from pipeline.train.ranks.launching import run_ranks
from pipeline.train.stages.objectives import NextToken

SHAPE = OlmoConfig(
    d_model=256,
    n_layers=8,
    n_heads=4,
    mlp_hidden_size=2048,
    vocab_size=8192,
    max_sequence_length=512,
)
ROWS = 4
ONE = Launch(threads=2)
TWO = Launch(ranks=2, threads=1)
GLOO = "2 ranks, through gloo's sockets"
VARIANTS = {
    "1 rank of 2 threads": ONE,
    "1 rank of 1 thread": Launch(threads=1),
    "2 ranks": TWO,
    GLOO: TWO,
    "2 ranks, layers held after forward": replace(TWO, reshard_after_forward=False),
    "2 copies, gradients averaged": replace(TWO, shard_within=1),
}


@dataclass(frozen=True)
class Rows:
    """The same random rows at every step."""

    def __call__(self):
        return self

    def at(self, step, rank=0, world_size=1):
        drawn = np.random.default_rng(step).integers(SHAPE.vocab_size, size=(ROWS, 512))
        return {"input_ids": drawn[rank::world_size].astype(np.int64)}


@dataclass(frozen=True)
class Measure:
    """Makes updates in every rank; the first one writes the seconds of each."""

    training: Training
    num_updates: int
    out: Path
    shares_memory: bool

    def __call__(self, ranks):
        if not self.shares_memory:
            sharding.share_memory = lambda units, ranks: False
        run = Run(self.training, ranks)
        run.go_to(0)
        seconds, losses = [], []
        with kept_memory():
            for update in range(1, self.num_updates + 1):
                started = time.perf_counter()
                losses.append(run.update(update)["loss"])
                seconds.append(time.perf_counter() - started)
        if ranks.rank == 0:
            self.out.write_text(json.dumps({"seconds": seconds[2:], "losses": losses}))


def measured(launch, precision, num_updates, shares_memory):
    """Seconds and losses of updates under a launch."""
    schedule = Linear(peak_lr=3e-4, warmup_steps=10, total_steps=100)
    with tempfile.TemporaryDirectory() as folder:
        training = Training(
            model=SHAPE,
            objective=NextToken(),
            batches=Rows(),
            config=TrainConfig(ROWS, schedule, AdamW(), precision=precision),
            launch=launch,
            series=Path(folder),
        )
        measure = Measure(training, num_updates, Path(folder, "made"), shares_memory)
        run_ranks(measure, launch, Path(folder))
        return json.loads(Path(folder, "made").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--precision", nargs="*", default=["bf16", "fp32"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for precision in options.precision:
        seconds = {name: [] for name in VARIANTS}
        losses = {}
        for _ in range(options.rounds):
            for name, launch in VARIANTS.items():
                made = measured(launch, precision, options.updates, name != GLOO)
                seconds[name] += made["seconds"]
                losses[name] = made["losses"]
                middle = statistics.median(made["seconds"])
                print(
                    f"  {precision} {name}: {middle:.3f} s an update", file=sys.stderr, flush=True
                )
        for name, each in seconds.items():
            rate = ROWS * 512 / statistics.median(each)
            base = ROWS * 512 / statistics.median(seconds["1 rank of 2 threads"])
            pairs = zip(losses[name], losses["1 rank of 2 threads"], strict=True)
            apart = max(abs(a - b) for a, b in pairs)
            rows.append(
                {
                    "precision": precision,
                    "launch": name,
                    "tokens_per_second": round(rate),
                    "of_one_rank": round(rate / base, 3),
                    "loss_apart": apart,
                }
            )
            print(
                f"{precision}  {name:36} {rate:7,.0f} tokens/s  {rate / base:5.2f}  "
                f"loss apart by {apart:.1e}",
                flush=True,
            )
    if options.json:
        record = {"torch": torch.__version__, "rounds": options.rounds, "rows": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
