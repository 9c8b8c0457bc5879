import errno
import os
import shutil
from dataclasses import replace

import pytest

from pipeline.core.errors import CorruptShard, Inaccessible
from pipeline.store import memo, verifying
from pipeline.store.checkpoints import drop_state
from pipeline.store.inventory import FILES, FileState, Inventory
from pipeline.store.results import Results
from pipeline.store.sealed import write_sealed
from pipeline.store.verifying import find_all_damage
from tests.fixtures.kept_from import forbid
from tests.store.conftest import flip


def files_of(results, id):
    return sorted(p for p in results.folder(id).iterdir() if p.is_file())


@pytest.mark.parametrize("name", ["00000.parquet", "manifest.json", "key.json", "run.json", FILES])
def test_a_truncated_file_makes_no_result(maker, name):
    id = maker.documents()
    path = maker.results.folder(id) / name
    path.write_bytes(path.read_bytes()[:-1])
    assert id not in maker.results
    with pytest.raises(CorruptShard, match=name):
        maker.results.load(id)


@pytest.mark.parametrize("name", ["00000.parquet", "manifest.json", "key.json", "run.json", FILES])
def test_a_flipped_byte_is_found_before_a_step_reads_the_result(maker, name):
    id = maker.documents()
    assert maker.results.unreadable(id) == []
    flip(maker.results.folder(id) / name)
    (found,) = maker.results.unreadable(id)
    assert found.id == id and not found.discarded and name in found.reason


def test_a_missing_file_makes_no_result_and_there_is_no_key_error(maker):
    id = maker.documents()
    (maker.results.folder(id) / "00000.parquet").unlink()
    assert id not in maker.results and list(maker.results) == []
    with pytest.raises(CorruptShard, match="missing"):
        maker.results.load(id)


def test_a_copy_with_other_times_is_whole(maker, tmp_path):
    id = maker.documents()
    shutil.copytree(maker.results.root, tmp_path / "copy", copy_function=shutil.copyfile)
    copy = Results(tmp_path / "copy")
    assert id in copy and copy.unreadable(id) == []


def test_a_result_without_a_list_is_held_against_its_manifest(maker):
    id = maker.documents()
    (maker.results.folder(id) / FILES).unlink()
    assert id in maker.results and maker.results.unreadable(id) == []
    flip(maker.results.folder(id) / "00000.parquet")
    assert [each.id for each in maker.results.unreadable(id)] == [id]


def test_damage_of_a_part_is_damage_of_its_mix(maker):
    tokens = maker.tokens()
    mix = maker.mix(tokens)
    assert mix in maker.results
    flip(maker.results.folder(tokens) / "00000.npy")
    assert [each.id for each in maker.results.unreadable(mix)] == [tokens]
    (maker.results.folder(tokens) / "00000.npy").unlink()
    assert mix not in maker.results
    assert tokens in str(maker.results.fault(mix))


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_damage_of_a_series_is_damage_of_its_view(maker, name):
    id = maker.checkpoints()
    path = maker.results.series("a" * 64) / "step000002" / name
    whole = path.read_bytes()
    flip(path)
    assert name in maker.results.unreadable(id)[0].reason
    path.write_bytes(whole)
    assert maker.results.unreadable(id) == []
    shutil.rmtree(path.parent)
    assert id not in maker.results


def test_a_view_relies_on_no_optimizer_state(maker):
    id = maker.checkpoints()
    drop_state(maker.results.series("a" * 64) / "step000002")
    assert id in maker.results and maker.results.unreadable(id) == []
    assert find_all_damage(maker.results) == []


def test_times_that_moved_are_noted_again_when_it_saves_a_read(maker, monkeypatch):
    id = maker.documents()
    folder = maker.results.folder(id)
    os.utime(folder / "00000.parquet", ns=(10**18, 10**18))
    monkeypatch.setattr("pipeline.store.inventory.RESTAMP_BYTES", 0)
    assert maker.results.unreadable(id) == []
    assert Inventory.read(folder).files["00000.parquet"].mtime_ns == 10**18
    assert id in maker.results


def test_a_set_aside_result_keeps_its_reason_and_its_number(maker):
    results = maker.results
    for number in (1, 2):
        id = maker.documents()
        aside = results.set_aside(id, "it was broken")
        assert aside.name == f"{id}-{number}" and id not in results
        assert "it was broken" in (aside / "reason.json").read_text()


def test_what_the_memo_linked_to_a_damaged_file_is_forgotten_with_it(maker):
    results = maker.results
    id = maker.documents()
    key = {"work": 1}
    results.files.keep_files(key, results.folder(id), ["00000.parquet"], "note")
    assert results.files.note(key) == "note"
    results.set_aside(id, "it was broken")
    assert results.files.note(key) is None


def test_a_memory_is_not_used_when_its_file_or_its_note_changed(maker, tmp_path):
    results = maker.results
    (tmp_path / "made").write_bytes(b"x" * 100)
    key = {"work": 1}
    memory = results.files
    memory.keep_files(key, tmp_path, ["made"], {"count": 3})
    assert memory.place(key, tmp_path, ["again"])
    (folder,) = memory.folders()
    flip(folder / "0")
    assert not memory.place(key, tmp_path, ["again"])
    assert memory.note(key) is None and list(memory.folders()) == []
    memory.keep_files(key, tmp_path, ["made"], {"count": 3})
    (folder / "note.json").write_text((folder / "note.json").read_text().replace("3", "4"))
    assert memory.note(key) is None and not memory.place(key, tmp_path, ["again"])


