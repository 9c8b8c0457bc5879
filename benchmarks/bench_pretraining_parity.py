"""Is a run on a card the run on a CPU? Loss curves of a small model, held against each other.

    python benchmarks/bench_pretraining_parity.py

3.1 million parameters, 20 updates of 8 rows of 256 tokens that follow a rule, in fp32 and in bf16,
each through the whole loop, with its checkpoints. Prints one JSON line a precision: the first and
the last loss, and the greatest distance of a loss from that of the same run

from_cpu       in a process that sees no card
from_fsdp      sharded with FSDP2 over one rank
from_compiled  with compiled layers and loss
from_again     with activation checkpointing
from_resumed   stopped after 10 updates and resumed from its checkpoint
from_itself    made a second time

and whether the weights of the resumed run are bit for bit those of the undisturbed one. Without a
card it runs on the CPU.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bench_pretraining_gpu import process_group
from safetensors.torch import load_file

from pipeline.model.config import OlmoConfig
from pipeline.train.config import Launch, Linear, TrainConfig
from pipeline.train.loop import Training, train
from pipeline.train.ranks.distributed import Ranks
from pipeline.train.stages.objectives import NextToken

SHAPE = OlmoConfig(
    d_model=256,
    n_layers=4,
    n_heads=4,
    mlp_hidden_size=1024,
    vocab_size=1024,
    max_sequence_length=256,
)
UPDATES, ROWS = 20, 8


@dataclass(frozen=True)
class Ruled:
    """Rows in which each id follows from the one before it, from a random first one."""

    def __call__(self):
        return self

    def at(self, step, rank=0, world_size=1):
        first = np.random.default_rng(step).integers(0, SHAPE.vocab_size, (ROWS, 1))
        return {"input_ids": (first + 7 * np.arange(SHAPE.max_sequence_length)) % SHAPE.vocab_size}


def losses_of(folder, precision, name, stop_at=None, launch=None):
    """Losses and last weights of a run in a series of this name."""
    series = folder / "series" / hashlib.sha256(name.encode()).hexdigest()
    made = train(
        Training(
            model=SHAPE,
            objective=NextToken(),
            batches=Ruled(),
            config=TrainConfig(
                batch_size=ROWS,
                schedule=Linear(peak_lr=1e-3, warmup_steps=5, total_steps=UPDATES),
                stop_at=stop_at,
                save_steps=UPDATES // 2,
                precision=precision,
            ),
            launch=launch or Launch(),
            series=series,
        ),
        tokenizer="",
        out=folder / "cache" / name,
    )
    rows = [json.loads(line) for line in (series / "history.jsonl").read_text().splitlines()]
    weights = load_file(made.folder(made.latest) / "model.safetensors")
    return [row["loss"] for row in rows], weights


def losses_on_a_cpu(precision):
    done = subprocess.run(
        [sys.executable, __file__, "--curve", precision],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def apart(left, right):
    return max(abs(a - b) for a, b in zip(left, right, strict=True))


def compare(folder, precision):
    def losses(name, **options):
        return losses_of(folder, precision, f"{precision} {name}", **options)

    curve, weights = losses("plain")
    with process_group():
        sharded, _ = losses("sharded")
    losses("resumed", stop_at=UPDATES // 2)
    resumed, again = losses("resumed")
    others = {
        "cpu": losses_on_a_cpu(precision),
        "fsdp": sharded,
        "compiled": losses("compiled", launch=Launch(compile=True))[0],
        "again": losses("again", launch=Launch(activation_checkpointing=True))[0],
        "resumed": resumed,
        "itself": losses("itself")[0],
    }
    return {
        "precision": precision,
        "device": Ranks().device.type,
        "first_loss": round(curve[0], 4),
        "last_loss": round(curve[-1], 4),
        **{f"from_{name}": float(f"{apart(curve, each):.2g}") for name, each in others.items()},
        "resumed_weights_equal": all(torch.equal(weights[k], again[k]) for k in weights),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--curve", choices=["fp32", "bf16"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.curve:
            print(json.dumps(losses_of(Path(name), options.curve, "curve")[0]))
            return
        for precision in ("fp32", "bf16"):
            print(json.dumps(compare(Path(name), precision)), flush=True)


if __name__ == "__main__":
    main()
