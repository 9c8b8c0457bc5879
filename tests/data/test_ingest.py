import json

import pytest

from pipeline.core.artifacts import Artifact
from pipeline.core.engine import Local
from pipeline.core.errors import ChangedData, CorruptShard
from pipeline.data import ingest
from pipeline.data.ingest import concat_documents, ingest_documents
from pipeline.data.sources import Jsonl
from pipeline.store.memo import FileMemo
from tests.data.conftest import column, make_documents


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def corpus(tmp_path):
    for name in "abc":
        rows = [{"id": f"{name}{i}", "text": f"{name} {i} é\n" * 10} for i in range(20)]
        write_rows(tmp_path / f"{name}.jsonl", rows)
    return tmp_path


def source(corpus):
    return Jsonl(str(corpus / "*.jsonl"), "web", licence="MIT", provenance="made here")


def test_every_document_is_stored_in_order_whatever_the_shards_and_workers(corpus):
    made = [
        ingest_documents(
            source(corpus), out=corpus / str(n), shard_bytes=300, engine=Local(workers)
        )
        for n, workers in enumerate((1, 2))
    ]
    assert made[0].content == made[1].content
    assert column(made[0], "id") == [f"{name}{i}" for name in "abc" for i in range(20)]
    assert len(made[0].shards) > 6
    texts = column(made[0], "text")
    assert made[0].num_text_bytes == sum(len(text.encode()) for text in texts)
    assert made[0].sources[0].num_documents == 60
    assert Artifact.load(made[0].root) == made[0]
    made[0].verify()


def test_one_more_file_is_the_only_one_that_is_read(corpus, monkeypatch):
    memo, read = FileMemo(corpus / "memo"), []
    real = Jsonl.read
    monkeypatch.setattr(Jsonl, "read", lambda self, p: read.append(p.name) or real(self, p))
    ingest_documents(source(corpus), out=corpus / "1", memo=memo)
    read.clear()
    write_rows(corpus / "aa.jsonl", [{"id": "new", "text": "n"}])
    made = ingest_documents(source(corpus), out=corpus / "2", memo=memo)
    assert read == ["aa.jsonl"]
    assert made == ingest_documents(source(corpus), out=corpus / "3")
    made.verify()


def test_a_file_that_changes_while_it_is_read_is_refused_and_not_remembered(corpus, monkeypatch):
    memo, real = FileMemo(corpus / "memo"), Jsonl.read

    def read(self, piece):
        if piece.name == "b.jsonl":
            write_rows(corpus / "b.jsonl", [{"id": "b0", "text": "another"}])
        yield from real(self, piece)

    before = (corpus / "b.jsonl").read_text()
    with monkeypatch.context() as patched:
        patched.setattr(Jsonl, "read", read)
        with pytest.raises(ChangedData, match="b.jsonl changed while"):
            ingest_documents(source(corpus), out=corpus / "1", memo=memo)
    (corpus / "b.jsonl").write_text(before)
    made = ingest_documents(source(corpus), out=corpus / "2", memo=memo)
    assert len(column(made, "id")) == 60


def test_malformed_records_stop_the_work_or_are_counted_and_set_aside(corpus):
    rows = [{"id": "x", "text": "ok"}, {"id": "y"}, {"id": "x", "text": "again"}]
    write_rows(corpus / "b.jsonl", rows)
    with pytest.raises(CorruptShard, match=r"b\.jsonl record 2: has no 'text'"):
        ingest_documents(source(corpus), out=corpus / "1")
    made = ingest_documents(source(corpus), out=corpus / "2", max_malformed=2)
    assert made.num_malformed == 2
    lines = (made.root / ingest.SET_ASIDE).read_text().splitlines()
    aside = [json.loads(line) for line in lines]
    assert [(each["record"], each["reason"]) for each in aside] == [
        (2, "has no 'text'"),
        (3, "its id 'x' stands there already"),
    ]


def test_an_id_in_two_files_is_named_with_both(corpus):
    write_rows(corpus / "c.jsonl", [{"id": "a3", "text": "other"}])
    with pytest.raises(CorruptShard, match=r"00000-00000.parquet record a3.*00002-00000.parquet"):
        ingest_documents(source(corpus), out=corpus / "out")


def test_concat_holds_everything_and_refuses_a_source_twice(tmp_path):
    one = make_documents(tmp_path / "1", [["a", "b"], ["c"]], source="one")
    two = make_documents(tmp_path / "2", [["d"]], source="two")
    both = concat_documents([one, two], out=tmp_path / "both")
    assert column(both, "text") == ["a", "b", "c", "d"]
    assert [count.source for count in both.sources] == ["one", "two"]
    both.verify()
    with pytest.raises(ValueError, match=r"documents\[1\] holds source 'one' again"):
        concat_documents([one, one], out=tmp_path / "no")


@pytest.mark.parametrize("at_once", [1 << 20, 7])
def test_an_id_of_two_files_is_refused_however_few_ids_are_held_at_once(
    corpus, monkeypatch, at_once
):
    monkeypatch.setattr(ingest, "NAMED_AT_ONCE", at_once)
    assert ingest_documents(source(corpus), out=corpus / "good").num_documents == 60
    assert not list((corpus / "good").glob(".*"))
    write_rows(corpus / "d.jsonl", [{"id": "b7", "text": "again"}])
    with pytest.raises(CorruptShard, match=r"00001-00000.parquet record b7: .* 00003-00000"):
        ingest_documents(source(corpus), out=corpus / "bad")
