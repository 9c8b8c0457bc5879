import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import CorruptShard
from pipeline.core.shards import RowDigest, ShardWriter, read_batches, read_shard, write_shard

SCHEMA = pa.schema([("id", pa.string()), ("n", pa.int64())])
ROWS = {"id": ["a", None, "é"], "n": [1, 2, None]}


def test_what_was_written_is_read_back(tmp_path):
    shard = write_shard(tmp_path, "x/00000.parquet", ROWS, SCHEMA)
    assert read_shard(tmp_path, shard).to_pydict() == ROWS
    assert [b.num_rows for b in read_batches(tmp_path, shard, batch_rows=2)] == [2, 1]
    assert [b.num_columns for b in read_batches(tmp_path, shard, ["n"])] == [1]
    assert shard.num_records == 3


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "00000.parquet", SCHEMA) as writer:
        writer.write(ROWS)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_content_is_of_the_rows_and_not_of_the_file(tmp_path):
    one = write_shard(tmp_path, "1.parquet", ROWS, SCHEMA)
    with ShardWriter(tmp_path, "2.parquet", SCHEMA) as writer:
        for start in range(3):
            writer.write(pa.table(ROWS, schema=SCHEMA).slice(start, 1))
    pq.write_table(pa.table(ROWS, schema=SCHEMA), tmp_path / "3.parquet", compression="none")
    again = RowDigest(SCHEMA)
    again.update(pq.read_table(tmp_path / "3.parquet"))
    assert one.content == writer.shard.content == again.hexdigest()
    assert one.sha256 != writer.shard.sha256


@given(st.lists(st.none() | st.text(), min_size=1), st.lists(st.none() | st.text(), min_size=1))
def test_different_rows_have_different_contents(left, right):
    digests = []
    for values in (left, right):
        state = RowDigest(pa.schema([("t", pa.string())]))
        state.update(pa.table({"t": pa.array(values, pa.string())}))
        digests.append(state.hexdigest())
    assert (digests[0] == digests[1]) == (left == right)


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "longer"])
def test_a_damaged_shard_is_refused_by_name(tmp_path, damage):
    shard = write_shard(tmp_path, "00000.parquet", ROWS, SCHEMA)
    path = tmp_path / shard.path
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[-6] ^= damage == "flipped"  # in the length of the footer
        path.write_bytes(content[:-9] if damage == "cut" else content + b"x" * (damage == "longer"))
    with pytest.raises(CorruptShard, match=r"00000\.parquet"):
        read_shard(tmp_path, shard)
    with pytest.raises(CorruptShard, match=r"00000\.parquet"):
        shard.verify(tmp_path)


def test_rows_of_another_shape_are_refused(tmp_path):
    with (
        pytest.raises((pa.ArrowInvalid, KeyError)),
        ShardWriter(tmp_path, "00000.parquet", SCHEMA) as writer,
    ):
        writer.write(pa.table({"id": ["a"]}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["../out.parquet", "a/../../out.parquet", "/{0}/out.parquet", ".."]
)
def test_a_shard_is_written_below_its_root_and_nowhere_else(tmp_path, path):
    root = tmp_path / "root"
    with pytest.raises(ValueError, match="it must be relative and inside the artifact"):
        write_shard(root, path.format(tmp_path), ROWS, SCHEMA)
    assert list(tmp_path.iterdir()) == []
