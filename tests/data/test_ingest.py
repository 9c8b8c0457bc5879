import json
import tracemalloc
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.artifacts import Artifact
from pipeline.core.engine import Local
from pipeline.core.errors import ChangedData, CorruptShard
from pipeline.data import ingest
from pipeline.data.document import Document, write_documents
from pipeline.data.duplicates import first_seen, repeated_ids
from pipeline.data.ingest import concat_documents, ingest_documents
from pipeline.data.sources import pages
from pipeline.data.sources.pages import TextFiles
from pipeline.data.sources.rows import Jsonl, ParquetFiles
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
    write_rows(corpus / "c.jsonl", [{"id": "c", "text": "c"}, {"id": "a3", "text": "other"}])
    with pytest.raises(CorruptShard, match=r"c\.jsonl record a3: its id 'a3' stands in .*a\.jsonl"):
        ingest_documents(source(corpus), out=corpus / "out")


def aside(made):
    return [json.loads(line) for line in (made.root / ingest.SET_ASIDE).read_text().splitlines()]


def test_a_document_whose_id_an_earlier_file_has_is_set_aside(corpus):
    write_rows(
        corpus / "b.jsonl", [{"id": "a3", "text": "é"}, {"id": "b", "text": "b"}, {"id": ""}]
    )
    write_rows(corpus / "c.jsonl", [{"id": "b", "text": "c"}, {"id": "a19", "text": "c"}])
    with pytest.raises(
        CorruptShard, match="record 3.*; 4 records are malformed, max_malformed is 3"
    ):
        ingest_documents(source(corpus), out=corpus / "no", max_malformed=3)
    memo, made = FileMemo(corpus / "memo"), []
    for number, workers in enumerate((1, 2, 1)):
        engine, out = Local(workers), corpus / str(number)
        made.append(
            ingest_documents(source(corpus), out=out, max_malformed=4, engine=engine, memo=memo)
        )
        made[-1].verify()
    assert made[0] == made[1] == made[2]
    assert column(made[0], "id") == [*(f"a{n}" for n in range(20)), "b"]
    assert len(made[0].shards) == 2 and made[0].num_malformed == 4
    assert made[0].num_text_bytes == sum(len(each.encode()) for each in column(made[0], "text"))
    a, b, c = (str(corpus / f"{name}.jsonl") for name in "abc")
    assert [(each["path"], each["record"], each["reason"]) for each in aside(made[0])] == [
        (b, 3, "has no 'text'"),
        (b, "a3", f"its id 'a3' stands in {a} already"),
        (c, "b", f"its id 'b' stands in {b} already"),
        (c, "a19", f"its id 'a19' stands in {a} already"),
    ]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=4))
def test_of_equal_ids_the_first_is_kept_however_files_are_cut(tmp_path_factory, files):
    root = tmp_path_factory.mktemp("ids")
    for number, ids in enumerate(files):
        rows = [{"id": str(id), "text": f"{number} {place}"} for place, id in enumerate(ids)]
        write_rows(root / f"{number}.jsonl", rows)
    every = [str(id) for ids in files for id in ids]
    first = list(dict.fromkeys(every))
    more = {"max_malformed": len(every), "shard_bytes": 9}
    made = ingest_documents(Jsonl(str(root / "*.jsonl"), "web"), out=root / "out", **more)
    assert column(made, "id") == first
    assert made.num_malformed == len(every) - len(first)
    made.verify()


