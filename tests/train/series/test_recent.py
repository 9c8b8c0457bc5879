"""A run that goes on judges by the losses before it, whatever became of the history's lines."""

import json
import os
import signal

import pytest

from pipeline.core.errors import DivergedTraining
from pipeline.core.stopping import Stopped, stopping_signals
from pipeline.store.checkpoints import (
    RECORD,
    RecentLosses,
    read_record,
    stopped_folder,
    write_record,
)
from pipeline.store.history import HISTORY, history_rows, read_segments
from pipeline.train import loop
from pipeline.train.config import Launch, Upkeep
from pipeline.train.spikes import SkipRule, SpikeRule
from tests.train.conftest import config
from tests.train.test_loop import weights
from tests.train.test_spikes import spiking

SKIP = SkipRule(spike_factor=2, window=3, max_in_a_row=3)


def lose(series, *steps):
    """Change a byte in the lines of some updates."""
    lines = (series / HISTORY).read_text().splitlines(keepends=True)
    for place, line in enumerate(lines):
        if json.loads(line)["step"] in steps:
            lines[place] = line.replace('"loss"', '"lass"')
    (series / HISTORY).write_text("".join(lines))


def forget(folder):
    """Have a checkpoint as it was saved before it said what rules judge by."""
    write_record(folder, read_record(folder)._replace(recent=None))


def skipped_of(series):
    return [step for step, row in history_rows(series).items() if row.get("skipped")]


@pytest.fixture
def series(tmp_path):
    return tmp_path / "series" / ("a" * 64)


@pytest.fixture
def undisturbed(run, monkeypatch):
    """Updates 5, 6, 7 and 9 are left out."""
    spiking(monkeypatch, {5, 6, 7, 9})
    made = run(config(12, skip=SKIP), series="b" * 64, name="undisturbed")
    assert skipped_of(made.series_root) == [5, 6, 7, 9]
    return made


def test_lost_lines_of_the_history_change_neither_weights_nor_what_is_left_out(
    run, undisturbed, series
):
    run(config(12, skip=SKIP, stop_at=6), series=series.name, name="begun")
    lose(series, 3, 4, 5, 6)
    made = run(config(12, skip=SKIP), series=series.name, name="made")
    assert weights(made) == weights(undisturbed)
    assert skipped_of(series) == [7, 9]  # and of 5 and 6 the lines are lost
    assert [each["first_step"] for each in read_segments(series)] == [0, 6]


def test_a_run_that_was_stopped_between_checkpoints_knows_what_it_judged_by(
    run, undisturbed, series, monkeypatch
):
    update = loop.Run.update

    def stopping(self, number):
        if number == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, number)

    with monkeypatch.context() as patch, pytest.raises(Stopped), stopping_signals():
        patch.setattr(loop.Run, "update", stopping)
        run(config(12, skip=SKIP), series=series.name, name="begun")
    assert read_record(stopped_folder(series)).recent.skipped_since == 1
    (series / HISTORY).unlink()
    made = run(config(12, skip=SKIP), series=series.name, name="made")
    assert weights(made) == weights(undisturbed)
    assert [each["first_step"] for each in read_segments(series)] == [0, 5]


def test_so_many_in_a_row_are_counted_over_a_resume_with_lost_lines(run, monkeypatch, series):
    spiking(monkeypatch, {5, 6, 7, 8})
    run(config(12, skip=SKIP, stop_at=6), series=series.name, name="begun")
    lose(series, 5, 6)
    with pytest.raises(DivergedTraining, match="step 8: .* and the 3 updates before it were left"):
        run(config(12, skip=SKIP), series=series.name, name="made")


def test_a_checkpoint_that_does_not_say_it_is_helped_by_the_history(run, undisturbed, series):
    run(config(12, skip=SKIP, stop_at=6), series=series.name, name="begun")
    forget(series / "step000006")
    lose(series, 1)  # further back than the rule looks
    made = run(config(12, skip=SKIP), series=series.name, name="made")
    assert weights(made) == weights(undisturbed)
    assert [each["first_step"] for each in read_segments(series)] == [0, 6]


@pytest.mark.parametrize(("lost", "start"), [((4, 5), 3), ((2, 5), 0)])
def test_one_that_neither_says_it_nor_is_helped_is_not_gone_on_from(
    run, undisturbed, series, caplog, lost, start
):
    run(config(12, skip=SKIP, stop_at=6), series=series.name, name="begun")
    for step in (3, 6):
        forget(series / f"step{step:06}")
    lose(series, *lost)
    made = run(config(12, skip=SKIP), series=series.name, name="made")
    assert "step000006 is not gone on from: " in caplog.text
    assert "looks back to from step 6" in caplog.text
    assert "is not kept" not in caplog.text  # as the optimizer's state is
    assert weights(made) == weights(undisturbed)
    assert [each["first_step"] for each in read_segments(series)] == [0, start]


def test_a_rule_that_stops_goes_on_without_what_is_lost_and_says_so(run, series, caplog):
    plain = run(config(9), series="b" * 64, name="plain")
    run(config(9, stop_at=6), series=series.name, name="begun")
    lose(series, 5)
    rule = {"upkeep": Upkeep(stop_on=SpikeRule(window=3))}
    made = run(config(9), series=series.name, name="made", hooks=rule)
    assert "from step 6; stop_on judges without" in caplog.text
    assert weights(made) == weights(plain)


def test_a_rule_that_stops_looks_further_back_than_one_that_skips(run, series, monkeypatch, caplog):
    spiking(monkeypatch, {5})
    run(config(12, skip=SKIP, stop_at=6), series=series.name, name="begun")
    rule = {"upkeep": Upkeep(stop_on=SpikeRule(spike_factor=1.9, window=5))}
    lose(series, 2)
    made = run(config(12, skip=SKIP, stop_at=9), series=series.name, name="made", hooks=rule)
    assert "stop_on judges without" in caplog.text
    assert len(read_record(made.folder(made.latest)).recent.losses) == 5


def test_only_checkpoints_of_a_training_with_a_rule_say_what_it_judges_by(run):
    plain = run(config(6), series="a" * 64, name="plain")
    assert "recent" not in json.loads((plain.folder(plain.latest) / RECORD).read_text())
    made = run(config(6, skip=SKIP), series="b" * 64, name="with")
    losses = [row["loss"] for row in history_rows(made.series_root).values()]
    assert read_record(made.folder(made.latest)).recent == RecentLosses(losses[-3:], 0)
    assert read_record(made.folder(made.steps[0])).recent == RecentLosses([], 0)


@pytest.mark.slow
def test_ranks_of_other_processes_go_on_as_if_nothing_was_lost(run, series):
    low = SkipRule(spike_factor=1.001, window=2, max_in_a_row=12)
    launch = Launch(ranks=2, threads=1)
    whole = run(config(9, skip=low), launch, series="b" * 64, name="whole")
    assert skipped_of(whole.series_root)
    run(config(9, skip=low, stop_at=6), launch, series=series.name, name="begun")
    lose(series, 4, 5, 6)
    made = run(config(9, skip=low), launch, series=series.name, name="made")
    assert weights(made) == weights(whole)
