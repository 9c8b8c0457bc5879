"""Evaluations in a run: when they are made, by whom, and that the training does not feel them."""

import json
import os
import signal
import time
from dataclasses import dataclass

import pytest
import torch

from pipeline.core.errors import PipelineError
from pipeline.core.stopping import Stopped, stopping_signals
from pipeline.model.hf import load_checkpoint_model
from pipeline.model.scoring import Row, score_rows
from pipeline.store.branching import branch
from pipeline.store.history import EVALUATIONS, evaluation_rows, history_rows, sealed_line
from pipeline.train.config import Launch, Upkeep
from pipeline.train.evaluations import evaluation_digest
from pipeline.train.monitors import Monitor
from pipeline.train.ranks.distributed import Ranks
from pipeline.train.ranks.launches import Torchrun
from pipeline.train.ranks.launching import run_ranks
from pipeline.train.ranks.sharding import build_model, float32_copy
from tests.train.conftest import ONE, SHAPE, config
from tests.train.ranks.test_launching import free_port

ROWS = [Row(tuple(range(1, 9 + n)), tuple(range(1, 8 + n))) for n in range(5)]


@dataclass(frozen=True)
class Fixed:
    """Scores some fixed rows; `act` is called before, with the step's number of calls."""

    every: int = 2
    name: str = "fixed"
    act: object = None
    data: int = 0
    UNKEYED = frozenset({"act"})

    def require(self, model, tokenizer):
        pass

    def begin(self):
        calls = []

        def measure(scorer):
            calls.append(scorer)
            if self.act is not None:
                self.act(len(calls), scorer)
            total = sum(each.logprobs.sum() for each in scorer.score(ROWS))
            return [{"task": "rows", "metric": "logprob", "value": float(total)}]

        return measure


def of(*evaluations, **more):
    return {"upkeep": Upkeep(evaluations=evaluations, **more)}


def rows_of(made):
    return [(row["step"], row["segment"]) for row in evaluation_rows(made.series_root)]


def num_lines(made):
    return len((made.series_root / EVALUATIONS).read_text().splitlines())


def test_they_are_made_before_the_first_update_every_so_many_and_after_the_last(run):
    made = run(config(5), hooks=of(Fixed(2), Fixed(3, "other")))
    found = [(row["step"], row["name"]) for row in evaluation_rows(made.series_root)]
    fixed = [(0, "fixed"), (2, "fixed"), (4, "fixed"), (5, "fixed")]
    assert found == sorted([*fixed, (0, "other"), (3, "other"), (5, "other")])


def test_each_is_of_the_weights_after_its_update(run):
    made = run(config(6, save_steps=2), hooks=of(Fixed()))
    for row, saved in zip(evaluation_rows(made.series_root), made.steps, strict=True):
        model = load_checkpoint_model(made, saved)
        total = sum(each.logprobs.sum() for each in score_rows(model, ROWS))
        (score,) = row["scores"]
        assert score["value"] == pytest.approx(total, rel=1e-6)


def draw(number, scorer):
    torch.manual_seed(number)
    scorer.model.train()
    for parameter in scorer.model.parameters():
        parameter.add_(1.0)


@pytest.mark.parametrize("act", [draw, None])
def test_the_model_in_training_is_left_alone_whatever_an_evaluation_does(run, act):
    plain = run(config(6), series="a" * 64, name="plain")
    state = torch.get_rng_state()
    watched = run(config(6), series="b" * 64, name="watched", hooks=of(Fixed(1, act=act)))
    assert watched.content == plain.content
    assert act is draw or torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those that torch.compile meets in torch
def test_a_compiled_model_has_the_same_bits_with_evaluations_and_without(run):
    launch = Launch(threads=1, compile=True)
    plain = run(config(4), launch, series="a" * 64, name="plain")
    watched = run(config(4), launch, series="b" * 64, name="watched", hooks=of(Fixed(1)))
    assert watched.content == plain.content


def test_a_run_that_goes_on_measures_no_step_twice(run):
    part = run(config(8, stop_at=4), hooks=of(Fixed()), name="part")
    assert rows_of(part) == [(0, 1), (2, 1), (4, 1)]
    whole = run(config(8), hooks=of(Fixed()))
    assert rows_of(whole) == [(0, 1), (2, 1), (4, 1), (6, 2), (8, 2)]
    assert num_lines(whole) == 5


def test_what_was_measured_of_updates_that_are_made_again_is_replaced(run):
    def fail(number, scorer):
        if number == 5:  # after update 4, when those of 3 and later are not saved
            raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        run(config(8, save_steps=3), hooks=of(Fixed(1, act=fail)), name="part")
    made = run(config(8, save_steps=8), hooks=of(Fixed(1)))
    assert [step for step, _ in rows_of(made)] == list(range(9))
    assert dict(rows_of(made))[3] == 1 and dict(rows_of(made))[4] == 2


def test_one_that_was_added_later_begins_with_the_checkpoint_that_is_gone_on_from(run):
    run(config(8, stop_at=4), name="part")
    made = run(config(8), hooks=of(Fixed()))
    assert [step for step, _ in rows_of(made)] == [4, 6, 8]


