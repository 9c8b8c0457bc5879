import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import progress
from pipeline.core.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (61, "1 min 1 s"),
        (3599.9, "1 h 0 min"),
        (3 * 3600 + 59.9 * 60, "4 h 0 min"),
        (86400 * 2 + 3600 * 5, "2 d 5 h"),
    ],
)
def test_a_duration_is_said_in_its_two_largest_units(seconds, said):
    assert duration(seconds) == said


@given(st.floats(0, 1e7))
def test_a_duration_is_never_off_by_more_than_half_of_its_last_unit(seconds):
    units = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    parts = re.findall(r"([0-9.]+) (\w+)", duration(seconds))
    total = sum(float(number) * units[unit] for number, unit in parts)
    assert abs(total - seconds) <= units[parts[-1][1]] / 2 + 1e-6


def test_the_latest_state_stands_in_a_file_and_lines_go_to_the_log(tmp_path, monkeypatch, caplog):
    path = tmp_path / "state"
    monkeypatch.setenv(progress.VARIABLE, str(path))
    monkeypatch.setattr(progress, "STATE_SECONDS", 0)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    with caplog.at_level(logging.INFO), Progress("tag", 10, "shard") as told:
        told.begin(4)
        told.note(5, "all well")
    assert path.read_text().startswith("tag: shard 5 of 10, all well, 0.0 s left")
    assert "tag: shard 5 of 10" in caplog.text


def test_progress_that_is_not_shown_says_nothing(tmp_path, monkeypatch, caplog):
    path = tmp_path / "state"
    monkeypatch.setenv(progress.VARIABLE, str(path))
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    with caplog.at_level(logging.INFO), Progress("tag", 1, "shard", shown=False) as told:
        told.note(1)
    assert not path.exists() and caplog.text == ""


def test_what_is_done_between_units_is_told_at_once_and_takes_none_of_their_time(
    tmp_path, monkeypatch
):
    path = tmp_path / "state"
    monkeypatch.setenv(progress.VARIABLE, str(path))
    clock = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    with Progress("train", 4, "step") as told:
        clock[0] += 10
        told.note(2)
        with told.pausing("evaluating held-out text"):
            assert path.read_text().startswith("train: step 2 of 4, evaluating held-out text")
            clock[0] += 1000
        clock[0] += 5
        told.note(3)
    assert path.read_text() == "train: step 3 of 4, 5.0 s left"