def test_a_damaged_earlier_result_is_not_linked(maker):
    results = maker.results
    id = maker.documents(content_key="c" * 64)
    assert results.find_earlier("c" * 64) == id
    flip(results.folder(id) / "00000.parquet")
    assert results.find_earlier("c" * 64) is None


def test_work_that_was_damaged_before_the_commit_is_not_committed(maker):
    with pytest.raises(CorruptShard, match=r"00000\.parquet"):

        def write(work):
            maker.documents()
            whole = maker.results.folder(maker.id("Make"))
            shutil.copytree(whole, work, dirs_exist_ok=True)
            (work / "00000.parquet").write_bytes(b"")

        maker.commit("Other", write)


def test_what_a_killed_writer_left_is_no_part_of_the_result(maker):
    work = maker.results.work(maker.id("Make"))
    (work / ".00007.parquet.123.tmp").write_bytes(b"half")
    (work / "failure.json").write_text("{}")
    id = maker.documents()
    names = {path.name for path in files_of(maker.results, id)}
    assert names == {"00000.parquet", "manifest.json", "key.json", "run.json", FILES}


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"/etc/passwd": {"num_bytes": 1, "sha256": "", "mtime_ns": 0}}},
        {"files": {"../x": {"num_bytes": 1, "sha256": "", "mtime_ns": 0}}},
        {"series": {"../../x": {"num_bytes": 1, "sha256": "", "mtime_ns": 0}}},
        {"references": ["../.."]},
        {"files": []},
        {"damage": 1},
        {"more": 1},
    ],
)
def test_a_hostile_list_of_files_is_refused(maker, change):
    id = maker.documents()
    folder = maker.results.folder(id)
    form = {"files": {}, "series": {}, "references": [], "discarded": False, "damage": "", **change}
    write_sealed(folder / FILES, form)
    with pytest.raises(CorruptShard, match="not a list of files"):
        Inventory.read(folder)
    assert id not in maker.results


def test_a_link_among_the_files_is_no_file(maker, tmp_path):
    id = maker.documents()
    path = maker.results.folder(id) / "00000.parquet"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert id not in maker.results
    assert "no plain file" in str(maker.results.fault(id))


def test_results_that_draw_on_each_other_are_refused(maker):
    tokens = [maker.tokens(1), maker.tokens(2)]
    for one, other in (tokens, tokens[::-1]):
        folder = maker.results.folder(one)
        inventory = Inventory.read(folder)
        replace(inventory, references=[other]).write(folder)
    assert tokens[0] not in maker.results


@pytest.mark.parametrize("name", ["00000.parquet", "manifest.json", FILES])
def test_a_file_that_may_not_be_read_is_named_and_nothing_is_taken_for_damaged(
    maker, name, monkeypatch
):
    id = maker.documents()
    with monkeypatch.context() as patch:
        forbid(patch, maker.results.folder(id) / name)
        with pytest.raises(Inaccessible, match=f"{name} cannot be read .Permission denied"):
            maker.results.unreadable(id)
        (told,) = find_all_damage(maker.results)
        assert isinstance(told.fault, Inaccessible) and told.owner == id
    assert id in maker.results and find_all_damage(maker.results) == []


def test_what_is_damaged_beside_a_file_that_may_not_be_read_is_told_and_marked(maker, monkeypatch):
    id = maker.documents()
    flip(maker.results.folder(id) / "key.json")
    with monkeypatch.context() as patch:
        forbid(patch, maker.results.folder(id) / "00000.parquet")
        told = find_all_damage(maker.results)
    assert {type(each.fault) for each in told} == {CorruptShard, Inaccessible}
    assert id not in maker.results


def test_of_a_folder_that_may_not_be_searched_nothing_is_said_to_be_missing(maker, monkeypatch):
    id, real = maker.documents(), os.lstat

    def lstat(path, *rest, **more):
        if os.fspath(path) == os.fspath(maker.results.folder(id) / "manifest.json"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "lstat", lstat)
    for look in (maker.results.load, maker.results.unreadable, maker.results.__contains__):
        with pytest.raises(Inaccessible, match="manifest.json cannot be read"):
            look(id)
    assert list(maker.results) == []


@pytest.mark.parametrize("name", ["0", memo.NOTE])
def test_a_memory_that_may_not_be_read_is_not_used_and_stays(maker, tmp_path, monkeypatch, name):
    (tmp_path / "a").write_text("a file")
    kept, key = memo.FileMemo(tmp_path / "memo"), {"of": "work"}
    kept.keep_files(key, tmp_path, ["a"], None)
    (place,) = kept.folders()
    monkeypatch.setattr(FileState, "is_unmoved", lambda *_: False)
    with monkeypatch.context() as patch:
        forbid(patch, place / name)
        assert not kept.place(key, tmp_path, ["b"])
        broken = verifying._memory_fault(place, verifying.Reader())
        assert isinstance(broken, Inaccessible)
    assert kept.place(key, tmp_path, ["b"]) and (tmp_path / "b").read_text() == "a file"
