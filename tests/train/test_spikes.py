import json
import math
from dataclasses import asdict

import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import DivergedTraining
from pipeline.store.checkpoints import RecentLosses
from pipeline.store.history import diverged_rows, history_rows, read_segments
from pipeline.train import loop
from pipeline.train.config import Linear, Upkeep
from pipeline.train.spikes import SkipRule, SpikeRule, Watch
from tests.train.conftest import config
from tests.train.test_loop import weights

RULE = SpikeRule(spike_factor=2, window=3)


def judged(watch, *values, norm=1.0):
    return [watch.leaves_out(at, value, norm) for at, value in enumerate(values, 1)]


def test_a_loss_above_its_usual_height_stops_the_run():
    watch = Watch(RULE, None)
    judged(watch, 9.0, 1.0, 1.0, 2.0)  # 9 came before there was a window, and 2 is not above
    with pytest.raises(DivergedTraining, match="step 5: the loss is 2.1, more than 2 times 1, the"):
        watch.leaves_out(5, 2.1, 1.0)


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan)])
def test_what_is_not_finite_stops_the_run_unless_it_is_skipped(loss, norm):
    with pytest.raises(DivergedTraining, match="the (loss|gradient norm) is (nan|inf)"):
        Watch(None, None).leaves_out(1, loss, norm)
    assert Watch(RULE, SkipRule()).leaves_out(1, loss, norm)


def test_losses_left_out_are_not_what_others_are_measured_by():
    watch = Watch(None, SkipRule(spike_factor=2, window=3))
    assert judged(watch, 1.0, 1.0, 1.0, 5.0, 5.0, 1.5) == [False] * 3 + [True, True, False]


def test_too_many_updates_left_out_stop_the_run():
    watch = Watch(None, SkipRule(spike_factor=2, window=1, max_in_a_row=2))
    judged(watch, 1.0, 3.0, 3.0)
    with pytest.raises(
        DivergedTraining, match="the median of the last 1, and the 2 updates before"
    ):
        watch.leaves_out(4, 3.0, 1.0)


def test_a_rule_from_a_step_leaves_nothing_out_before_and_knows_the_losses():
    watch = Watch(None, SkipRule(spike_factor=2, window=2, from_step=4))
    assert judged(watch, 1.0, 1.0, 5.0, 1.0, 9.0, 9.0) == [False] * 4 + [True, True]
    with pytest.raises(DivergedTraining, match="step 4: the loss is nan$"):
        Watch(None, SkipRule(from_step=4)).leaves_out(4, math.nan, 1.0)


def test_a_watch_that_recalls_what_another_has_seen_judges_as_that_does():
    one = Watch(RULE, SkipRule(spike_factor=3, window=2))
    judged(one, 1.0, 1.2, 4.0, 1.1, 9.0)
    told = Watch(RULE, SkipRule(spike_factor=3, window=2))
    judged(told, 7.0)
    told.recall(RecentLosses(**json.loads(json.dumps(asdict(one.recent())))))
    assert one.recent() == told.recent() == RecentLosses([1.0, 1.2, 1.1], 1)
    assert Watch(None, None).recent() is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpikeRule(spike_factor=1), "spike_factor is 1; it must be above 1"),
        (lambda: SpikeRule(window=0), "window is 0; it must be at least 1"),
        (lambda: SkipRule(max_in_a_row=0), "max_in_a_row is 0; it must be at least 1"),
    ],
)
def test_a_rule_without_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def spiking(monkeypatch, at, height=100.0):
    """Have the loss of some updates be so many times what it is."""
    total = loop.Run.update
    objective = {}

    def update(self, number):
        plain = objective.setdefault("total", type(self.objective).total)
        factor = height if number in at else 1.0
        monkeypatch.setattr(
            type(self.objective), "total", lambda s, *given: plain(s, *given) * factor
        )
        return total(self, number)

    monkeypatch.setattr(loop.Run, "update", update)


def test_a_spike_ends_the_step_and_names_what_its_batch_read(run, monkeypatch, tmp_path):
    spiking(monkeypatch, {5})
    with pytest.raises(
        DivergedTraining, match="step 5: the loss is .*; its batch read s/0-6, s"
    ) as told:
        run(config(9), hooks={"upkeep": Upkeep(stop_on=RULE)})
    series = tmp_path / "series" / ("ab" * 32)
    assert set(history_rows(series)) == {1, 2, 3, 4}  # nothing of that update is kept
    (segment,) = read_segments(series)
    assert (segment["cause"], segment["last_step"]) == ("diverged", 4)
    assert "its batch read" not in segment["reason"]  # they are named once
    assert segment["documents"] == [list(each) for each in told.value.documents]
    assert len(segment["documents"]) >= 4  # rows of the batch


def test_a_rule_that_stops_changes_nothing_where_it_does_not(run):
    plain = run(config(9), series="a" * 64, name="plain")
    watched = run(
        config(9), series="b" * 64, name="watched", hooks={"upkeep": Upkeep(stop_on=RULE)}
    )
    assert watched.content == plain.content


def test_a_skipped_update_changes_no_weight_and_is_in_the_history(run, monkeypatch):
    spiking(monkeypatch, {4})
    skip = SkipRule(spike_factor=2, window=3)
    flat = Linear(peak_lr=1e-2, warmup_steps=0, total_steps=6, final_fraction=1.0)
    made = run(config(schedule=flat, save_steps=1, skip=skip))
    assert weights(made)[3] == weights(made)[4] != weights(made)[5]
    table = pq.read_table(made.root / "history.parquet")
    assert table["skipped"].to_pylist() == [False] * 3 + [True] + [False] * 2
    assert table["loss"].to_pylist()[3] > 100
    assert made.steps[4].num_tokens_read == 4 * 64


@pytest.mark.parametrize("height", [100.0, math.nan])
def test_a_run_that_skipped_goes_on_to_the_same_bits(run, monkeypatch, height):
    spiking(monkeypatch, {3, 4, 8}, height)
    skip = SkipRule(spike_factor=2, window=2)
    whole = run(config(9, skip=skip), series="a" * 64, name="whole")
    for stop in (3, 6):
        run(config(9, skip=skip, stop_at=stop), series="b" * 64, name=f"to-{stop}")
    made = run(config(9, skip=skip), series="b" * 64, name="made")
    assert made.content == whole.content
    rows = pq.read_table(made.root / "history.parquet")
    assert rows["skipped"].to_pylist().count(True) == 3
    assert (rows["loss"].null_count > 0) == math.isnan(height)


@pytest.mark.parametrize("height", [100.0, math.nan])
def test_an_update_that_stopped_a_run_has_a_row_that_is_none_of_the_curve(
    run, monkeypatch, tmp_path, height
):
    plain = run(config(9), series="c" * 64, name="plain")
    update = loop.Run.update
    spiking(monkeypatch, {5}, height)
    with pytest.raises(DivergedTraining):
        run(config(9), hooks={"upkeep": Upkeep(stop_on=RULE)})
    series = tmp_path / "series" / ("ab" * 32)
    (row,) = diverged_rows(series)
    assert (row["step"], row["segment"]) == (5, 1)
    assert (row["loss"] is None) == math.isnan(height) and "grad_norm" in row
    assert set(history_rows(series)) == {1, 2, 3, 4}
    (segment,) = read_segments(series)
    assert (segment["num_updates"], segment["last_step"]) == (4, 4)
    monkeypatch.undo()
    assert loop.Run.update is update
    made = run(config(9), name="on")  # as after the fault was mended
    assert made.content == plain.content and len(diverged_rows(series)) == 1
