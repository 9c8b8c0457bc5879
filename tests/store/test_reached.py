"""How many updates are left, against the plan that training itself makes of a series."""

import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import Inaccessible
from pipeline.store.checkpoints import CheckpointRecord, stopped_folder, write_record
from pipeline.store.reached import updates_left
from pipeline.train.config import Linear, TrainConfig
from pipeline.train.series import saved

FILES = ("model.safetensors", "optimizer.safetensors")


def save(folder, step, goes_on=True):
    """A checkpoint by its names: a record, and files without tensors."""
    folder.mkdir()
    write_record(folder, CheckpointRecord(step, 0, 0, "a" * 64, dict.fromkeys(FILES, "b" * 64)))
    for name in FILES[: 1 + goes_on]:
        (folder / name).touch()


def config(last, save_steps):
    return TrainConfig(1, Linear(1e-3, 1, 30), stop_at=last, save_steps=save_steps)


def series_of(root, there, paused=None):
    for step, goes_on in there.items():
        save(root / f"step{step:06}", step, goes_on)
    if paused is not None:
        save(stopped_folder(root), paused)
    return root


@given(
    st.dictionaries(st.integers(0, 30), st.booleans()),
    st.integers(2, 30),
    st.integers(1, 12),
    st.none() | st.integers(1, 30),
)
def test_the_updates_that_are_left_are_those_that_training_makes(there, last, every, paused):
    wanted = config(last, every).kept_steps
    missing = [step for step in wanted if step not in there]
    starts = {step: "x" for step, goes_on in there.items() if goes_on}
    if paused is not None and paused <= max(missing, default=0):
        starts.setdefault(paused, "x")
    stretches = saved.plan_stretches(starts, missing)
    with TemporaryDirectory() as folder:
        series = series_of(Path(folder), there, paused)
        assert updates_left(series, wanted) == sum(
            each.saves[-1] - each.start for each in stretches
        )


def test_what_is_damaged_or_a_link_or_missing_is_not_there(tmp_path):
    assert updates_left(tmp_path / "none", [0, 5, 9]) == 9
    series_of(tmp_path, {0: True, 5: True, 9: True})
    assert updates_left(tmp_path, [0, 5, 9]) == 0
    (tmp_path / "step000009" / "model.safetensors").unlink()
    assert updates_left(tmp_path, [0, 5, 9]) == 4
    (tmp_path / "step000009").rename(tmp_path / "apart")
    (tmp_path / "step000009").symlink_to(tmp_path / "step000005")
    assert updates_left(tmp_path, [0, 5, 9]) == 4
    (tmp_path / "step000005" / "state.json").write_text("{}")
    assert updates_left(tmp_path, [0, 5, 9]) == 9


def test_a_series_that_will_begin_as_another_has_what_that_has_up_to_there(tmp_path):
    series_of(tmp_path, {0: True, 3: True, 6: True}, paused=7)
    assert updates_left(tmp_path, [0, 3, 6, 9]) == 2
    assert updates_left(tmp_path, [0, 3, 6, 9], branched_at=5) == 6


def test_a_series_that_may_not_be_looked_into_is_not_taken_for_an_empty_one(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(Inaccessible, match="cannot be read"):
        updates_left(tmp_path, [0, 5])