def test_a_run_that_is_asked_to_stop_leaves_the_evaluation_to_the_one_that_goes_on(run):
    def ask(number, scorer):
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped), stopping_signals():
        run(config(8, save_steps=8), hooks=of(Fixed(1, act=ask)), name="part")
    made = run(config(8, save_steps=8), hooks=of(Fixed(1)))
    assert rows_of(made) == [(0, 1), (1, 1), *((step, 2) for step in range(2, 9))]


def test_a_stop_between_two_evaluations_of_a_step_makes_no_update_before_the_second(run):
    def ask(number, scorer):
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    both = of(Fixed(3, act=ask), Fixed(3, "other"))
    with pytest.raises(Stopped), stopping_signals():
        run(config(8), hooks=both, name="part")
    series = run(config(8), hooks=of(Fixed(3), Fixed(3, "other"))).series_root
    found = [(row["step"], row["name"], row["segment"]) for row in evaluation_rows(series)]
    assert found[:4] == [(0, "fixed", 1), (0, "other", 1), (3, "fixed", 1), (3, "other", 2)]
    assert [row["segment"] for row in history_rows(series).values()] == [1] * 3 + [2] * 5


def test_a_run_killed_in_the_last_evaluation_makes_it_when_it_goes_on(run):
    def fail(number, scorer):
        if number == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config(6), hooks=of(Fixed(act=fail)), name="part")
    made = run(config(6), hooks=of(Fixed()))
    assert [step for step, _ in rows_of(made)] == [0, 2, 4, 6]


def slowly(number, scorer):
    time.sleep(0.4)


def test_its_time_is_told_and_is_none_of_the_updates(run):
    made = run(config(4), hooks=of(Fixed(1, act=slowly)))
    for row in evaluation_rows(made.series_root):
        assert 0.4 <= row["seconds"] < 2
    for row in history_rows(made.series_root).values():
        assert row["seconds"] < 0.4
        assert row["tokens_per_second"] > 64 / 0.4


HEARD = []


@dataclass(frozen=True)
class Ear(Monitor):
    TYPE = "ear"

    def require(self):
        pass

    def begin(self, series, first_step, facts):
        return self

    def update(self, row):
        HEARD.append(row)

    def end(self):
        pass


def test_monitors_hear_of_the_figures(run):
    HEARD.clear()
    made = run(config(4, stop_at=2), hooks=of(Fixed(), monitors=(Ear(),)))
    told = [row for row in HEARD if "fixed" in row]
    measured = evaluation_rows(made.series_root)
    assert [(row["step"], row["fixed/rows"]["logprob"]) for row in told] == [
        (row["step"], row["scores"][0]["value"]) for row in measured
    ]
    assert len(HEARD) == 4 and "perplexity" not in told[0]


def test_another_evaluation_of_a_name_is_a_curve_of_its_own(run, caplog):
    HEARD.clear()
    one, other = Fixed(2), Fixed(2, data=1)
    part = run(config(10, save_steps=2, stop_at=4), hooks=of(one), name="part")
    assert caplog.text.count("is not known to be the one of before") == 0
    run(config(10, save_steps=2, stop_at=8), hooks=of(other, monitors=(Ear(),)), name="more")
    says = "the evaluation 'fixed' is not known to be the one of before, up to step 4: "
    assert caplog.text.count(says) == 1
    (of_other,) = {row["evaluation"] for row in evaluation_rows(part.series_root)}
    assert of_other == evaluation_digest(other) != evaluation_digest(one)
    assert rows_of(part) == [(4, 2), (6, 2), (8, 2)]  # step 4 is measured anew
    before = evaluation_rows(part.series_root, earlier=True)
    assert [(row["step"], row["evaluation"]) for row in before] == [
        (step, evaluation_digest(one)) for step in (0, 2, 4)
    ]
    named = f"fixed-{of_other}"
    told = [(row["step"], set(row) - {"step"}) for row in HEARD if "loss" not in row]
    assert told == [(step, {named, f"{named}/rows"}) for step in (4, 6, 8)]
    made = run(config(10, save_steps=2), hooks=of(other))  # the same one goes on
    assert rows_of(made) == [(4, 2), (6, 2), (8, 2), (10, 3)]
    assert caplog.text.count("is not known to be the one of before") == 1
    branched = made.series_root.parent / ("c" * 64)
    branched.mkdir()
    assert branch(branched, made.series_root, 9) == 8
    for earlier, steps in ((False, [4, 6, 8]), (True, [0, 2, 4])):
        assert [row["step"] for row in evaluation_rows(branched, earlier=earlier)] == steps


def test_an_evaluation_at_other_steps_or_of_another_name_is_the_same():
    assert evaluation_digest(Fixed(2)) == evaluation_digest(Fixed(3, "other"))
    assert len(evaluation_digest(Fixed())) == 12


