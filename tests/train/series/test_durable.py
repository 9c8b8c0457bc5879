"""A checkpoint is on the disk, whole and with its history, before it has its name.

A test cannot cut the power, so it notes in their order the calls after which it might be cut.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.store.history import HISTORY
from tests.train.conftest import config


@dataclass(frozen=True)
class Call:
    """What a file or folder was when it was synced, or what name it got."""

    inode: int  # which a file keeps when it is renamed
    num_bytes: int
    name: Path | None = None


@pytest.fixture
def calls(monkeypatch):
    made, replace = [], os.replace

    def fsync(number):
        seen = os.fstat(number)
        made.append(Call(seen.st_ino, seen.st_size))

    def noted_replace(source, target):
        seen = os.stat(source)
        replace(source, target)
        made.append(Call(seen.st_ino, seen.st_size, Path(target)))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return made


def named_at(calls, path):
    (place,) = [place for place, call in enumerate(calls) if call.name == path]
    return place


def synced(calls, path):
    """The sizes that a file had when it was synced."""
    inode = path.stat().st_ino
    return [call.num_bytes for call in calls if call.inode == inode and call.name is None]


def test_all_of_a_checkpoint_is_synced_before_its_name_and_the_series_after(run, calls):
    series = run(config(6)).series_root
    for step in (0, 3, 6):
        folder = series / f"step{step:06d}"
        place = named_at(calls, folder)
        assert len(os.listdir(folder)) == 3
        for path in folder.iterdir():
            assert synced(calls[:place], path)[-1:] == [path.stat().st_size], path.name
        record = named_at(calls[:place], folder.with_name(f".{folder.name}.tmp") / "state.json")
        assert synced(calls[record:place], folder), "the names of its files"
        assert synced(calls[place + 1 :], series), "its own name"


def test_the_rows_up_to_a_checkpoint_are_synced_before_its_name(run, calls):
    series = run(config(6)).series_root
    history = series / HISTORY
    for step in (3, 6):
        place = named_at(calls, series / f"step{step:06d}")
        kept = history.read_bytes()[: max(synced(calls[:place], history), default=0)].splitlines()
        assert step in [json.loads(line)["step"] for line in kept]
