import pytest

from pipeline.core.artifacts import Tokenizer
from pipeline.core.files import StoredFile
from pipeline.store.memo import place_file
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


def test_what_a_killed_attempt_was_writing_is_not_part_of_the_result(tmp_path):
    results = Results(tmp_path)
    id, key = make(results, 1)
    (results.work(id) / "part").mkdir()
    (results.work(id) / "part" / ".00000.parquet.4711.tmp").write_text("half")
    assert results.resume(id) == results.work(id)
    made = results.commit(id, key, "c" * 64, {})
    held = {each.name for each in made.root.rglob("*") if each.is_file()}
    assert held == {"manifest.json", "key.json", "run.json", "files.json", "tokenizer.json"}


def test_a_file_that_is_in_its_place_already_leaves_no_second_name(tmp_path):
    (tmp_path / "a").write_text("text")
    for _ in range(2):
        place_file(tmp_path / "a", tmp_path / "b")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b"]
    assert (tmp_path / "a").samefile(tmp_path / "b")


def test_a_result_is_remembered_before_it_stands(tmp_path, monkeypatch):
    results = Results(tmp_path)
    id, key = make(results, 1)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(results, "publish", killed)
        results.commit(id, key, "c" * 64, {})
    assert results.memo.find("c" * 64) == id and id not in results


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
