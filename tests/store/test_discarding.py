import shutil

import pytest

from pipeline.core.artifacts import Artifact
from pipeline.core.errors import CorruptShard
from pipeline.core.files import write_json
from pipeline.store.cleaning import InUse, discard_data
from pipeline.store.discarding import ChangedContent, discard, refill, restore
from pipeline.store.results import inputs_of


def data_of(results, id):
    return (results.folder(id) / "00000.parquet").exists()


def made_anew(maker, texts):
    """What a step leaves in its work folder: the result of `texts`, not committed."""
    results = maker.results
    id, other = maker.id("Make"), maker.documents(99, texts)
    shutil.copytree(results.folder(other), results.work(id), dirs_exist_ok=True)
    shutil.rmtree(results.folder(other))
    for name in ("key.json", "run.json"):
        (results.work(id) / name).unlink()
    return id


def test_a_discarded_result_stays_with_its_manifest_key_and_record(maker):
    results = maker.results
    id = maker.documents()
    before = results.load(id)
    discard(results, id)
    assert id in results and list(results) == [id] and results.load(id) == before
    names = sorted(path.name for path in results.folder(id).iterdir())
    assert names == ["files.json", "key.json", "manifest.json", "run.json"]
    (found,) = results.unreadable(id)
    assert found.discarded


def test_discarding_frees_what_the_memo_kept_too(maker):
    results = maker.results
    id = maker.documents(texts=["x" * 100_000])
    results.files.keep_files({"work": 1}, results.folder(id), ["00000.parquet"], "note")
    assert discard_data(results, id) > 0
    assert not list(results.files.folders())
    discard(results, id)  # again, which changes nothing
    assert id in results


def test_a_discarded_result_comes_back_when_it_is_made_again(maker):
    results = maker.results
    id = maker.documents()
    record = results.record(id)
    discard(results, id)
    assert made_anew(maker, ["one", "two"]) == id
    restore(results, id).verify()
    assert results.unreadable(id) == [] and results.record(id) == record
    assert not (results.root / "work" / id).exists()


def test_a_kill_while_it_comes_back_leaves_it_discarded(maker):
    results = maker.results
    id = maker.documents()
    data = (results.folder(id) / "00000.parquet").read_bytes()
    discard(results, id)
    (results.folder(id) / "00000.parquet").write_bytes(data[:100])
    assert id in results and results.unreadable(id)[0].discarded
    made_anew(maker, ["one", "two"])
    restore(results, id).verify()


def test_other_content_under_the_same_id_is_an_error_that_says_what_to_do(maker):
    results = maker.results
    id = maker.documents()
    discard(results, id)
    made_anew(maker, ["one", "other"])
    with pytest.raises(ChangedContent, match=f"olmo rm {id}"):
        restore(results, id)
    assert results.unreadable(id)[0].discarded


def test_a_result_of_equal_content_gives_back_the_data(maker):
    results = maker.results
    id, equal = maker.documents(1), maker.documents(2)
    discard(results, id)
    assert refill(results, id) and results.unreadable(id) == []
    results.load(id).verify()
    discard(results, id)
    discard(results, equal)
    assert not refill(results, id)


def test_a_link_to_a_discarded_result_is_discarded(maker):
    results = maker.results
    id = maker.documents(content_key="c" * 64)
    discard(results, id)
    key = maker.key("Make", 7)
    other = maker.id("Make", 7)
    assert results.find_earlier("c" * 64) == id
    results.link(id, other, key, "c" * 64)
    assert results.unreadable(other)[0].discarded and other in results


def test_a_mix_of_discarded_tokens_is_there_and_says_which_are_missing(maker):
    results = maker.results
    tokens = maker.tokens()
    mix = maker.mix(tokens)
    discard(results, tokens)
    assert mix in results
    assert [(each.id, each.discarded) for each in results.unreadable(mix)] == [(tokens, True)]


def test_what_cannot_be_made_again_or_has_no_data_is_not_discarded(maker):
    results = maker.results
    with pytest.raises(ValueError, match="training series"):
        discard(results, maker.checkpoints())
    with pytest.raises(ValueError, match="no data of its own"):
        discard(results, maker.mix(maker.tokens()))


def test_a_damaged_result_is_not_discarded(maker):
    id = maker.documents()
    (maker.results.folder(id) / "00000.parquet").write_bytes(b"")
    with pytest.raises(CorruptShard):
        discard(maker.results, id)


def test_what_a_working_step_reads_is_not_discarded(maker):
    results = maker.results
    id = maker.documents()
    reader = maker.id("Read", 0, [id])
    work = results.work(reader)
    write_json(work / "key.json", maker.key("Read", 0, [id]))
    assert inputs_of(work) == [id]
    with results.lease(reader), pytest.raises(InUse, match="in use"):
        discard_data(results, id)
    discard_data(results, id)
    assert Artifact.load(results.folder(id)) and not data_of(results, id)
