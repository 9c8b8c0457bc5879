"""The memory that is foretold, beside what is measured."""

import itertools
from dataclasses import replace
from functools import partial
from unittest import mock

import pytest
import torch

from pipeline.model.config import OLMO_1B, OLMO_7B, OlmoConfig
from pipeline.train import loop
from pipeline.train.config import Linear, TrainConfig
from pipeline.train.loop import Run, Training
from pipeline.train.plan.foretelling import Job
from pipeline.train.plan.memory import Pass
from pipeline.train.ranks.distributed import Ranks
from pipeline.train.ranks.launches import Launch
from pipeline.train.ranks.launching import run_ranks
from pipeline.train.stages.objectives import NextToken

SMALL = OlmoConfig(
    d_model=64, n_layers=4, n_heads=4, mlp_hidden_size=512, vocab_size=1024, max_sequence_length=128
)
BENCHMARKED = OlmoConfig(
    d_model=256, n_layers=8, n_heads=8, mlp_hidden_size=2048, vocab_size=8192,
    max_sequence_length=512,
)  # fmt: skip
MOST_OFF = 0.15
ONE_RANK = Ranks()


class Same:
    """The same batch for every update."""

    def __init__(self, shape, rows):
        self.ids = torch.randint(shape.vocab_size, (rows, shape.max_sequence_length))

    def at(self, step, rank=0, world_size=1):
        return {"input_ids": self.ids[: len(self.ids) // world_size]}


def made_run(shape, rows, ranks, precision, **launch):
    """A run of random batches that has made no update; bf16 is bf16, however slow it is here."""
    training = Training(
        shape,
        NextToken(),
        partial(Same, shape, rows),
        TrainConfig(
            batch_size=rows,
            schedule=Linear(peak_lr=1e-3, warmup_steps=1, total_steps=9),
            precision=precision,
        ),
        Launch(ranks=ranks.size, **launch),
        series=None,
    )
    with mock.patch.object(loop, "precision_of_products", lambda wanted, device: wanted):
        run = Run(training, ranks)
    run.go_to(0)
    return run


def allocated_over(run, update):
    """What torch's allocator holds at its highest in an update but the first, by its own events."""
    held = 3 * sum(_local(each).nbytes for each in run.model.parameters())
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        run.update(update)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return held + max(itertools.accumulate(sizes, initial=0))


def allocated(shape, rows, *, ranks=ONE_RANK, precision="fp32", **launch):
    """The same of the second update of a new run."""
    run = made_run(shape, rows, ranks, precision, **launch)
    run.update(1)
    return allocated_over(run, 2)


def _local(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def foretold(shape, rows, *, precision="fp32", microbatch=None, recomputed=False):
    return Pass(
        shape,
        microbatch or rows,
        shape.max_sequence_length,
        precision,
        recomputed=recomputed,
        accumulates=microbatch is not None,
    ).peak()


@pytest.mark.parametrize(
    "recomputed, microbatch, tied, vocab",
    [
        (False, None, False, 1024),
        (True, None, True, 1024),
        (False, 1, True, 1024),
        (True, 1, False, 1024),
        (True, None, True, 16_384),  # the peak is at the loss
    ],
)
def test_an_update_takes_the_memory_that_is_foretold(recomputed, microbatch, tied, vocab):
    clip = 8.0 if tied else None
    shape = replace(SMALL, tie_embeddings=tied, clip_qkv=clip, vocab_size=vocab)
    way = {"recomputed": recomputed, "microbatch": microbatch}
    took = allocated(shape, 4, microbatch=microbatch, activation_checkpointing=recomputed)
    assert foretold(shape, 4, **way).total == pytest.approx(took, rel=MOST_OFF)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vocab", "precision", "microbatch"),
    [
        (8192, "fp32", None),
        pytest.param(8192, "bf16", 1, marks=pytest.mark.long),
        pytest.param(50304, "bf16", None, marks=pytest.mark.long),
    ],
)
def test_the_benchmarks_shape_takes_the_memory_that_is_foretold(vocab, precision, microbatch):
    shape = replace(BENCHMARKED, vocab_size=vocab)
    way = {"precision": precision, "microbatch": microbatch}
    took = allocated(shape, 4, **way)
    assert foretold(shape, 4, **way).total == pytest.approx(took, rel=MOST_OFF)


def _note_allocated(shape, precision, launch, out, ranks):
    took = allocated(shape, 8, ranks=ranks, precision=precision, **launch)
    (out / f"took-{ranks.rank}").write_text(str(took))


@pytest.mark.slow
@pytest.mark.parametrize(
    "precision, launch", [("bf16", {}), ("bf16", {"microbatch": 1}), ("bf16", {"shard_within": 2})]
)
def test_ranks_that_share_a_model_take_the_memory_that_is_foretold(tmp_path, precision, launch):
    ranks = 4 if "shard_within" in launch else 2
    wanted = Launch(ranks=ranks, threads=1, **launch)
    run_ranks(partial(_note_allocated, SMALL, precision, launch, tmp_path), wanted, tmp_path)
    took = max(int(each.read_text()) for each in tmp_path.glob("took-*"))
    job = Job(
        SMALL,
        TrainConfig(8, Linear(1e-3, warmup_steps=1, total_steps=9), precision=precision),
        wanted,
        SMALL.max_sequence_length,
    )
    assert job.memory().total == pytest.approx(took, rel=MOST_OFF)


# GB, one H200: benchmarks/results/pretraining_gpu.md
ONE_CARD = [
    (OLMO_1B, 8, {"compiled": True}, 42.4),
    (OLMO_1B, 8, {"compiled": True, "recomputed": True}, 20.9),
    (OLMO_1B, 8, {}, 49.7),
    (OLMO_1B, 8, {"recomputed": True}, 21.4),
    (OLMO_1B, 16, {"compiled": True}, 67.9),
    (OLMO_7B, 2, {"compiled": True, "accumulates": True}, 145.6),
    (OLMO_7B, 2, {"compiled": True, "accumulates": True, "recomputed": True}, 113.2),
    (OLMO_7B, 4, {"compiled": True, "accumulates": True, "recomputed": True}, 114.5),
]


@pytest.mark.parametrize("shape, rows, way, gigabytes", ONE_CARD)
def test_what_one_card_took_is_foretold_to_four_per_cent(shape, rows, way, gigabytes):
    peak = Pass(shape, rows, 2048, **way).peak()
    assert peak.total / 1e9 == pytest.approx(gigabytes, rel=0.04)


def test_with_a_large_vocabulary_the_peak_is_at_the_loss():
    large = Pass(replace(SMALL, vocab_size=65_536), 4, 128, "fp32", recomputed=True)
    matrix, hidden, chunk = 65_536 * 64 * 4, 512 * 64 * 4, 256 * 65_536 * 4  # 64 MiB of logits
    peak = large.peak()
    assert peak.logits == 2 * matrix + hidden + 2 * chunk
    assert peak.activations == 3 * hidden + 4 * hidden  # the last norm's, and inputs of layers


def test_sharding_splits_what_each_parameter_takes():
    whole, parts = Pass(OLMO_7B, 2, 2048), Pass(OLMO_7B, 2, 2048, shards=8)
    assert parts.peak().parameters * 8 == whole.peak().parameters == 4 * 6_888_095_744
    assert parts.peak().optimizer * 8 == whole.peak().optimizer
    assert parts.peak().activations <= whole.peak().activations


def test_layers_that_stay_gathered_take_their_weights():
    given_back = Pass(OLMO_7B, 2, 2048, shards=8).peak()
    held = Pass(OLMO_7B, 2, 2048, shards=8, reshards=False).peak()
    assert held.weights - given_back.weights == 30 * 2 * OLMO_7B.layer_parameters()


def test_gradients_that_wait_for_the_last_pass_are_whole():
    made = Pass(OLMO_7B, 2, 2048, shards=8, accumulates=True)
    assert replace(made, whole_gradients=True).peak().gradients == 4 * 6_888_095_744
    assert made.peak().gradients * 8 == 4 * 6_888_095_744
