"""Rows of Parquet files are what pyarrow makes of them, in the memory that a record may take."""

import datetime
import decimal
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import CorruptShard
from pipeline.data.ingest import ingest_documents
from pipeline.data.sources import parquet_rows
from pipeline.data.sources.rows import ParquetFiles
from tests.data.conftest import column

TEXTS = ["a", "é", None, "bb"] * 60
COLUMNS = {
    "text": pa.array(TEXTS),
    "large": pa.array(TEXTS, pa.large_string()),
    "view": pa.array(TEXTS, pa.string_view()),
    "category": pa.array(TEXTS).dictionary_encode(),
    "bytes": pa.array([b"\xff", None] * 120),
    "map": pa.array([[("k", "v"), ("w", None)], None, []] * 80, pa.map_(pa.string(), pa.string())),
    "list": pa.array([["x", None], None, [], ["y"]] * 60),
    "large_list": pa.array([["x"], None] * 120, pa.large_list(pa.string())),
    "pair": pa.array([["x", "y"], None] * 120, pa.list_(pa.string(), 2)),
    "struct": pa.array([{"a": "x", "b": [{"c": "q"}]}, None] * 120),
    "decimal": pa.array([decimal.Decimal("1.20"), None] * 120),
    "time": pa.array([datetime.datetime(2020, 1, 1), None] * 120),
    "none": pa.array([None] * 240, pa.string()),
    "null": pa.nulls(240),
}


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"use_dictionary": False},
        {"row_group_size": 7},
        # pages of a row, the first of which are places in a dictionary and the others are not
        {"dictionary_pagesize_limit": 3, "data_page_size": 10, "write_batch_size": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("batch_bytes", [0, 32 << 20])
def test_rows_of_every_type_are_what_pyarrow_gives(tmp_path, monkeypatch, written, batch_bytes):
    monkeypatch.setattr(parquet_rows, "BATCH_BYTES", batch_bytes)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(COLUMNS), path, **written)
    assert list(parquet_rows.parquet_rows(path)) == pq.read_table(path).to_pylist()
    pq.write_table(pa.table(COLUMNS).slice(0, 0), path, **written)
    assert list(parquet_rows.parquet_rows(path)) == []


READ = """
import sys
from pathlib import Path
from pipeline.data.sources import files
from pipeline.data.sources.rows import ParquetFiles
source = ParquetFiles(sys.argv[1], "web", number_records=True)
(piece,) = source.pieces()
kind = getattr(files, sys.argv[2])
count = sum(1 for each in source.read(piece) if isinstance(each, kind))
status = Path("/proc/self/status").read_text()
print(count, int(status.split("VmHWM:")[1].split()[0]) << 10)
"""


def shared(count, values):
    """Rows that all have the first of some texts, which stands in the file once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array(values))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="there is no /proc")
@pytest.mark.parametrize("kind", ["Document", "Malformed"])
def test_a_text_that_many_rows_share_is_held_once(tmp_path, kind):
    path = tmp_path / "bomb.parquet"
    if kind == "Document":  # 512 MB
        table = {"text": shared(256, ["a " * (1 << 20)])}
    else:  # a row of 1 GB among others
        lists = pa.ListArray.from_arrays([0, 0, 1 << 20], shared(1 << 20, ["b" * 1000]))
        table = {"text": ["x", "y"], "list": lists}
    pq.write_table(pa.table(table), path, compression="zstd")
    assert path.stat().st_size < 10_000
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), kind], capture_output=True, text=True, check=True
    )
    count, peak = map(int, done.stdout.split())
    assert count == (256 if kind == "Document" else 1)
    assert peak < 350 << 20


@pytest.mark.parametrize("use_dictionary", [True, False])
@pytest.mark.parametrize("sizes", [[10, 9000, 20], [90_000, 1, 9001]])
def test_a_row_that_is_too_large_is_malformed(tmp_path, monkeypatch, sizes, use_dictionary):
    monkeypatch.setattr(parquet_rows, "MAX_RECORD_BYTES", 1 << 12)
    monkeypatch.setattr(parquet_rows, "BATCH_BYTES", 1 << 11)
    texts = ["x" * size for size in sizes]
    rows = {"id": [str(size) for size in sizes], "text": texts}
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(rows), path, use_dictionary=use_dictionary)
    source = ParquetFiles(str(path), "web")
    with pytest.raises(CorruptShard, match=r"a\.parquet record [12]: has more than .* bytes"):
        ingest_documents(source, out=tmp_path / "1")
    made = ingest_documents(source, out=tmp_path / "2", max_malformed=3)
    assert column(made, "id") == [str(size) for size in sizes if size < 4000]


def test_a_parquet_file_with_a_flipped_byte_is_named_or_read(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["one", "two"], "n": [1, 2]}), path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        source = ParquetFiles(str(path), "web")
        try:
            list(source.read(source.pieces()[0]))
        except CorruptShard as error:
            assert "a.parquet" in str(error)
