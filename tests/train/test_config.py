import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.keys import digest
from pipeline.train.config import AdamW, Cosine, Launch, Linear, WarmupStableDecay
from tests.train.conftest import config


@pytest.mark.parametrize("kind", [Linear, Cosine])
@given(st.floats(1e-6, 1), st.integers(0, 50), st.integers(1, 200), st.floats(0, 1))
def test_a_schedule_rises_to_its_peak_and_falls_to_its_floor(kind, peak, warmup, more, final):
    schedule = kind(peak, warmup, warmup + more, final)
    rates = [schedule(update) for update in range(1, warmup + more + 10)]
    assert all(0 <= rate <= peak * (1 + 1e-12) for rate in rates)
    assert all(a <= b for a, b in zip(rates[:warmup], rates[1:warmup], strict=False))
    after = rates[warmup:]
    assert all(a >= b - 1e-15 for a, b in zip(after, after[1:], strict=False))
    assert math.isclose(rates[-1], final * peak, rel_tol=1e-9, abs_tol=1e-15)


def test_warm_up_begins_at_a_tenth_of_the_peak_as_in_olmo():
    # allenai/OLMo: 7B's first update has 3.0054e-5, 1B's 4.018e-5 (FACTS of the released runs)
    assert Linear(3e-4, 5000, 476838)(1) == pytest.approx(3.0054e-5)
    assert Cosine(4e-4, 2000, 739328)(1) == pytest.approx(4.018e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 10**15}, "batch_size is 1000000000000000; it must be at most 1048576"),
        ({"stop_at": 9}, "stop_at is 9; it must lie in 1 to total_steps, 6"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0.0"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"z_loss": -1.0}, "z_loss is -1.0"),
        ({"clip_warmup_factor": 0.5}, "clip_warmup_factor is 0.5"),
    ],
)
def test_an_impossible_value_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_that_are_not_finite_are_refused(value):
    for name in ("max_grad_norm", "z_loss", "clip_warmup_factor"):
        with pytest.raises(ValueError, match=name):
            config(**{name: value})
    with pytest.raises(ValueError, match="peak_lr"):
        Linear(value, 1, 5)
    with pytest.raises(ValueError, match="eps"):
        AdamW(eps=value)


def test_more_checkpoints_than_a_disk_lists_are_refused():
    schedule = Linear(1e-3, 1, 10**9)
    assert config(schedule=schedule, save_steps=10**5).num_kept == 10_001
    with pytest.raises(ValueError, match="save_steps is 1, which keeps 1000000001 checkpoints"):
        config(schedule=schedule, save_steps=1)


def test_impossible_parts_are_named():
    with pytest.raises(ValueError, match="warmup_steps is 5"):
        Linear(1e-3, 5, 5)
    with pytest.raises(ValueError, match="betas"):
        AdamW(betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="ranks is 0"):
        Launch(ranks=0)


@given(st.integers(1, 40), st.integers(1, 60))
def test_kept_steps_begin_at_the_start_and_end_at_the_end(save_steps, stop_at):
    kept = config(60, save_steps=save_steps, stop_at=stop_at).kept_steps
    assert kept[0] == 0 and kept[-1] == stop_at and kept == sorted(set(kept))
    assert all(step % save_steps == 0 for step in kept[:-1])
    assert config(60, save_steps=save_steps, stop_at=stop_at).num_kept == len(kept)


def test_the_clipping_norm_is_larger_while_it_warms_up():
    warm = config(max_grad_norm=2.0, clip_warmup_steps=3, clip_warmup_factor=10.0)
    assert [warm.norm_limit(update) for update in (1, 3, 4)] == [20, 20, 2]
    assert config(max_grad_norm=None).norm_limit(1) is None


def constant_then(decay, total=100, **changes):
    values = {"warmup_steps": 10, "total_steps": total, "decay_steps": 20, "decay": decay}
    return WarmupStableDecay(peak_lr=1.0, **{**values, **changes})


@pytest.mark.parametrize(("decay", "quarter"), [("linear", 0.75), ("1-sqrt", 0.5)])
def test_a_constant_schedule_stays_at_its_peak_until_it_decays(decay, quarter):
    schedule = constant_then(decay, final_fraction=0.2)
    assert [schedule(n) for n in (10, 11, 79, 80)] == [1.0] * 4
    assert schedule.decay_start == 80
    assert schedule(81) < 1.0
    assert schedule(85) == pytest.approx(0.2 + 0.8 * quarter)
    assert schedule(100) == schedule(1000) == pytest.approx(0.2)


def test_a_constant_part_does_not_depend_on_where_training_ends():
    short, long = constant_then("linear"), constant_then("linear", total=500)
    assert [short(n) for n in range(1, 81)] == [long(n) for n in range(1, 81)]


def test_a_decay_over_all_that_follows_the_warm_up_is_linear():
    linear = Linear(peak_lr=1.0, warmup_steps=10, total_steps=100)
    whole = constant_then("linear", decay_steps=90)
    assert [whole(n) for n in range(1, 120)] == [linear(n) for n in range(1, 120)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decay_steps": 0}, "decay_steps is 0; it must be at least 1 and at most 90"),
        ({"decay_steps": 91}, "decay_steps is 91"),
        ({"decay": "sqrt"}, "decay is 'sqrt'; it must be 'linear' or '1-sqrt'"),
        ({"warmup_steps": 100}, "warmup_steps is 100"),
    ],
)
def test_an_impossible_decay_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        constant_then(**{"decay": "linear", **changes})


def test_linear_and_cosine_have_different_keys():
    assert digest(Linear(1e-3, 0, 5)) != digest(Cosine(1e-3, 0, 5))
