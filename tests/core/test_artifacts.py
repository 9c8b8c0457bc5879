import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.artifacts import Artifact, Documents, Shard, SourceCount
from pipeline.core.errors import CorruptShard
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
    with pytest.raises(CorruptShard, match="content digest"):
        Artifact.load(tmp_path)
