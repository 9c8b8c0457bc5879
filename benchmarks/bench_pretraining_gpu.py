"""The training step on one card, beside `transformers`' model in a plain loop, in one run.

    python benchmarks/bench_pretraining_gpu.py [--only PART …] [--updates 10]

OLMo 1B (1,176,764,416 parameters), sequences of 2,048, 8 of them an update, as OLMo gives each of
its devices (the best ways of running it with 16 too); bf16 products with float32 parameters and
AdamW's state; gradients clipped to a norm of 1. Parts, by name:

ceilings      what the card does at most: a product of large matrices, a copy
ours          tokens a second, MFU and peak memory of our step, one row a way of running it
transformers  the same of OlmoForCausalLM under autocast, `sdpa`, fused AdamW, compiled or not
loss          time and memory of the loss over 50,304 logits, beside F.cross_entropy
7b            updates of OLMo 7B, and its memory beside the formula

Prints one JSON line a row. MFU is that of `pipeline/train/speed.py`. Needs a card for the numbers;
`--shape tiny` runs every part on a CPU.
"""

import argparse
import contextlib
import gc
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from pipeline.model.config import OLMO_1B, OLMO_7B, OlmoConfig
from pipeline.model.hf_config import hf_config
from pipeline.train.config import Launch, Linear, TrainConfig
from pipeline.train.loop import Run, Training
from pipeline.train.plan.memory import Pass
from pipeline.train.ranks.distributed import Ranks
from pipeline.train.speed import Speed, peak_flops
from pipeline.train.stages.chunked_loss import summed_loss
from pipeline.train.stages.objectives import NextToken

DEVICE = Ranks().device
CUDA = DEVICE.type == "cuda"
TINY = OlmoConfig(
    d_model=64, n_layers=2, n_heads=2, mlp_hidden_size=256, vocab_size=512, max_sequence_length=64
)
WARMUP = 3  # updates before the clock starts; the first ones compile


@dataclass(frozen=True)
class Random:
    """Batches of random ids, another for each update."""

    rows: int
    length: int
    vocab_size: int

    def __call__(self):
        return self

    def at(self, step, rank=0, world_size=1):
        generator = np.random.default_rng(step)
        return {"input_ids": generator.integers(0, self.vocab_size, (self.rows, self.length))}


def say(**row):
    print(json.dumps(row), flush=True)


def synchronize():
    if CUDA:
        torch.cuda.synchronize()


def freed():
    """Nothing of the part before is left on the card."""
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes():
    return torch.cuda.max_memory_allocated() if CUDA else 0


def timed(update, updates):
    """Seconds of each update, and of the first, which compiles."""
    seconds = []
    for number in range(1, WARMUP + updates + 1):
        started = time.perf_counter()
        update(number)
        synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds[WARMUP:], seconds[0]


def measured(name, shape, rows, update, updates, **more):
    """Time updates and say what came out."""
    seconds, first = timed(update, updates)
    length = shape.max_sequence_length
    rates = [rows * length / each for each in seconds]
    rate = statistics.median(rates)
    mfu = Speed(shape, peak_flops(DEVICE), 1).mfu(rate, length)
    say(
        part=name,
        rows=rows,
        tokens_per_second=round(rate),
        least=round(min(rates)),
        most=round(max(rates)),
        mfu=None if mfu is None else round(mfu, 3),
        peak_gb=round(peak_bytes() / 1e9, 2),
        first_update_seconds=round(first, 1),
        **more,
    )


def training(shape, rows, launch):
    return Training(
        model=shape,
        objective=NextToken(),
        batches=Random(rows, shape.max_sequence_length, shape.vocab_size),
        config=TrainConfig(
            batch_size=rows,
            schedule=Linear(peak_lr=3e-4, warmup_steps=2, total_steps=100),
            precision="bf16",
        ),
        launch=launch,
        series=Path("none"),  # nothing is saved
    )


@torch.no_grad()
def filled(model):
    """Start values of about the right spread, drawn on the card: the real ones take long."""
    for parameter in model.parameters():
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        local.normal_(0, model.config.d_model**-0.5)


@contextlib.contextmanager
def process_group():
    """A group of this process alone, in which the model is sharded with FSDP2."""
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(
            "nccl" if CUDA else "gloo",
            init_method=Path(folder, "rendezvous").as_uri(),
            rank=0,
            world_size=1,
        )
        try:
            yield
        finally:
            dist.destroy_process_group()


def measure_ours(shape, rows, updates, *, sharded=False, name="ours", foretold_gb=None, **launch):
    freed()
    with process_group() if sharded else contextlib.nullcontext():
        run = Run(training(shape, rows, Launch(**launch)), Ranks())
        filled(run.model)
        measured(
            name,
            shape,
            rows,
            run.update,
            updates,
            fsdp=sharded,
            **({} if foretold_gb is None else {"foretold_gb": foretold_gb}),
            **{key: value for key, value in launch.items() if value},
        )


