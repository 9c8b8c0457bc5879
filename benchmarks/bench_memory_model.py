"""The memory of an update by the formulas of `pipeline/train/plan/memory.py`, beside what it takes.

    python benchmarks/bench_memory_model.py [--vocab 8192 50304] [--compile] [--recompute] \
        [--microbatch 4 1]

OLMo's shape at width 256, 8 layers, sequences of 512, 4 of them an update, on a CPU of two threads;
a process of its own for each way of running it. Two numbers of the third update:

allocated  what torch's allocator holds at its highest, by its own events (`torch.profiler`)
resident   the process's highest resident memory, less that of the process before the model was
           made; with buffers of matrix products and of the allocator

Prints one JSON line a way.
"""

import argparse
import gc
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
UPDATES = 3
ROWS = 4


def shape_of(vocab):
    from pipeline.model.config import OlmoConfig

    return OlmoConfig(
        d_model=256,
        n_layers=8,
        n_heads=8,
        mlp_hidden_size=2048,
        vocab_size=vocab,
        max_sequence_length=512,
    )


def resident(name="VmRSS"):
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def measure(way):
    import torch

    from pipeline.train.plan.memory import Pass
    from pipeline.train.ranks.distributed import Ranks
    from tests.train.plan.test_memory import allocated_over, made_run

    torch.set_num_threads(2)
    shape = shape_of(way["vocab"])
    before = resident()
    run = made_run(
        shape,
        ROWS,
        Ranks(),
        way["precision"],
        compile=way["compiled"],
        activation_checkpointing=way["recomputed"],
        microbatch=way["microbatch"],
    )
    for update in range(1, UPDATES):
        run.update(update)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the mark begins anew
    run.update(UPDATES)
    highest = resident("VmHWM") - before
    allocated = allocated_over(run, UPDATES + 1)
    foretold = Pass(
        shape,
        way["microbatch"],
        shape.max_sequence_length,
        way["precision"],
        compiled=way["compiled"],
        recomputed=way["recomputed"],
        accumulates=way["microbatch"] < ROWS,
    ).peak()
    return {
        **way,
        "foretold_mb": round(foretold.total / 1e6),
        "allocated_mb": round(allocated / 1e6),
        "off": round(foretold.total / allocated - 1, 3),
        "resident_mb": round(highest / 1e6),
        "parts_mb": {name: round(each / 1e6) for name, each in vars(foretold).items()},
    }


def measured_apart(**way):
    """The row of one way of running it, from a process that has done nothing else."""
    said = subprocess.run(
        [sys.executable, __file__, "--way", json.dumps(way)],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed is given back
    ).stdout
    return json.loads(said.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocab", type=int, nargs="+", default=[8192, 50304])
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--microbatch", type=int, nargs="+", default=[ROWS, 1])
    parser.add_argument("--compile", action="store_true", help="compiled too")
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing too")
    parser.add_argument("--way", type=json.loads)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way)))
        return
    for vocab, precision, microbatch, compiled, recomputed in itertools.product(
        options.vocab,
        options.precision,
        options.microbatch,
        [False, True][: 1 + options.compile],
        [False, True][: 1 + options.recompute],
    ):
        row = measured_apart(
            vocab=vocab,
            precision=precision,
            microbatch=microbatch,
            compiled=compiled,
            recomputed=recomputed,
        )
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
