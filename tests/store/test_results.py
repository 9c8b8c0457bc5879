import subprocess
import sys
import threading

import pytest

from pipeline.core.artifacts import StoredFile, Tokenizer
from pipeline.store.leases import Lease
from pipeline.store.results import Results, result_id


def key_of(number):
    return {"step": "Make", "version": "001", "args": {"number": number}}


def make(results, number, text="{}"):
    key = key_of(number)
    id = result_id(key)
    work = results.work(id)
    (work / "tokenizer.json").write_text(text)
    Tokenizer.of(work, file=StoredFile.of(work, "tokenizer.json"), vocab_size=2, end_id=0, pad_id=1)
    return id, key


def test_a_committed_result_is_found_in_a_moved_workspace(tmp_path):
    results = Results(tmp_path / "a")
    id, key = make(results, 1)
    made = results.commit(id, key, "c" * 64, {})
    (tmp_path / "a").rename(tmp_path / "b")
    moved = Results(tmp_path / "b")
    assert list(moved) == [id]
    assert moved.load(id) == made
    assert moved.memo.find("c" * 64) == id


def test_a_linked_result_shares_its_files(tmp_path):
    results = Results(tmp_path)
    id, key = make(results, 1)
    results.commit(id, key, "c" * 64, {})
    other = key_of(2)
    linked = results.link(id, result_id(other), other, "c" * 64)
    linked.verify()
    assert (linked.root / "tokenizer.json").samefile(results.folder(id) / "tokenizer.json")


def test_work_without_a_manifest_is_no_result(tmp_path):
    results = Results(tmp_path)
    id = result_id(key_of(1))
    results.work(id)
    results.folder(id).mkdir(parents=True)
    assert id not in results and list(results) == []


@pytest.mark.parametrize("id", ["../x", "Make-001-../../x", "", "Make-001-" + "g" * 32])
def test_an_id_that_leaves_the_workspace_is_refused(tmp_path, id):
    with pytest.raises(ValueError, match="not the id"):
        Results(tmp_path).folder(id)


def test_a_lease_is_held_by_one_at_a_time(tmp_path):
    inside, most = [], []

    def work():
        with Lease(tmp_path, "one"):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1] * 8
    assert not list(tmp_path.iterdir())


def test_the_lease_of_a_killed_process_is_taken_over(tmp_path):
    code = (
        "import os, pathlib, signal\n"
        "from pipeline.store.leases import Lease\n"
        f"with Lease(pathlib.Path({str(tmp_path)!r}), 'one'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert (tmp_path / "one.json").exists()
    with Lease(tmp_path, "one") as lease:
        lease.require()
