import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import CorruptShard
from pipeline.tokens.format import TokenShardWriter, open_ids, read_index, token_dtype


def write(root, documents, dtype="uint16", batch=2):
    with TokenShardWriter(root, 0, dtype) as writer:
        for start in range(0, len(documents), batch):
            part = documents[start : start + batch]
            names = [str(start + place) for place in range(len(part))]
            writer.write(["s"] * len(part), names, part)
    return writer.shard


@given(
    documents=st.lists(st.lists(st.integers(0, 65535))),
    dtype=st.sampled_from(["uint16", "uint32"]),
    batch=st.integers(1, 5),
)
def test_reading_gives_back_what_was_written(tmp_path_factory, documents, dtype, batch):
    root = tmp_path_factory.mktemp("shard")
    shard = write(root, documents, dtype, batch)
    shard.verify(root)
    ids, index = open_ids(root, shard, dtype), read_index(root, shard).to_pylist()
    assert [ids[row["start"] : row["end"]].tolist() for row in index] == documents
    assert [row["id"] for row in index] == [str(place) for place in range(len(documents))]
    assert write(root, documents, dtype, 7).content == shard.content


def test_the_bytes_of_a_shard_are_bare_little_endian_ids(tmp_path):
    write(tmp_path, [[1, 258], [], [65535]])
    assert (tmp_path / "00000.npy").read_bytes() == b"\x01\x00\x02\x01\xff\xff"
    assert np.fromfile(tmp_path / "00000.npy", "<u2").tolist() == [1, 258, 65535]


def test_the_content_is_of_ids_dtype_and_index(tmp_path):
    shards = [
        write(tmp_path / "a", [[1, 2], [3]]),
        write(tmp_path / "b", [[1], [2, 3]]),
        write(tmp_path / "c", [[1, 2], [3]], "uint32"),
        write(tmp_path / "d", [[1, 2], [4]]),
    ]
    assert len({each.content for each in shards}) == 4
    assert shards[0].sha256 == hashlib.sha256(b"\x01\x00\x02\x00\x03\x00").hexdigest()


def test_the_dtype_is_the_narrowest_that_holds_every_id():
    assert [token_dtype(size) for size in (1, 65536, 65537)] == ["uint16", "uint16", "uint32"]


def test_an_id_that_does_not_fit_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="uint16"):
        write(tmp_path, [[1], [65536]])
    assert list(tmp_path.iterdir()) == []


def test_a_cut_or_missing_shard_is_corrupt(tmp_path):
    shard = write(tmp_path, [[1, 2, 3]])
    (tmp_path / "00000.npy").write_bytes(b"\x01\x00")
    with pytest.raises(CorruptShard, match="has 2 bytes"):
        open_ids(tmp_path, shard, "uint16")
    (tmp_path / "00000.npy").unlink()
    with pytest.raises(CorruptShard, match="is missing"):
        open_ids(tmp_path, shard, "uint16")
