"""The memory of an update by the formulas of `pipeline/train/memory.py`, beside what it takes.

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


def allocated_over(work):
    """What torch's allocator held at its highest during some work, above what it held before."""
    import torch

    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return max(itertools.accumulate(sizes, initial=0))


def measure(way):
    import torch

    from pipeline.train.config import Launch, Linear, TrainConfig
    from pipeline.train.distributed import Ranks
    from pipeline.train.loop import Run, Training
    from pipeline.train.memory import Pass
    from pipeline.train.objectives import NextToken

    torch.set_num_threads(2)
    shape = shape_of(way["vocab"])
    ids = torch.randint(shape.vocab_size, (ROWS, shape.max_sequence_length))

    class Same:
        def at(self, step, rank=0, world_size=1):
            return {"input_ids": ids}

    training = Training(
        model=shape,
        objective=NextToken(),
        batches=Same,
        config=TrainConfig(
            batch_size=ROWS,
            schedule=Linear(peak_lr=1e-3, warmup_steps=2, total_steps=100),
            precision=way["precision"],
        ),
        launch=Launch(
            compile=way["compiled"],
            activation_checkpointing=way["recomputed"],
            microbatch=way["microbatch"],
        ),
        series=Path("none"),  # nothing is saved
    )
    before = resident()
    run = Run(training, Ranks())
    run.begin()
    for update in range(1, UPDATES):
        run.update(update)
    gc.collect()
    held = 3 * sum(each.nbytes for each in run.model.parameters())
    Path("/proc/self/clear_refs").write_text("5")  # the mark begins anew
    run.update(UPDATES)
    highest = resident("VmHWM") - before
    allocated = held + allocated_over(lambda: run.update(UPDATES + 1))
    foretold = Pass(
        shape,
        min(way["microbatch"], ROWS),
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
