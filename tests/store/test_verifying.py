import os
import shutil

import pytest

from pipeline.core.artifacts import Documents
from pipeline.core.files import Shard
from pipeline.store.discarding import discard
from pipeline.store.verifying import MEMO, Reader, find_all_damage, find_damage, num_bytes_to_read
from tests.store.conftest import flip


def everything(maker):
    tokens = maker.tokens()
    mix = maker.mix(tokens)
    ids = [maker.documents(), tokens, mix, maker.checkpoints(1, [mix])]
    maker.results.files.keep_files({"w": 1}, maker.results.folder(tokens), ["00000.npy"], {"n": 1})
    return ids


def test_a_whole_workspace_has_no_damage_and_is_read_once(maker):
    ids = everything(maker)
    reader = Reader()
    assert find_all_damage(maker.results, content=True, reader=reader) == []
    assert reader.num_files > 10
    assert reader.num_bytes >= num_bytes_to_read(maker.results, ids) > 0
    assert set(maker.results) == set(ids)


@pytest.mark.parametrize("fault", ["flip", "truncate", "remove"])
def test_every_fault_of_every_file_is_found_and_its_result_is_not_used(maker, fault):
    ids = everything(maker)
    results = maker.results
    paths = [p for id in ids for p in results.folder(id).iterdir()]
    paths += [p for p in results.series("a" * 64).rglob("*") if p.is_file()]
    for path in paths:
        state = path.name == "optimizer.safetensors"  # no result relies on it, and it may be gone
        removable = state or path.name == "files.json"
        if path.name == "users.json" or (fault == "remove" and removable):
            continue
        whole = path.read_bytes()
        if fault == "flip":
            flip(path)
        elif fault == "truncate":
            path.write_bytes(whole[:-1])
        else:
            path.unlink()
        found = find_all_damage(results)
        assert found and any(path.name in str(each) for each in found), path
        owner = path.parent.name if path.parent.parent.name == "cache" else ids[3]
        assert (owner in results) == state, path
        path.write_bytes(whole)
        assert find_all_damage(results) == [], path
        assert owner in results


def test_a_flip_that_kept_its_time_is_found_by_verify(maker):
    id = maker.documents()
    path = maker.results.folder(id) / "00000.parquet"
    os.utime(path, ns=(10**18, 10**18))
    find_damage(maker.results, id)
    state = path.stat()
    flip(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert [str(each.fault.reason) for each in find_damage(maker.results, id)] == [
        "its SHA-256 is not the one it was committed with"
    ]
    assert id not in maker.results


def test_a_foreign_key_is_damage(maker):
    one, two = maker.documents(1), maker.documents(2)
    folder = maker.results.folder(one)
    (folder / "key.json").write_bytes((maker.results.folder(two) / "key.json").read_bytes())
    (folder / "files.json").unlink()
    (found,) = find_damage(maker.results, one)
    assert "is not the key" in str(found)


def test_wrong_content_behind_right_bytes_is_found_when_it_is_asked_for(maker):
    id = maker.documents()
    folder = maker.results.folder(id)
    made = maker.results.load(id)
    (shard,) = made.shards
    forged = Shard(shard.path, shard.num_bytes, "0" * 64, shard.sha256, shard.num_records)
    Documents.of(folder, num_documents=2, num_text_bytes=1, sources=made.sources, shards=[forged])
    (folder / "files.json").unlink()
    assert find_damage(maker.results, id) == []
    (found,) = find_damage(maker.results, id, content=True)
    assert "digest of its rows" in str(found)


def test_discarded_data_is_no_damage(maker):
    id = maker.documents()
    discard(maker.results, id)
    assert find_all_damage(maker.results, content=True) == []


def test_a_damaged_memory_is_named_and_forgotten(maker):
    everything(maker)
    results = maker.results
    (folder,) = results.files.folders()
    data = (folder / "0").read_bytes()
    (folder / "0").unlink()
    (folder / "0").write_bytes(data[:-1] + b"\x07")
    (found,) = find_all_damage(results)
    assert found.owner == MEMO
    assert list(results.files.folders()) == [] and find_all_damage(results) == []


def test_a_series_that_nothing_shows_is_read_too(maker):
    maker.checkpoints()
    results = maker.results
    folder = results.folder(maker.id("Train"))
    shutil.rmtree(folder)
    assert find_all_damage(results) == []
    flip(results.series("a" * 64) / "step000004" / "model.safetensors")
    (found,) = find_all_damage(results)
    assert found.owner == "series " + "a" * 64
