import bz2
import datetime
import decimal
import gzip
import io
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import CorruptShard, Unavailable
from pipeline.core.keys import digest
from pipeline.data.ingest import ingest_documents
from pipeline.data.sources import files
from pipeline.data.sources.files import numbered_lines
from pipeline.data.sources.hf_dataset import HfDataset
from pipeline.data.sources.records import as_document
from pipeline.data.sources.rows import EXCERPT_BYTES, Jsonl, Malformed, ParquetFiles


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
        ('"abc"', "is a text; it must be an object"),
        ("null", "is null; it must be an object"),
        ("1", "is a number; it must be an object"),
        ({"id": "a", "text": "x", "metadata": 1.5}, "'metadata' is a number; it must be an object"),
        ('{"id": "a", "text": "x", "n": ' + "9" * 5000 + "}", "not JSON"),
        ('{"id": "a", "text": "x", "n": 1e999}', "no JSON form"),
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


def saved_splits(folder):
    """Datasets that `save_to_disk` wrote: one of two files, and two by their splits."""
    from datasets import Dataset, DatasetDict, NamedSplit

    rows = {"id": ["a", "b", "c"], "text": ["one é", "two", ""], "n": [1, None, 3]}
    one = Dataset.from_dict(rows, split=NamedSplit("train"))
    one.save_to_disk(str(folder / "one"), num_shards=2)
    held = Dataset.from_dict({"id": ["x"], "text": ["held out"], "n": [9]})
    DatasetDict({"train": one, "test": held}).save_to_disk(str(folder / "several"))
    return str(folder / "one"), str(folder / "several")


def test_a_dataset_that_was_saved_to_disk_is_read(tmp_path):
    one, several = saved_splits(tmp_path)
    for path in (one, several):
        source = HfDataset(path, "hub")
        found = everything(source)
        assert [(each.id, each.text) for each in found] == [("a", "one é"), ("b", "two"), ("c", "")]
        assert [json.loads(each.metadata) for each in found] == [{"n": 1}, {"n": None}, {"n": 3}]
    numbered = HfDataset(several, "hub", split="test", number_records=True)
    assert [(each.id, each.text) for each in everything(numbered)] == [("test:1", "held out")]
    for path, message in ((one, "it is 'train'"), (several, "there are train, test")):
        with pytest.raises(Unavailable, match=f"has no split 'dev'; {message}"):
            everything(HfDataset(path, "hub", split="dev"))


def test_a_saved_dataset_stands_in_a_key_by_the_bytes_of_its_files(tmp_path):
    one, _ = saved_splits(tmp_path)
    before = HfDataset(one, "hub").fingerprint()
    (tmp_path / "one").rename(tmp_path / "moved")
    moved = HfDataset(str(tmp_path / "moved"), "hub")
    assert moved.fingerprint() == before
    first, _ = sorted((tmp_path / "moved").glob("*.arrow"))
    content = first.read_bytes()
    first.write_bytes(content.replace(b"one", b"two"))
    assert moved.fingerprint() != before
    assert [each.text for each in everything(moved)] == ["two é", "two", ""]
    first.write_bytes(content[:300])
    with pytest.raises((CorruptShard, Unavailable), match="moved"):
        everything(moved)


def test_a_saved_dataset_that_names_files_elsewhere_is_refused(tmp_path):
    saved_splits(tmp_path)
    state = tmp_path / "one" / "state.json"
    told = json.loads(state.read_text())
    for bad in ("../several/train/data-00000-of-00001.arrow", "/etc/passwd", "", 5):
        state.write_text(json.dumps({**told, "_data_files": [{"filename": bad}]}))
        with pytest.raises(CorruptShard, match="which is none of its folder"):
            everything(HfDataset(str(tmp_path / "one"), "hub"))
    for bad in ("[]", "{", '{"_data_files": 3}'):
        state.write_text(bad)
        with pytest.raises(CorruptShard, match=r"state\.json"):
            everything(HfDataset(str(tmp_path / "one"), "hub"))


def test_a_line_that_is_not_json_in_a_folder_of_hugging_face_is_named(tmp_path):
    (tmp_path / "set").mkdir()
    lines = ['{"id": "a", "text": "x"}', "not JSON", '{"id": "b", "text": "x"}']
    (tmp_path / "set/train.jsonl").write_text("\n".join(lines))
    source = HfDataset(str(tmp_path / "set"), "hub")
    words = (
        r"set/train\.jsonl record 2: not JSON; a source of type 'jsonl' can set such lines aside"
    )
    with pytest.raises(CorruptShard, match=words):
        ingest_documents(source, out=tmp_path / "out", max_malformed=5)


def test_a_damaged_file_in_a_folder_of_hugging_face_is_no_bare_error(tmp_path):
    (tmp_path / "set").mkdir()
    path = tmp_path / "set/train.parquet"
    pq.write_table(pa.table({"id": ["a"], "text": ["one"]}), path)
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(60) + content[64:])
    with pytest.raises(CorruptShard, match="set: not readable"):
        everything(HfDataset(str(tmp_path / "set"), "hub"))


@pytest.mark.parametrize("when", ["load", "read"])
def test_a_hub_that_is_out_of_reach_is_told_with_the_dataset(monkeypatch, when):
    import datasets

    def rows():
        yield {"id": "a", "text": "x"}
        raise RuntimeError("Cannot send a request, as the client has been closed.")

    def load(*args, **kwargs):
        if when == "load":
            raise RuntimeError("Cannot send a request, as the client has been closed.")
        return rows()

    monkeypatch.setattr(datasets, "load_dataset", load)
    words = (
        "a/b at revision main cannot be read from the Hugging Face Hub .RuntimeError: Cannot send"
    )
    with pytest.raises(Unavailable, match=words):
        everything(HfDataset("a/b", "hub", revision="main"))


