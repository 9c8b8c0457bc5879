"""What share of a training's time is not the forward pass, the backward pass or the optimizer.

    python benchmarks/bench_training_share.py [--updates 120] [--save-steps 60]

The whole of `train`, with its batches read from a mix of seven parts, history, progress and
checkpoints that are written meanwhile, at the shape of `bench_pretraining_cpu.py`, vocabulary
8,192, compiled, from the second update to the end of the last write. Prints one JSON line: seconds
an update of each part, the share of the rest.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from bench_pretraining_cpu import SHAPE, THREADS, model_of

from pipeline.tokens.mixing import mix_tokens
from pipeline.tokens.order import TokenBatches
from pipeline.train.config import Linear, TrainConfig
from pipeline.train.loop import Run, Training, train
from pipeline.train.ranks.launches import Launch
from pipeline.train.stages.objectives import NextToken
from tests.tokens.test_mixing import write_tokens


@dataclass
class Clock:
    """Seconds spent in named parts, once it was started."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    started: float = 0.0

    def start(self):
        self.seconds.clear()
        self.started = time.perf_counter()

    def around(self, name, function):
        def timed(*args, **more):
            began = time.perf_counter()
            try:
                return function(*args, **more)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return timed


@contextmanager
def watched(clock):
    """Time the parts; the clock starts after the first update, which compiles."""
    update = Run.update

    def counted(run, number):
        row = update(run, number)
        if number == 1:
            clock.start()
        return row

    with (
        mock.patch.object(NextToken, "total", clock.around("forward", NextToken.total)),
        mock.patch.object(
            torch.autograd, "backward", clock.around("backward", torch.autograd.backward)
        ),
        mock.patch.object(
            torch.optim.AdamW, "step", clock.around("optimizer", torch.optim.AdamW.step)
        ),
        mock.patch.object(Run, "update", counted),
    ):
        yield


def made_up_mix(folder):
    """Seven parts of as many tokens, more than are read."""
    random = np.random.default_rng(0)
    parts = {}
    for name in "abcdefg":
        documents = [[*random.integers(1, 100, 999).tolist(), 0] for _ in range(130)]
        parts[name] = write_tokens(folder / "cache" / name, [documents])
    return mix_tokens(parts, sequence_length=SHAPE["length"], out=folder / "cache" / "mix")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--updates", type=int, default=120)
    parser.add_argument("--save-steps", type=int, default=60)
    options = parser.parse_args()
    clock, vocabulary = Clock(), 8192
    with tempfile.TemporaryDirectory() as folder, watched(clock):
        training = Training(
            model=model_of({**SHAPE, "vocabulary": vocabulary}),
            objective=NextToken(),
            batches=partial(TokenBatches, made_up_mix(Path(folder)), SHAPE["rows"], 0),
            config=TrainConfig(
                batch_size=SHAPE["rows"],
                schedule=Linear(peak_lr=1e-3, warmup_steps=10, total_steps=options.updates),
                save_steps=options.save_steps,
                precision="bf16",
            ),
            launch=Launch(compile=True, threads=THREADS),
            series=Path(folder, "series"),
        )
        train(training, tokenizer="none", out=Path(folder, "out"))
        whole = time.perf_counter() - clock.started
    parts = {name: each / (options.updates - 1) for name, each in clock.seconds.items()}
    rest = 1 - sum(clock.seconds.values()) / whole
    print(json.dumps({**{k: round(v, 4) for k, v in parts.items()}, "rest": round(rest, 4)}))


if __name__ == "__main__":
    main()
