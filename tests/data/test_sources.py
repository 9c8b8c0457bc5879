import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import CorruptShard
from pipeline.core.keys import digest
from pipeline.data.sources import HfDataset, Jsonl, Malformed, ParquetFiles


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for row in rows:
            file.write((row if isinstance(row, str) else json.dumps(row)) + "\n")


def everything(source):
    return [each for piece in source.pieces() for each in source.read(piece)]


def test_jsonl_is_read_in_order_and_what_is_no_field_goes_into_the_metadata(tmp_path):
    write_jsonl(tmp_path / "b/1.jsonl.gz", [{"id": "c", "text": "three"}])
    write_jsonl(
        tmp_path / "a/1.jsonl.gz",
        [
            {"id": "a", "text": "one é", "metadata": {"url": "u"}, "lang": "en", "source": "x"},
            "",
            {"id": "b", "text": "two", "created": "2024", "metadata": None},
        ],
    )
    one, two, three = everything(Jsonl(str(tmp_path / "*/*.gz"), "web"))
    assert (one.id, one.text, one.source) == ("a", "one é", "web")
    assert json.loads(one.metadata) == {"lang": "en", "url": "u"}
    assert (two.created, two.metadata) == ("2024", "{}")
    assert three.id == "c"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", r"not JSON"),
        ("[1]", "is a list; it must be an object"),
        ({"id": "a"}, "has no 'text'"),
        ({"text": "a"}, "has no 'id'"),
        ({"id": 5, "text": "a"}, "'id' is 5; it must be text"),
        ({"id": "", "text": "a"}, "'id' is empty"),
        ('{"id": "a", "text": "x\\ud800y"}', "'text' has half a surrogate pair at 1"),
        ({"id": "a", "text": "x", "metadata": [1]}, "'metadata' is a list"),
        ('{"id": "a", "text": "x", "metadata": {"n": NaN}}', "no JSON form"),
        ({"id": "a", "text": "x", "b": 1, "metadata": {"b": 2}}, "'b' stands in the record and"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_record_that_is_no_document_says_why(tmp_path, row, reason):
    write_jsonl(tmp_path / "x.jsonl.gz", [{"id": "ok", "text": ""}, row])
    _, found = everything(Jsonl(str(tmp_path / "x.jsonl.gz"), "web"))
    assert isinstance(found, Malformed)
    assert found.record == 2
    assert reason in found.reason


def test_a_file_that_is_cut_off_names_itself(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    write_jsonl(path, [{"id": str(i), "text": "word " * 50} for i in range(500)])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CorruptShard, match=r"x\.jsonl\.gz.*not readable"):
        everything(Jsonl(str(path), "web"))


def test_parquet_files_with_other_names(tmp_path):
    table = pa.table({"key": ["a", "b"], "content": ["one", "two"], "stars": [1, 2]})
    pq.write_table(table, tmp_path / "x.parquet")
    source = ParquetFiles(
        str(tmp_path / "*.parquet"), "code", fields={"id": "key", "text": "content"}
    )
    one, _ = everything(source)
    assert (one.id, one.text, json.loads(one.metadata)) == ("a", "one", {"stars": 1})
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(CorruptShard, match="not readable"):
        everything(source)


def test_a_local_folder_is_read_as_a_hub_dataset(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["one", "two"]}), folder / "train.parquet")
    one, two = everything(HfDataset(str(folder), "hub", number_records=True))
    assert (one.id, two.id, two.text) == ("train:1", "train:2", "two")


def test_what_is_not_there_is_told_when_the_source_is_made(tmp_path):
    with pytest.raises(ValueError, match="matches no file"):
        Jsonl(str(tmp_path / "*.gz"), "web")
    with pytest.raises(ValueError, match="revision is missing"):
        Jsonl("https://example.org/a.jsonl.gz", "web")
    with pytest.raises(ValueError, match="revision is missing"):
        HfDataset("owner/name", "hub")
    with pytest.raises(ValueError, match="fields has 'txt'; did you mean 'text'"):
        HfDataset("owner/name", "hub", revision="1", fields={"txt": "content"})


def test_a_key_follows_the_bytes_and_not_the_place_of_files(tmp_path):
    rows = [{"id": "a", "text": "one"}]
    (tmp_path / "old").mkdir()
    (tmp_path / "old/x.jsonl").write_text(json.dumps(rows[0]))
    before = digest(Jsonl(str(tmp_path / "old/*.jsonl"), "web"))
    (tmp_path / "old").rename(tmp_path / "new")
    assert digest(Jsonl(str(tmp_path / "new/*.jsonl"), "web")) == before
    (tmp_path / "new/x.jsonl").write_text('{"id": "a", "text": "two"}')
    assert digest(Jsonl(str(tmp_path / "new/*.jsonl"), "web")) != before
    remote = Jsonl("https://example.org/a.jsonl.gz", "web", revision="1")
    assert digest(remote) != digest(Jsonl("https://example.org/a.jsonl.gz", "web", revision="2"))