def test_columns_of_tables_that_json_has_no_form_for_are_kept_in_one_or_left_out(tmp_path):
    columns = {
        "id": ["a", "b"],
        "text": ["one", "two"],
        "time": [datetime.datetime(2024, 5, 1, 12), None],
        "price": [decimal.Decimal("1.20"), None],
        "image": [b"\xff\x00", None],
        "score": [1.0, float("nan")],
    }
    (tmp_path / "set").mkdir()
    path = tmp_path / "set/train.parquet"
    pq.write_table(pa.table(columns), path)
    for kind, place in ((ParquetFiles, str(path)), (HfDataset, str(path.parent))):
        one, bad = everything(kind(place, "s"))
        told = {"time": "2024-05-01T12:00:00", "price": "1.20", "image": "/wA=", "score": 1.0}
        assert json.loads(one.metadata) == told
        assert bad.reason.startswith("'score' is nan, which has no JSON form; leave_out: ['score']")
        _, two = everything(kind(place, "s", leave_out=["score", "image"]))
        assert json.loads(two.metadata) == {"time": None, "price": None}


def test_bytes_behind_the_end_of_a_compressed_file_are_told(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    for more in (b"garbage", b"garbage" * 9):
        path.write_bytes(gzip.compress(b'{"id": "a", "text": "x"}') + more)
        with pytest.raises(CorruptShard, match="other bytes follow its end|Not a gzipped file"):
            everything(Jsonl(str(path), "web"))


def test_what_is_not_there_is_told_when_the_source_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"path is \[\]; it must name a file"):
        Jsonl([], "web")
    with pytest.raises(ValueError, match="matches no file"):
        Jsonl(str(tmp_path / "*.gz"), "web")
    with pytest.raises(ValueError, match="path is 'file:///a.jsonl'; a URL must be one of http, "):
        Jsonl(["https://example.org/a.jsonl.gz", "file:///a.jsonl"], "web", revision="1")
    with pytest.raises(ValueError, match="revision is missing"):
        Jsonl("https://example.org/a.jsonl.gz", "web").fingerprint()
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


def test_compression_is_told_by_the_name(tmp_path):
    from backports import zstd

    line = b'{"id": "a", "text": "one"}\n'
    packed = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd.compress}
    for name, compress in packed.items():
        path = tmp_path / f"x.jsonl.{name}"
        path.write_bytes(compress(line) + compress(line.replace(b"a", b"b")))  # in two members
        assert [each.id for each in everything(Jsonl(str(path), "web"))] == ["a", "b"]
        path.write_bytes(compress(line * 1000)[:-5])
        with pytest.raises(CorruptShard, match="not readable"):
            everything(Jsonl(str(path), "web"))
        path.write_bytes(compress(b""))
        assert everything(Jsonl(str(path), "web")) == []
        path.write_bytes(b"")
        with pytest.raises(CorruptShard, match="it is empty, which no compressed file is"):
            everything(Jsonl(str(path), "web"))


NUMBERS = st.integers() | st.floats() | st.integers(-(2**70), 2**70) | st.integers(2**63, 2**64)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["id", "text", "added", "n", "metadata"]), VALUES))
def test_a_line_gives_what_the_parser_of_python_gives(tmp_path_factory, row):
    path = tmp_path_factory.getbasetemp() / "law.jsonl"
    path.write_text(json.dumps({"id": "a", "text": "b", **row}) + "\n")
    try:
        expected = as_document(json.loads(path.read_text()), "web", {})
    except ValueError as error:
        begun = path.read_bytes()[:-1][:EXCERPT_BYTES].decode()
        expected = Malformed(str(path), 1, str(error), begun)
    assert everything(Jsonl(str(path), "web")) == [expected]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=12).filter(lambda each: b"\n" not in each)), st.integers(1, 9))
def test_lines_are_whole_wherever_a_block_ends(lines, block_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK_BYTES", block_bytes)
        patch.setattr(files, "MAX_RECORD_BYTES", 8)
        found = list(numbered_lines(io.BytesIO(b"".join(line + b"\n" for line in lines))))
    assert [number for number, _ in found] == list(range(1, len(lines) + 1))
    for (_, line), own in zip(found, lines, strict=True):
        assert line == own or (line is None and len(own) > 8)


def test_a_line_without_an_end_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr(files, "MAX_RECORD_BYTES", 1 << 12)
    rows = [{"id": "a", "text": "x" * 3000}, {"id": "b", "text": "x" * 9000}, {"id": "c"}]
    write_jsonl(tmp_path / "x.jsonl.gz", [*rows, {"id": "d", "text": ""}])
    found = everything(Jsonl(str(tmp_path / "x.jsonl.gz"), "web"))
    assert [found[0].id, found[3].id] == ["a", "d"]
    assert [each.record for each in found[1:3]] == [2, 3]
    assert "bytes" in found[1].reason and found[2].reason == "has no 'text'"


def test_metadata_of_any_depth_is_stored_or_malformed(tmp_path):
    for depth in (500, 900, 950, 990, 1000, 1020, 1100, 5000):
        row = '{"id": "a", "text": "x", "m": ' + "[" * depth + "]" * depth + "}"
        write_jsonl(tmp_path / "x.jsonl.gz", [row])
        (found,) = everything(Jsonl(str(tmp_path / "x.jsonl.gz"), "web"))
        assert not isinstance(found, Malformed) or "nested too deep" in found.reason
