from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model.config import OLMO_1B, OLMO_7B, OlmoConfig
from pipeline.train.config import Cosine, Launch, Linear, TrainConfig, WarmupStableDecay
from pipeline.train.small import Small, kept_step

SMALL = Small()


@st.composite
def schedules(draw, total):
    warmup = draw(st.integers(0, total - 1))
    kind = draw(st.sampled_from([Linear, Cosine, WarmupStableDecay]))
    if kind is not WarmupStableDecay:
        return kind(1e-3, warmup, total)
    return kind(1e-3, warmup, total, decay_steps=draw(st.integers(1, total - warmup)))


@st.composite
def trainings(draw):
    total = draw(st.integers(1, 500_000))
    return TrainConfig(
        batch_size=draw(st.integers(1, 4096)),
        schedule=draw(schedules(total)),
        clip_warmup_steps=draw(st.integers(0, total)),
        stop_at=draw(st.none() | st.integers(1, total)),
        save_steps=draw(st.integers(1 + total // 99_000, total + 10)),
    )


@given(trainings())
def test_every_training_is_valid_in_small_and_saves_between_where_it_did(config):
    small = SMALL.training(config)
    assert small.last_step <= SMALL.num_updates
    assert (small.schedule.warmup_steps > 0) <= (config.schedule.warmup_steps > 0)
    assert bool(small.clip_warmup_steps) == bool(config.clip_warmup_steps)
    assert len(small.kept_steps) <= min(len(config.kept_steps), 4)
    if small.last_step > 1 and config.save_steps < config.last_step:
        assert len(small.kept_steps) > 2


@given(trainings(), st.integers(1, 2000), st.integers(1, 64))
def test_a_batch_that_ranks_shared_is_shared_in_small(config, share, ranks):
    config = replace(config, batch_size=share * ranks)
    launch = SMALL.launch(Launch(ranks=ranks, microbatch=share))
    batch = SMALL.training(config).batch_size
    assert launch.ranks == min(ranks, 2) and batch % launch.ranks == 0
    assert 1 <= (launch.microbatch or 1) <= max(1, share)


@given(trainings(), trainings(), st.floats(0, 1))
def test_a_saved_step_becomes_one_that_is_saved_in_small(one, other, share):
    before = [one, other]
    after = [SMALL.training(each) for each in before]
    last = max(each.last_step for each in before)
    step = kept_step(round(share * last), before, after)
    assert all(step in each.kept_steps for each in after)
    assert kept_step(0, before, after) == 0


@pytest.mark.parametrize("config", [OLMO_1B, OLMO_7B])
def test_a_model_keeps_ratios_flags_and_vocabulary(config):
    small = SMALL.model(config)
    assert (small.d_model, small.n_layers) == (32, 2)
    ratio = config.mlp_hidden_size / config.d_model
    assert small.mlp_hidden_size / small.d_model == pytest.approx(ratio, abs=2 / small.d_model)
    assert small.n_heads > 1
    for name in ("vocab_size", "tie_embeddings", "rope_theta", "clip_qkv"):
        assert getattr(small, name) == getattr(config, name)


@given(st.integers(1, 5), st.integers(1, 20), st.integers(1, 40), st.integers(1, 500))
def test_any_shape_has_a_small_one(heads, half, layers, hidden):
    config = OlmoConfig(2 * half * heads, layers, heads, 2 * hidden, 300, 64)
    small = SMALL.model(config)
    assert small.d_model <= max(32, 2 * heads) and small.n_layers <= 2


def test_compiling_is_asked_for():
    launch = Launch(ranks=1024, microbatch=2, compile=True)
    assert SMALL.launch(launch) == Launch(ranks=2, microbatch=1)
    assert Small(compile=True).launch(launch).compile
    assert not Small(compile=True).launch(Launch()).compile