def test_files_of_one_name_in_two_folders_are_told_apart_by_their_folders(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(folder)
        (tmp_path / folder / f"{folder}.txt").write_text(folder)
    files = TextFiles([str(tmp_path / "a/*.txt"), str(tmp_path / "b/*.txt")], "web")
    made = ingest_documents(files, out=tmp_path / "1")
    assert column(made, "id") == ["a.txt", "a/x.txt", "b.txt", "b/x.txt"]
    (tmp_path / "moved").mkdir()
    for folder in "ab":
        (tmp_path / folder).rename(tmp_path / "moved" / folder)
        write_rows(tmp_path / "moved" / folder / "part.jsonl", [{"text": folder}])
    paths = [str(tmp_path / f"moved/{folder}/part.jsonl") for folder in "ab"]
    made = ingest_documents(Jsonl(paths, "web", number_records=True), out=tmp_path / "2")
    assert column(made, "id") == ["a/part.jsonl:1", "b/part.jsonl:1"]
    urls = ["https://a.org/x/part.jsonl", "https://a.org/y/part.jsonl", "s3://b/other.jsonl"]
    names = [each.name for each in Jsonl(urls, "web", revision="1").listed()]
    assert names == ["a.org/x/part.jsonl", "a.org/y/part.jsonl", "other.jsonl"]


def test_a_file_that_is_matched_twice_repeats_its_ids(tmp_path, monkeypatch):
    (tmp_path / "x.txt").write_text("x")
    (tmp_path / "y.txt").write_text("y")
    files = TextFiles([str(tmp_path / "*.txt"), str(tmp_path / "y.txt")], "web")
    for most in (1, 9):
        monkeypatch.setattr(pages, "GROUP_FILES", most)
        with pytest.raises(CorruptShard, match=r"/y.txt record y.txt: its id 'y.txt' stands "):
            ingest_documents(files, out=tmp_path / "out")


def test_the_number_of_a_repeated_id_counts_all_lines(tmp_path):
    rows = ['{"id": "d0", "text": ""}', "", ""]
    (tmp_path / "a.jsonl").write_text("\n\n" + "\n".join(rows + rows))
    with pytest.raises(CorruptShard, match=r"record 6: .*; 1 record is malformed"):
        ingest_documents(Jsonl(str(tmp_path / "a.jsonl"), "web"), out=tmp_path / "out")


def test_what_is_set_aside_has_the_beginning_of_its_record(tmp_path):
    rows = [{"id": "a", "text": None, "more": "é" * 500}, {"id": "b", "text": "b"}]
    write_rows(tmp_path / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name, kind in (("a.jsonl", Jsonl), ("a.parquet", ParquetFiles)):
        found = kind(str(tmp_path / name), "web")
        made = ingest_documents(found, out=tmp_path / f"{name}-out", max_malformed=1)
        (told,) = aside(made)
        assert told["reason"] == "has no 'text'"
        assert told["excerpt"].replace("'", '"').startswith('{"id": "a", "')
        assert len(told["excerpt"]) <= 250


def peak_of(work):
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_that_ids_differ_is_found_in_memory_that_does_not_grow_with_them(tmp_path, monkeypatch):
    monkeypatch.setattr(first_seen, "RUN_KEYS", 1 << 14)
    monkeypatch.setattr(first_seen, "PART_KEYS", 1 << 12)
    peaks = []
    for count in (20_000, 40_000, 160_000):  # what is compiled for the first takes memory too
        root = tmp_path / str(count)
        documents = (Document(str(n % (count - 1)), "", "web") for n in range(count))
        shards, _ = write_documents(documents, root, "", 1 << 20)
        found, peak = peak_of(partial(repeated_ids.find_repeats, root, shards))
        peaks.append(peak)
        assert (found.places.tolist(), found.firsts.tolist()) == ([count - 1], [0])
        assert not list(root.glob(".*"))
    assert peaks[2] < 1.2 * peaks[1]


def test_the_ids_of_a_file_take_the_memory_that_the_docstring_says():
    count = 160_000  # shortly after a set was made larger
    ids, peak = peak_of(lambda: {repeated_ids.hash_of(str(n)) for n in range(count)})
    assert peak < 131 * len(ids)


def test_concat_holds_everything_and_refuses_a_source_twice(tmp_path):
    one = make_documents(tmp_path / "1", [["a", "b"], ["c"]], source="one")
    two = make_documents(tmp_path / "2", [["d"]], source="two")
    both = concat_documents([one, two], out=tmp_path / "both")
    assert column(both, "text") == ["a", "b", "c", "d"]
    assert [count.source for count in both.sources] == ["one", "two"]
    both.verify()
    with pytest.raises(ValueError, match=r"documents\[1\] holds source 'one' again"):
        concat_documents([one, one], out=tmp_path / "no")
