"""Tokens per second of our training step on a CPU, beside others' and a loop written by hand.

    python benchmarks/bench_pretraining_cpu.py --peers PYTHON [--rounds 9] [--only CONTENDER …]

PYTHON has `ai2-olmo`, `transformers` and `accelerate`. OLMo's shape at width 256: 8 layers, 4
heads, 688 gated columns, untied embeddings; sequences of 512, 4 an update; two threads. Contenders,
each a process of its own:

ours          `Run.update` of the loop, compiled; with its data, its schedule and its history row
half          the same, multiplying in bf16 where that was asked for, though float32 be faster here
eager         ours, not compiled
ceiling       the best loop we could write by hand for this shape (`pretraining_ceiling.py`)
transformers  `Trainer.train` with OlmoForCausalLM
olmo          `Trainer.train_step` of ai2-olmo
products      square products of 1,024 columns, as ours multiplies, for the rate they can have

Peers are taken as they come; with `-compiled` by their own switch (`torch_compile` of the Trainer,
each block compiled as in ai2-olmo's recipes); with `-tuned` compiled and with glibc's allocator
told to keep freed memory, which ours does by itself and neither of them does. The rate of ours
counts the products that are made: attention leaves out the blocks of keys that a mask would hide.

After three updates each, every contender makes one at a time, in turn, so that all meet the same
machine. Prints a table as Markdown and a JSON line: medians, and ratios of the medians; memory is
the process at its highest, resident.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

THREADS, WARMUP, SIDE = 2, 3, 1024
SHAPE = {"width": 256, "inner": 688, "layers": 8, "heads": 4, "rows": 4, "length": 512}
HOW = ("", "-compiled", "-tuned")
CASES = [(vocabulary, precision) for vocabulary in (8192, 50304) for precision in ("bf16", "fp32")]
PEERS = tuple(f"{peer}{how}" for peer in ("transformers", "olmo") for how in HOW)
CONTENDERS = ("ours", "half", "eager", "ceiling", *PEERS, "products")
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


class Contender:
    """A process that makes an update when it is asked to."""

    def __init__(self, name, shape, python):
        script = HERE / "pretraining_peers.py" if name in PEERS else Path(__file__)
        child = [name] if name in PEERS else ["--child", name]
        runs = python if name in PEERS else sys.executable
        self.name, self.shape, self.rows = name, shape, []
        self.process = subprocess.Popen(
            [runs, script, *child, json.dumps(shape)],
            env={**os.environ, **(KEPT if name.endswith("-tuned") else {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def step(self):
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}")
        self.rows.append(json.loads(line))

    def close(self):
        self.process.kill()
        self.process.wait()

    def result(self):
        """Median seconds after the warm-up, the quartiles, the peak of memory, the last loss."""
        seconds = [row["seconds"] for row in self.rows[WARMUP:]]
        low, middle, high = statistics.quantiles(seconds, n=4)
        last = self.rows[-1]
        return {
            "seconds": middle,
            "quartiles": [low, high],
            "peak_mb": round(last["peak_mb"]),
            "loss": last["loss"],
        }


def measured(case, names, python, rounds):
    """The results of a case, by contender."""
    vocabulary, precision = case
    shape = {**SHAPE, "vocabulary": vocabulary, "precision": precision}
    contenders = [Contender(name, shape, python) for name in names]
    try:
        for contender in contenders:
            for _ in range(WARMUP):
                contender.step()
        for _ in range(rounds):
            for contender in contenders:
                contender.step()
        return {each.name: each.result() for each in contenders}
    finally:
        for each in contenders:
            each.close()


def ours(shape, compiled, half=False):
    """Our loop's update; with `half` products in the precision that was asked for."""
    import torch
    from bench_pretraining_gpu import Random
    from pretraining_peers import serve

    from pipeline.train import loop
    from pipeline.train.config import Linear, TrainConfig
    from pipeline.train.loop import Run, Training
    from pipeline.train.processor import kept_memory
    from pipeline.train.ranks.distributed import Ranks
    from pipeline.train.ranks.launches import Launch
    from pipeline.train.stages.objectives import NextToken

    torch.set_num_threads(THREADS)
    if half:
        loop.precision_of_products = lambda precision, device: precision
    run = Run(
        Training(
            model=model_of(shape),
            objective=NextToken(),
            batches=Random(shape["rows"], shape["length"], shape["vocabulary"]),
            config=TrainConfig(
                batch_size=shape["rows"],
                schedule=Linear(peak_lr=1e-3, warmup_steps=10, total_steps=100_000),
                precision=shape["precision"],
            ),
            launch=Launch(compile=compiled),
            series=Path("none"),  # nothing is saved
        ),
        Ranks(),
    )
    run.go_to(0)
    with kept_memory():
        serve(lambda number: run.update(number + 1)["loss"])


