"""The rows of somebody else's Parquet file, in which few bytes may stand for very many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.sources.files import MAX_RECORD_BYTES

BATCH_ROWS, BATCH_BYTES = 1024, 32 << 20
GROUP_BYTES, FEW_ROWS = 2 << 30, 32  # of a larger group so few rows are held
TOO_LARGE = f"has more than {MAX_RECORD_BYTES} bytes"


def parquet_rows(file: Any) -> Iterator[Any]:
    """The rows in order, as Python objects; of one that is not to be read, what is wrong as text.

    A value that many rows share stands in the file once, and is held once: each row gets its own
    when its turn comes, if it then has no more bytes than a record may have. How many rows are held
    at a time follows from the sizes that the file gives.

    Raises:
        one of `UNREADABLE`: the file is damaged.
    """
    plain = pq.ParquetFile(file)
    metadata, schema = plain.metadata, plain.schema_arrow
    opened = pq.ParquetFile(file, metadata=metadata, read_dictionary=_shared(metadata))
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        per_row = 1 + group.total_byte_size // max(1, group.num_rows)
        most = BATCH_ROWS if group.total_byte_size <= GROUP_BYTES else FEW_ROWS
        batch_rows = max(1, min(most, BATCH_BYTES // per_row))
        for batch in opened.iter_batches(batch_rows, row_groups=[number]):
            yield from _objects(batch, schema)


def _shared(metadata: Any) -> list[str]:
    """The columns of texts or bytes whose values rows may share."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    leaves = [metadata.schema.column(place) for place in range(metadata.num_columns)]
    return [
        leaf.path
        for place, leaf in enumerate(leaves)
        if leaf.physical_type == "BYTE_ARRAY"
        and leaf.logical_type.type != "DECIMAL"
        and any(group.column(place).has_dictionary_page for group in groups)
    ]


def _objects(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[Any]:
    if sum(map(_num_bytes, batch.columns)) <= BATCH_BYTES:
        try:
            yield from _with_own_values(batch, schema).to_pylist()
            return
        except (ValueError, OverflowError):  # bytes that are not UTF-8, a date of the year 200,000
            pass
    for place in range(batch.num_rows):
        row = batch.slice(place, 1)
        if sum(map(_num_bytes, row.columns)) > MAX_RECORD_BYTES:
            yield TOO_LARGE
            continue
        try:
            yield row.to_pylist()[0]
        except (ValueError, OverflowError) as error:
            yield f"is not readable ({error})"


def _with_own_values(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    try:
        return batch.cast(schema)
    except pa.ArrowNotImplementedError:  # of a few types; only slower
        return batch


def _num_bytes(array: Any) -> int:
    """What values take when each has bytes of its own."""
    kind = array.type
    if pa.types.is_map(kind):
        begin, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return sum(_num_bytes(each.slice(begin, end - begin)) for each in (array.keys, array.items))
    if pa.types.is_struct(kind):
        return sum(map(_num_bytes, array.flatten()))
    if isinstance(array, (pa.ListArray, pa.LargeListArray, pa.FixedSizeListArray)):
        return _num_bytes(array.flatten())
    if not pa.types.is_dictionary(kind) or len(array.dictionary) == 0:
        return int(array.nbytes)
    values = array.dictionary.cast(pa.large_binary())
    begins = np.frombuffer(values.buffers()[1], "<i8")[values.offset :]
    places = np.asarray(array.indices.drop_null())
    return int(array.indices.nbytes + (begins[places + 1] - begins[places]).sum())
