"""A result that is made again by other code: what gives way, in which order, and what does not."""

import os

import pytest

from pipeline.core.artifacts import Tokenizer
from pipeline.core.files import Shard, StoredFile
from pipeline.store.code import Code
from pipeline.store.memo import FileMemo
from pipeline.store.results import Results, result_id


def key_of(name, *reads):
    return {"step": name, "version": "001", "args": {"reads": [{"step": id} for id in reads]}}


def make(results, key, text, code="1", **record):
    """Commit a result whose content is its text."""
    id = result_id(key)
    work = results.work(id)
    (work / "tokenizer.json").write_text(text)
    Tokenizer.of(work, file=StoredFile.of(work, "tokenizer.json"), vocab_size=2, end_id=0, pad_id=1)
    results.commit(id, key, "c" * 64, {"code": Code.of({"f": code}).to_json(), **record})
    return id


@pytest.fixture
def chain(tmp_path):
    """A result, one made from it, one made from that, and one apart."""
    results = Results(tmp_path)
    first = make(results, key_of("First"), "a")
    second = make(results, key_of("Second", first), "b")
    third = make(results, key_of("Third", second), "c")
    apart = make(results, key_of("Apart"), "d")
    return results, first, second, third, apart


def test_readers_come_each_after_those_made_from_it(chain):
    results, first, second, third, apart = chain
    assert results.readers(first) == [third, second]
    assert results.readers(third) == results.readers(apart) == []


def test_what_was_made_of_another_content_gives_way(chain, tmp_path):
    results, first, second, third, apart = chain
    make(results, key_of("First"), "other")
    assert sorted(results) == sorted([apart, first])
    assert len(list((tmp_path / "damaged").iterdir())) == 3
    assert (results.folder(first) / "tokenizer.json").read_text() == "other"


def test_the_same_content_leaves_all_as_it_is(chain, tmp_path):
    results, first, second, third, apart = chain
    make(results, key_of("First"), "a", code="2")
    assert sorted(results) == sorted([first, second, third, apart])
    assert results.record(first)["code"] == Code.of({"f": "2"}).to_json()
    assert not (tmp_path / "damaged").exists()


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_in_between_leaves_nothing_made_from_what_is_gone(chain, monkeypatch, moment):
    results, first, second, third, apart = chain
    replace, left = os.replace, [moment]

    def killed(source, target):
        if "damaged" in str(target) or str(target) == str(results.folder(first)):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        make(results, key_of("First"), "other")
    monkeypatch.undo()
    there = set(results)
    for id in there:
        read = {each["step"] for each in results.key(id)["args"]["reads"]}
        assert read <= there, moment
    assert apart in there
    make(results, key_of("First"), "other")
    assert sorted(results) == sorted([apart, first])


def test_staleness_is_asked_for_and_needs_a_difference(chain, tmp_path):
    results, first, *_ = chain
    strict = Results(tmp_path, strict=True)
    one, two = Code.of({"f": "1"}), Code.of({"f": "2"})
    assert not strict.is_stale(first, one) and strict.is_stale(first, two)
    assert not results.is_stale(first, two) and not strict.is_stale(first, None)
    (results.folder(first) / "run.json").write_text("{")
    assert strict.is_stale(first, one)  # nobody knows by what it was made


def test_work_that_other_code_remembered_is_not_found(tmp_path):
    memo = FileMemo(tmp_path / "memo")
    (tmp_path / "a").write_text("a")
    shard = Shard.of(tmp_path, "a", num_records=1)
    memo.of_code("1").keep({"k": 1}, tmp_path, shard)
    assert memo.of_code("1").fetch({"k": 1}, tmp_path / "out", "a") == shard
    assert memo.of_code("2").fetch({"k": 1}, tmp_path / "out", "a") is None
    assert memo.fetch({"k": 1}, tmp_path / "out", "a") is None