def model_of(shape):
    from pipeline.model.config import OlmoConfig

    return OlmoConfig(
        d_model=shape["width"],
        n_layers=shape["layers"],
        n_heads=shape["heads"],
        mlp_hidden_size=2 * shape["inner"],
        vocab_size=shape["vocabulary"],
        max_sequence_length=shape["length"],
    )


def products(shape):
    """Ten products of square matrices."""
    import torch
    from pretraining_peers import serve

    from pipeline.train.processor import precision_of_products

    torch.set_num_threads(THREADS)
    taken = precision_of_products(shape["precision"], torch.device("cpu"))
    kind = torch.bfloat16 if taken == "bf16" else torch.float32
    left, right = (torch.randn(SIDE, SIDE).to(kind) for _ in range(2))

    def step(number):
        for _ in range(10):
            made = left @ right
        return made[0, 0]

    serve(step)


def child(name, shape):
    if name == "products":
        products(shape)
    elif name == "ceiling":
        from pretraining_ceiling import ceiling

        ceiling(shape)
    else:
        ours(shape, compiled=name != "eager", half=name == "half")


def hidden(shape, length):
    """Operations a token that `flops_per_token` counts and attention in blocks does not make."""
    from pipeline.model.attention import QUERIES

    blocks = -(-length // QUERIES)
    return 12 * shape.n_layers * shape.d_model * length * (blocks - 1) / (2 * blocks)


def told(case, found):
    """The rows of the table."""
    vocabulary, precision = case
    tokens = SHAPE["rows"] * SHAPE["length"]
    shape = model_of({**SHAPE, "vocabulary": vocabulary})
    flops = (shape.flops_per_token(SHAPE["length"]) - hidden(shape, SHAPE["length"])) * tokens
    rate = found.get("products")
    best = 10 * 2 * SIDE**3 / rate["seconds"] if rate else None
    for name, each in found.items():
        if name == "products":
            print(f"| {vocabulary:,} {precision} | products | {best / 1e9:.0f} GFLOP/s | | | |")
            continue
        of_ours = found["ours"]["seconds"] / each["seconds"] if "ours" in found else float("nan")
        own = best and name in ("ours", "half", "eager", "ceiling")
        share = f"{flops / each['seconds'] / best:.2f}" if own else ""
        low, high = (tokens / every for every in reversed(each["quartiles"]))
        print(
            f"| {vocabulary:,} {precision} | {name} | {tokens / each['seconds']:.0f} "
            f"({low:.0f} to {high:.0f}) | {of_ours:.2f} | {share} | {each['peak_mb']} |"
        )


def main():
    if sys.argv[1:2] == ["--child"]:
        return child(sys.argv[2], json.loads(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", help="the Python that has them")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(CASES)))
    options = parser.parse_args()
    began, everything = time.time(), {}
    print("| case | | tokens/s (quartiles) | of ours | of the products' rate | peak MB |")
    print("|---|---|---|---|---|---|")
    for place in options.cases:
        found = measured(CASES[place], options.only, options.peers, options.rounds)
        told(CASES[place], found)
        everything[" ".join(map(str, CASES[place]))] = found
    print(json.dumps({"seconds": round(time.time() - began), "found": everything}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
