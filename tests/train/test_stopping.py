import multiprocessing
import os
import signal
import threading
import time

import pytest

from pipeline.core.stopping import Stopped, stopping_signals
from pipeline.store.checkpoints import stopped_folder
from pipeline.store.history import read_segments
from pipeline.train import loop
from pipeline.train.config import Launch
from pipeline.train.series import history, saved
from tests.train.conftest import config
from tests.train.test_loop import losses, weights


def stopped_after(run, monkeypatch, update, train_config, **options):
    """Run until a signal after an update stops it; gives the error."""
    note = loop.Progress.note

    def signalling(self, step, *rest):
        note(self, step, *rest)
        if step == update:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Progress, "note", signalling)
    with pytest.raises(Stopped) as caught, stopping_signals():
        run(train_config, **options)
    monkeypatch.setattr(loop.Progress, "note", note)
    return caught.value


def rows_of(series):
    return [line for line in (series / history.LINES).read_text().splitlines() if line]


def test_a_stopped_run_goes_on_after_its_last_update_to_the_same_bits(run, tmp_path, monkeypatch):
    whole = run(config(8, save_steps=3), series="a" * 64, name="whole")
    series = tmp_path / "series" / ("b" * 64)
    error = stopped_after(run, monkeypatch, 4, config(8, save_steps=3), series="b" * 64)
    assert error.status == 75
    done = saved.find_stopped(series)
    assert done == 5 and saved.find_checkpoints(series) == [0, 3]
    resumed = run(config(8, save_steps=3), series="b" * 64, name="resumed")
    assert resumed.content == whole.content and losses(resumed) == losses(whole)
    assert len(rows_of(series)) == 8  # no update was made twice
    assert saved.find_stopped(series) is None
    assert sorted(path.name for path in series.iterdir()) == sorted(
        path.name for path in (tmp_path / "series" / ("a" * 64)).iterdir()
    )


def test_a_stop_at_the_update_of_a_kept_checkpoint_keeps_it(run, tmp_path, monkeypatch):
    series = tmp_path / "series" / ("b" * 64)
    stopped_after(run, monkeypatch, 2, config(8, save_steps=3), series="b" * 64)
    assert saved.find_checkpoints(series) == [0, 3]
    whole = run(config(8, save_steps=3), series="a" * 64, name="whole")
    resumed = run(config(8, save_steps=3), series="b" * 64, name="resumed")
    assert resumed.content == whole.content


def test_a_shorter_view_leaves_what_a_longer_run_was_stopped_at(run, tmp_path, monkeypatch):
    series = tmp_path / "series" / ("b" * 64)
    stopped_after(run, monkeypatch, 6, config(9, save_steps=4), series="b" * 64)
    part = run(config(9, save_steps=2, stop_at=2), series="b" * 64, name="part")
    assert [each.step for each in part.steps] == [0, 2] and saved.find_stopped(series) == 7
    resumed = run(config(9, save_steps=4), series="b" * 64, name="resumed")
    whole = run(config(9, save_steps=4), series="a" * 64, name="whole")
    assert weights(resumed) == weights(whole)


def test_a_replay_that_is_stopped_leaves_what_the_series_was_stopped_at(run, tmp_path, monkeypatch):
    series = tmp_path / "series" / ("b" * 64)
    stopped_after(run, monkeypatch, 6, config(9, save_steps=4), series="b" * 64)
    stopped_after(run, monkeypatch, 1, config(9, save_steps=3), series="b" * 64)  # replays from 0
    assert saved.find_stopped(series) == 7
    resumed = run(config(9, save_steps=4), series="b" * 64, name="resumed")
    assert read_segments(series)[-1]["first_step"] == 7
    whole = run(config(9, save_steps=4), series="a" * 64, name="whole")
    assert resumed.content == whole.content


def test_what_is_made_before_a_stopped_state_is_a_replay(run, tmp_path, monkeypatch):
    series = tmp_path / "series" / ("b" * 64)
    stopped_after(run, monkeypatch, 4, config(9, save_steps=9), series="b" * 64)
    run(config(9, save_steps=2, stop_at=4), series="b" * 64, name="part")
    assert saved.find_stopped(series) == 5
    assert [each.get("replay", False) for each in read_segments(series)] == [False, True]
    assert not any("rolled_back_from" in each for each in read_segments(series))


def test_a_damaged_state_of_a_stopped_run_is_not_used(run, tmp_path, monkeypatch):
    series = tmp_path / "series" / ("b" * 64)
    stopped_after(run, monkeypatch, 4, config(8, save_steps=3), series="b" * 64)
    path = stopped_folder(series) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert saved.find_stopped(series) is None
    whole = run(config(8, save_steps=3), series="a" * 64, name="whole")
    resumed = run(config(8, save_steps=3), series="b" * 64, name="resumed")
    assert resumed.content == whole.content


@pytest.mark.slow
def test_ranks_that_are_asked_to_stop_do_so_together(run, tmp_path):
    series = tmp_path / "series" / ("b" * 64)

    def ask():
        while not (series / history.LINES).exists() or len(rows_of(series)) < 5:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask, daemon=True).start()
    both = Launch(ranks=2, threads=1)
    with pytest.raises(Stopped), stopping_signals():
        run(config(4000, save_steps=4000), both, series="b" * 64)
    done = saved.find_stopped(series)
    assert 5 <= done < 4000 and len(rows_of(series)) == done


@pytest.mark.slow
def test_ranks_that_are_asked_to_stop_before_they_began_are_stopped_and_not_failed(run):
    def ask():
        while not multiprocessing.active_children():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask, daemon=True).start()
    with pytest.raises(Stopped, match="SIGTERM"), stopping_signals():
        run(config(4000, save_steps=4000), Launch(ranks=2, threads=1))
