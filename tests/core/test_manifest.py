import json
import os

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import untrusted
from pipeline.core.artifacts import (
    Artifact,
    Documents,
    SourceCount,
)
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.shards import RowDigest, read_shard, write_shard

SCHEMA = pa.schema([("id", pa.string()), ("n", pa.int64()), ("l", pa.list_(pa.float64()))])


def made(root):
    rows = {"id": ["a", "é", None], "n": [1, None, 3], "l": [[0.5], [], None]}
    shard = write_shard(root, "00000.parquet", rows, SCHEMA)
    counts = [SourceCount("s", "MIT", "here", 3, 9)]
    return Documents.of(root, num_documents=3, num_text_bytes=9, sources=counts, shards=[shard])


def test_a_moved_artifact_still_loads_and_verifies(tmp_path):
    documents = made(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    loaded = Artifact.load(tmp_path / "two")
    loaded.verify()
    assert loaded == documents


@given(st.lists(st.tuples(st.none() | st.text(), st.lists(st.integers(0, 9)))), st.integers(1, 4))
def test_the_digest_of_rows_does_not_depend_on_batches(rows, size):
    schema = pa.schema([("t", pa.string()), ("v", pa.list_(pa.int32()))])
    table = pa.table({"t": [r[0] for r in rows], "v": [r[1] for r in rows]}, schema=schema)
    whole, parts = RowDigest(schema), RowDigest(schema)
    whole.update(table)
    for start in range(0, len(rows), size):
        parts.update(table.slice(start, size))
    assert whole.hexdigest() == parts.hexdigest()


def test_a_flipped_byte_and_a_truncation_are_found(tmp_path):
    documents = made(tmp_path)
    path = tmp_path / "00000.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    with pytest.raises(CorruptShard, match="SHA-256"):
        documents.verify()
    path.write_bytes(data[:-1])
    with pytest.raises(CorruptShard, match="00000.parquet"):
        read_shard(tmp_path, documents.shards[0])


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "a\\b"])
def test_a_path_that_leaves_the_artifact_is_refused(path):
    with pytest.raises(ValueError, match="relative"):
        Shard(path, 1, "c", "s", 1)


def test_a_changed_manifest_is_refused(tmp_path):
    made(tmp_path)
    path = tmp_path / "manifest.json"
    form = json.loads(path.read_text())
    form["num_documents"] = 10**18
    path.write_text(json.dumps(form))
    with pytest.raises(
        CorruptShard, match="num_documents is 1000000000000000000; its shards have 3"
    ):
        Artifact.load(tmp_path)


def rewritten(root, change):
    """The manifest in `root` with a change and a right content digest, as a forger would write."""
    path = root / "manifest.json"
    form = json.loads(path.read_text())
    form = change(form) or form
    path.write_text(json.dumps(form))
    return path


def deep(levels):
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"artifact": "Documents"}',
        '{"artifact": ["Documents"], "content": ""}',
        '{"artifact": "Nothing", "content": ""}',
        deep(100_000),
        '{"artifact": "HfModel", "content": "", "weights": "", "tokenizer": "", "model_files": [],'
        ' "model": {"a": ' + deep(900) + "}}",
        '{"artifact": "OrderTable", "content": "", "num_steps": ' + "9" * 5000 + ', "table": {}}',
        '{"artifact": "OrderTable", "content": "", "num_steps": NaN, "table": {}}',
        '{"artifact": "Generations", "content": "", "settings": {"a": 1e999}, "shards": []}',
        "\x00\xff",
    ],
    ids=range(13),
)
def test_what_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptShard, match="manifest"):
        Artifact.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", "/etc/passwd"),
        ("path", "../../etc/passwd"),
        ("path", "a\0b"),
        ("path", 7),
        ("num_bytes", -1),
        ("num_bytes", 2**63),
        ("num_bytes", True),
        ("num_records", 10**18),
        ("num_records", "3"),
        ("sha256", None),
        ("content", ["c"]),
    ],
)
def test_a_hostile_shard_is_refused(tmp_path, field, value):
    made(tmp_path)

    def change(form):
        form["shards"][0][field] = value

    rewritten(tmp_path, change)
    with pytest.raises(CorruptShard, match="not a manifest"):
        Artifact.load(tmp_path)


def test_a_manifest_that_is_a_link_a_pipe_or_enormous_is_not_read(tmp_path):
    made(tmp_path / "real")
    for name in ("link", "pipe", "large"):
        (tmp_path / name).mkdir()
    (tmp_path / "link" / "manifest.json").symlink_to("../real/manifest.json")
    os.mkfifo(tmp_path / "pipe" / "manifest.json")
    with open(tmp_path / "large" / "manifest.json", "wb") as file:
        file.truncate(1 << 40)
    for name in ("link", "pipe", "large"):
        with pytest.raises(CorruptShard, match="not a manifest"):
            Artifact.load(tmp_path / name)


def test_a_shard_that_is_a_link_is_not_followed(tmp_path):
    documents = made(tmp_path / "a")
    shard = tmp_path / "a" / "00000.parquet"
    shard.rename(tmp_path / "elsewhere.parquet")
    shard.symlink_to("../elsewhere.parquet")
    with pytest.raises(CorruptShard, match="no plain file inside"):
        documents.verify()
    with pytest.raises(CorruptShard, match="no plain file inside"):
        read_shard(documents.root, documents.shards[0])


def test_every_flipped_byte_of_a_page_is_found_by_the_reader(tmp_path):
    documents = made(tmp_path)
    path = tmp_path / "00000.parquet"
    data = path.read_bytes()
    whole = read_shard(tmp_path, documents.shards[0])
    end = len(data) - 8 - int.from_bytes(data[-8:-4], "little")  # there the footer begins
    for place in range(4, end):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            assert read_shard(tmp_path, documents.shards[0]).equals(whole)
        except CorruptShard as error:
            assert "00000.parquet" in str(error)


def test_what_was_read_is_remembered_by_its_bytes_and_within_bounds(monkeypatch):
    monkeypatch.setattr(untrusted, "REMEMBERED_BYTES", 10)
    made, known = [], untrusted.Remembered()

    def get(name, text):
        return known.get(name, text, lambda given: made.append(given) or given.decode())

    assert [get("a", b"1234"), get("a", b"1234"), get("b", b"1234")] == ["1234"] * 3
    assert made == [b"1234"] * 2
    get("a", b"12")
    get("a", b"123")  # the oldest gives way
    assert get("a", b"x" * 11) == "x" * 11 and get("a", b"x" * 11) and made.count(b"x" * 11) == 2
    made.clear()
    get("a", b"1234")
    assert made == [b"1234"]
