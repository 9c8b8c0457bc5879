"""The folder in which the ranks of a machine meet."""

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.train.ranks import scratch
from pipeline.train.ranks.scratch import PREFIX, scratch_folder

CODE = """
import os, signal
from pipeline.train.ranks import scratch
from pipeline.train.ranks.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "rendezvous").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_others_hold_stays(temporary):
    with scratch_folder() as held:
        subprocess.run([sys.executable, "-c", CODE])
        (left,) = set(temporary.iterdir()) - {held}
        with scratch_folder() as another:
            assert set(temporary.iterdir()) == {held, another} and left.name.startswith(PREFIX)
    assert list(temporary.iterdir()) == []


def test_a_link_that_looks_like_a_leftover_leads_nowhere(temporary, tmp_path_factory):
    victim = tmp_path_factory.mktemp("victim")
    (victim / "kept").touch()
    (temporary / f"{scratch._prefix()}link").symlink_to(victim)
    with scratch_folder():
        pass
    assert (victim / "kept").exists()


def test_a_folder_that_was_taken_for_a_leftover_before_it_was_locked_is_made_again(
    temporary, monkeypatch
):
    made, make = [], tempfile.mkdtemp

    def taken(**options):
        made.append(Path(make(**options)))
        if len(made) == 1:
            made[0].rmdir()
        return str(made[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", taken)
    with scratch_folder() as folder:
        assert folder == made[1]


def test_a_folder_of_another_machine_stays_where_its_lock_is_not_seen(temporary, monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(scratch, "machine", lambda: "another")
        held, lock = scratch._made()
    os.close(lock)
    with scratch_folder():
        assert held.exists()


def test_a_folder_on_a_file_system_without_locks_serves_and_is_no_leftover(temporary, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with scratch_folder() as first, scratch_folder() as second:
        assert first.exists() and second.exists()
    assert list(temporary.iterdir()) == []