def ours(shape, options):
    rows, *more = options.rows
    for sharded in (False, True):
        for compiled in (False, True):
            for again in (False, True):
                launch = {"compile": compiled, "activation_checkpointing": again}
                measure_ours(shape, rows, options.updates, sharded=sharded, **launch)
    for rows in more:
        measure_ours(shape, rows, options.updates, compile=True)


def transformers(shape, options):
    from transformers import OlmoConfig as HfConfig
    from transformers import OlmoForCausalLM

    rows, *more = options.rows
    form = {k: v for k, v in hf_config(shape).items() if k not in ("architectures", "model_type")}
    for compiled, rows in [
        *((each, rows) for each in options.transformers),
        *(("layers", each) for each in more),
    ]:
        batches = Random(rows, shape.max_sequence_length, shape.vocab_size)
        freed()
        torch._dynamo.reset()
        with DEVICE:
            model = OlmoForCausalLM(
                HfConfig(**{**form, "use_cache": False}, attn_implementation="sdpa")
            )
        run = model
        if compiled == "layers":
            for layer in model.model.layers:
                layer.compile()
        elif compiled == "whole":
            run = torch.compile(model)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=3e-4, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1, fused=True
        )

        def update(number, run=run, model=model, optimizer=optimizer, batches=batches):
            ids = torch.from_numpy(batches.at(number - 1)["input_ids"]).to(DEVICE)
            with torch.autocast(DEVICE.type, torch.bfloat16):
                loss = run(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        measured("transformers", shape, rows, update, options.updates, compiled=compiled)
        del model, run, optimizer, update


def ceilings(shape, options):
    size = 8192 if CUDA else 512
    left, right = (torch.randn(size, size, device=DEVICE).bfloat16() for _ in range(2))
    seconds, _ = timed(lambda number: left @ right, 20)
    source = torch.randn(size * size * 8, device=DEVICE)
    target = torch.empty_like(source)
    copying, _ = timed(lambda number: target.copy_(source), 20)
    say(
        part="ceilings",
        bf16_product_tflops=round(2e-12 * size**3 / statistics.median(seconds)),
        copy_gb_per_second=round(2e-9 * source.nbytes / statistics.median(copying)),
    )


def loss(shape, options):
    for tokens in (shape.max_sequence_length, options.rows[0] * shape.max_sequence_length):
        hidden = torch.randn(tokens, shape.d_model, device=DEVICE, requires_grad=True)
        weight = torch.randn(shape.vocab_size, shape.d_model, device=DEVICE, requires_grad=True)
        targets = torch.randint(shape.vocab_size, (tokens,), device=DEVICE)
        ways = {
            "F.cross_entropy": lambda h, w, t: F.cross_entropy(
                F.linear(h, w).float(), t, reduction="sum"
            ),
            "chunked": lambda h, w, t: summed_loss(h, w, t)[0],
            "chunked, compiled": lambda h, w, t: summed_loss(h, w, t, compiled=True)[0],
        }
        for name, way in ways.items():
            freed()
            before = torch.cuda.memory_allocated() if CUDA else 0

            def update(number, way=way, h=hidden, w=weight, t=targets):
                with torch.autocast(DEVICE.type, torch.bfloat16):
                    value = way(h, w, t)
                value.backward()
                h.grad = w.grad = None

            seconds, _ = timed(update, 10)
            say(
                part="loss",
                tokens=tokens,
                way=name,
                milliseconds=round(1e3 * statistics.median(seconds), 2),
                extra_peak_mb=round((peak_bytes() - before) / 1e6),
            )


def seven_billion(shape, options):
    large = OLMO_7B if CUDA else replace(TINY, n_layers=3)
    for rows, again in ((2, True), (4, True), (2, False)):
        foretold = Pass(
            large,
            rows,
            large.max_sequence_length,
            compiled=True,
            recomputed=again,
            accumulates=True,
        ).peak()
        row = {"name": "7b", "foretold_gb": round(foretold.total / 1e9, 2)}
        if CUDA and foretold.total > torch.cuda.get_device_properties(0).total_memory:
            say(part="7b", microbatch=rows, fits=False, **row)
            continue
        launch = {"compile": True, "activation_checkpointing": again, "microbatch": rows}
        measure_ours(large, 8, 2, **row, **launch)


PARTS = {
    "ceilings": ceilings,
    "ours": ours,
    "transformers": transformers,
    "loss": loss,
    "7b": seven_billion,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--shape", choices=["1b", "tiny"], default="1b")
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--transformers", nargs="*", default=["no", "layers", "whole"])
    options = parser.parse_args()
    shape = OLMO_1B if options.shape == "1b" else TINY
    name = torch.cuda.get_device_name() if CUDA else "cpu"
    say(device=name, torch=torch.__version__, parameters=shape.num_parameters())
    for name in options.only:
        PARTS[name](shape, options)


if __name__ == "__main__":
    main()