def test_lines_that_do_not_say_what_was_measured_are_read_and_stand_apart(run):
    part = run(config(6, stop_at=3, save_steps=1), hooks=of(Fixed(1)), name="part")
    rows = evaluation_rows(part.series_root)
    for row in rows:
        del row["evaluation"]
    (part.series_root / EVALUATIONS).write_text("".join(map(sealed_line, rows)))
    assert rows_of(part) == [(step, 1) for step in range(4)]
    made = run(config(6, save_steps=1), hooks=of(Fixed(1)))
    assert rows_of(made) == [(step, 2) for step in range(3, 7)]
    assert [row["step"] for row in evaluation_rows(made.series_root, earlier=True)] == [0, 1, 2, 3]


def test_a_line_that_is_cut_off_or_changed_is_no_evaluation(run):
    made = run(config(6), hooks=of(Fixed()))
    path = made.series_root / EVALUATIONS
    first, second, *rest = path.read_text().splitlines(keepends=True)
    changed = json.loads(second) | {"step": 3}
    path.write_text("".join([first, json.dumps(changed) + "\n", *rest]) + '{"step": 7, "na')
    assert [row["step"] for row in evaluation_rows(made.series_root)] == [0, 4, 6]


@pytest.mark.slow
def test_ranks_under_torchrun_measure_what_one_process_does(run):
    alone = run(config(4), series="a" * 64, name="alone", hooks=of(Fixed()))
    place = f"localhost:{free_port()}"
    launch = Torchrun(ranks=2, threads=1, rendezvous=place)
    made = run(config(4), launch, series="b" * 64, hooks=of(Fixed()))
    pairs = zip(evaluation_rows(alone.series_root), evaluation_rows(made.series_root), strict=True)
    for one, two in pairs:
        assert (one["step"], one["name"]) == (two["step"], two["name"])
        assert two["scores"][0]["value"] == pytest.approx(one["scores"][0]["value"], rel=1e-5)


@dataclass(frozen=True)
class FailsInOne(Fixed):
    """Fails in the second rank alone, while the first waits for it in a forward pass."""

    def begin(self):
        def measure(scorer):
            if scorer.ranks.rank == 1:
                raise OSError("this rank cannot read it")
            return Fixed.begin(self)(scorer)

        return measure


@pytest.mark.slow
def test_one_that_fails_in_a_single_rank_ends_the_run_with_that_ranks_error(run):
    started = time.monotonic()
    with pytest.raises(PipelineError, match="rank 1: OSError: this rank cannot read it"):
        run(config(4), Launch(ranks=2, threads=1, timeout_seconds=60), hooks=of(FailsInOne()))
    assert time.monotonic() - started < 50


def compare(ranks):
    """A rank that holds bf16 copies in training has the float32 scores of one process."""
    launch = Launch(ranks=2, threads=1)
    model = build_model(SHAPE, ranks, launch, "bf16")
    model.init_weights(3)
    whole = build_model_alone()
    before = [each.full_tensor().clone() for each in model.parameters()]
    copy = float32_copy(model, ranks).eval()
    wanted = score_rows(whole, ROWS, batch_tokens=16)
    found = score_rows(copy, ROWS, batch_tokens=16, ranks=ranks)
    for one, two in zip(wanted, found, strict=True):
        assert one.logprobs.tolist() == two.logprobs.tolist()
    for one, two in zip(before, model.parameters(), strict=True):
        assert torch.equal(one, two.full_tensor())


def build_model_alone():
    from pipeline.model.olmo import Olmo

    return Olmo(SHAPE, seed=3).eval()


@pytest.mark.slow
@pytest.mark.parametrize("within", [None, 1])
def test_a_model_that_is_sharded_in_bf16_is_measured_in_float32(tmp_path, within):
    run_ranks(compare, Launch(ranks=2, threads=1, shard_within=within), tmp_path)


def test_a_model_of_one_process_in_bf16_is_measured_in_float32(run, monkeypatch):
    monkeypatch.setattr("pipeline.train.loop.precision_of_products", lambda wanted, device: "bf16")
    made = run(config(4, stop_at=2, precision="bf16"), hooks=of(Fixed()))
    model = load_checkpoint_model(made, made.latest)
    total = sum(each.logprobs.sum() for each in score_rows(model, ROWS))
    assert evaluation_rows(made.series_root)[-1]["scores"][0]["value"] == pytest.approx(total)


def test_a_copy_shares_nothing_with_the_model():
    model = build_model(SHAPE, Ranks(), ONE)
    model.init_weights(0)
    copy = float32_copy(model, Ranks())
    pairs = zip(model.parameters(), copy.parameters(), strict=True)
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in pairs)


def test_a_replay_for_other_checkpoints_measures_nothing_again(run):
    whole = run(config(8, save_steps=8), hooks=of(Fixed(2)), name="whole")
    before = rows_of(whole)
    again = run(config(8, save_steps=3), hooks=of(Fixed(1)), name="again")
    assert again.steps[-1] == whole.latest
    assert rows_of(again) == before and num_lines(again) == len(before)


def test_a_series_that_begins_as_another_has_what_was_measured_of_it(run, tmp_path):
    made = run(config(6), hooks=of(Fixed(2)), name="made")
    series = made.series_root.parent / ("c" * 64)
    series.mkdir()
    assert branch(series, made.series_root, 4) == 3
    assert [row["step"] for row in evaluation_rows(series)] == [0, 2]
