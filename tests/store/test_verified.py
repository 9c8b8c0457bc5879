"""What of a series is read again before it is shown."""

import os
from contextlib import nullcontext

import pytest

from pipeline.core.errors import CorruptShard
from pipeline.store import inventory, verified
from pipeline.store.checkpoints import CheckpointRecord, write_record

DIGESTED = []


@pytest.fixture(autouse=True)
def digested(monkeypatch):
    """Counts what is digested, where no file is small."""
    DIGESTED.clear()
    monkeypatch.setattr(inventory, "SMALL_BYTES", 0)
    digest = inventory.file_sha256

    def counted(path):
        DIGESTED.append(path.name)
        return digest(path)

    fault = inventory.FileState.fault
    monkeypatch.setattr(
        inventory.FileState, "fault", lambda self, path, noted=0: fault(self, path, noted, counted)
    )
    return DIGESTED


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of two ranks, written some time ago."""
    made = tmp_path / "series" / "step000400"
    made.mkdir(parents=True)
    for kind in ("model", "optimizer"):
        for rank in (1, 2):
            path = made / f"{kind}-0000{rank}-of-00002.safetensors"
            path.write_bytes(os.urandom(1000))
            os.utime(path, ns=(10**18, 10**18))
    sha256 = {each.name: inventory.file_sha256(each) for each in made.iterdir()}
    write_record(made, CheckpointRecord(400, 9, 9, "0" * 64, sha256))
    return made


def test_what_was_found_whole_is_not_read_again(folder, digested):
    verified.require_whole(folder)
    assert digested == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    verified.require_whole(folder)
    assert len(digested) == 2


def test_what_was_just_written_is_not_read_at_all(folder, digested):
    verified.note_whole(folder)
    verified.require_whole(folder)
    assert not digested


@pytest.mark.parametrize("with_time", [False, True])
def test_a_file_whose_time_moved_is_read_and_found_damaged(folder, digested, with_time):
    verified.note_whole(folder)
    path = folder / "model-00002-of-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    if with_time:  # a flip that no program made: `olmo verify` finds it
        os.utime(path, ns=(10**18, 10**18))
    expected = (
        nullcontext() if with_time else pytest.raises(CorruptShard, match="00002-of.*SHA-256")
    )
    with expected:
        verified.require_whole(folder)


def test_a_checkpoint_written_anew_is_read_whatever_was_noted(folder, digested):
    verified.note_whole(folder)
    path = folder / "model-00001-of-00002.safetensors"
    path.write_bytes(os.urandom(1000))
    os.utime(path, ns=(10**18, 10**18))
    sha256 = {each.name: inventory.file_sha256(each) for each in folder.glob("*.safetensors")}
    write_record(folder, CheckpointRecord(400, 9, 9, "0" * 64, sha256))
    verified.require_whole(folder)
    assert digested == [path.name]


@pytest.mark.parametrize("change", ["cut", "other", "missing", "link"])
def test_a_note_that_is_none_costs_time_only(folder, digested, tmp_path, change):
    verified.note_whole(folder)
    note = folder.parent / "verified" / "step000400.json"
    if change == "cut":
        note.write_bytes(note.read_bytes()[:-9])
    elif change == "other":
        note.write_text("[" * 100_000)
    elif change == "missing":
        note.unlink()
    else:
        note.parent.rename(tmp_path / "elsewhere")
        note.parent.symlink_to(tmp_path / "elsewhere")
    verified.require_whole(folder)
    assert len(digested) == 2


def test_small_files_are_read_each_time_and_not_noted(folder, digested, monkeypatch):
    monkeypatch.setattr(inventory, "SMALL_BYTES", 1000)
    for _ in range(2):
        verified.require_whole(folder)
    assert len(digested) == 4 and not (folder.parent / "verified").exists()


def test_a_missing_file_is_named(folder):
    verified.note_whole(folder)
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CorruptShard, match="model-00001-of-00002.safetensors: is missing"):
        verified.require_whole(folder)
