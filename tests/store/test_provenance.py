import os
import subprocess
from hashlib import sha256

import pytest

from pipeline.store import provenance
from pipeline.store.provenance import DIFF, machine, record_provenance, repository


def git(folder, *arguments):
    who = {f"GIT_{role}_{what}": "a@example.org" for role in ("AUTHOR", "COMMITTER")
           for what in ("NAME", "EMAIL")}  # fmt: skip
    found = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env=os.environ | who,
        check=True,
        capture_output=True,
        text=True,
    )
    return found.stdout.strip()


@pytest.fixture(autouse=True)
def forget():
    repository.cache_clear()
    yield
    repository.cache_clear()


@pytest.fixture
def code(tmp_path):
    """A folder of code in a repository with one commit and no remote."""
    folder = tmp_path / "code" / "steps"
    folder.mkdir(parents=True)
    git(tmp_path / "code", "init", "-q")
    (folder / "a.py").write_text("x = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_a_clean_repository_is_its_commit(code, tmp_path):
    record = record_provenance(tmp_path, code)
    assert record["git"] == {"of": "code", "commit": git(code, "rev-parse", "HEAD"), "dirty": False}
    assert not (tmp_path / DIFF).exists()


def test_what_was_changed_stands_beside_the_result(code, tmp_path):
    (code / "a.py").write_text("x = 2\n")
    (code / "new.py").write_text("")
    record = record_provenance(tmp_path, code)["git"]
    diff = (tmp_path / DIFF).read_bytes()
    assert record["dirty"] and record["untracked"] == ["steps/new.py"]
    assert record["diff_sha256"] == sha256(diff).hexdigest()
    assert b"-x = 1\n+x = 2\n" in diff
    git(code, "stash", "-q")
    (tmp_path / "patch").write_bytes(diff)
    git(code.parent, "apply", str(tmp_path / "patch"))
    assert (code / "a.py").read_text() == "x = 2\n"


def test_a_diff_that_is_not_small_is_known_by_its_digest(code, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "MAX_DIFF_BYTES", 10)
    (code / "a.py").write_text("x = 2\n")
    record = record_provenance(tmp_path, code)["git"]
    assert record["diff_bytes"] > 10 and not (tmp_path / DIFF).exists()


def test_a_run_never_depends_on_git(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    assert repository(empty).record == {"commit": None, "dirty": False}
    (empty / "a").write_text("")
    repository.cache_clear()
    assert repository(empty).record["dirty"]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert "git" not in record_provenance(tmp_path, plain)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / ".git").write_text("gitdir: /nowhere\n")
    assert repository(broken) is None
    repository.cache_clear()
    monkeypatch.setenv("PATH", str(plain))
    assert repository(code) is None


def test_installed_code_is_of_no_repository_around_it(code, monkeypatch):
    installed = code / ".venv" / "site-packages" / "steps"
    installed.mkdir(parents=True)
    assert repository(installed) is None
    monkeypatch.chdir(code)
    assert record_provenance(code, installed)["git"]["of"] == "working directory"


def test_git_is_asked_once_a_process_and_changes_nothing(code, tmp_path, monkeypatch):
    index = code.parent / ".git" / "index"
    os.utime(code / "a.py", (1, 1))  # git would like to note this in its index
    before = index.read_bytes()
    first = record_provenance(tmp_path, code)
    assert index.read_bytes() == before
    monkeypatch.setenv("PATH", "")
    assert record_provenance(tmp_path, code) == first


def test_a_repository_cannot_have_a_program_run_by_being_looked_at(code, tmp_path):
    ran = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    for name in ("core.fsmonitor", "diff.external", "diff.text.textconv"):
        git(code, "config", name, str(program))
    (code.parent / ".gitattributes").write_text("*.py diff=text\n")
    (code / "a.py").write_text("x = 2\n")
    assert repository(code).diff and not ran.exists()


def test_the_machine_is_told_without_loading_anything():
    record = machine()
    assert record["cores"] >= 1 and record["processor"] and isinstance(record["gpus"], list)
    assert record["memory_bytes"] > 1e8
