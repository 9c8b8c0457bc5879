"""Parquet shards: written under a temporary name and renamed, with a digest of their rows.

What has its final name is complete. The content digest is over the logical columns (names, types,
lengths, values, nulls), so it does not depend on row groups, compression or the Parquet library.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard, file_sha256, require_inside
from pipeline.core.temporary import temporary_for

ROW_GROUP_BYTES = 16 << 20
LARGE_BYTES = 4 * ROW_GROUP_BYTES
SLICE_ROWS = 1 << 16  # that are digested together, as some of what that takes is copied
# What pyarrow raises of a file whose bytes are not what they were, names and sizes among them.
UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, MemoryError, OverflowError)


def shard_name(number: int, suffix: str = ".parquet") -> str:
    """The file name of shard `number`."""
    return f"{number:05d}{suffix}"


class RowDigest:
    """The content digest of a table, fed batch by batch; where batches begin does not matter."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._columns = [(f.name, str(f.type), _ColumnDigest(f.type)) for f in schema]

    def update(self, table: pa.Table | pa.RecordBatch) -> None:
        for place, (_, _, state) in enumerate(self._columns):
            column = table.column(place)
            for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                state.update(chunk)

    def hexdigest(self) -> str:
        whole = hashlib.sha256()
        for name, kind, state in self._columns:
            whole.update(f"{name}\0{kind}\0{state.hexdigest()}\n".encode())
        return whole.hexdigest()


class _ColumnDigest:
    """Separate running digests of a column's nulls, lengths and values."""

    def __init__(self, kind: pa.DataType) -> None:
        self.kind = kind
        self.valid, self.lengths, self.values = (hashlib.sha256() for _ in range(3))
        self.below: list[_ColumnDigest] = []
        if pa.types.is_struct(kind):
            self.below = [_ColumnDigest(kind.field(i).type) for i in range(kind.num_fields)]
        elif _is_list(kind):
            self.below = [_ColumnDigest(kind.value_type)]

    def update(self, array: pa.Array) -> None:
        for first in range(0, len(array), SLICE_ROWS):
            self._update(array.slice(first, SLICE_ROWS))

    def _update(self, array: pa.Array) -> None:
        self.valid.update(np.asarray(array.is_valid()).view(np.uint8).data)
        kind = self.kind
        if pa.types.is_struct(kind):
            for state, child in zip(self.below, array.flatten(), strict=True):
                state.update(child)
        elif _is_list(kind):
            lengths = array.value_lengths().fill_null(0)
            self.lengths.update(np.asarray(lengths).astype("<i8").data)
            self.below[0].update(array.flatten())
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            filled = array.fill_null("") if array.null_count else array
            wide = filled.cast(pa.large_string())
            offsets = np.frombuffer(wide.buffers()[1], "<i8")[wide.offset :][: len(wide) + 1]
            self.lengths.update(np.diff(offsets).data)
            if offsets[-1] > offsets[0]:
                self.values.update(wide.buffers()[2][int(offsets[0]) : int(offsets[-1])])
        else:
            filled = array.fill_null(False if pa.types.is_boolean(kind) else 0)
            plain = np.asarray(filled)
            self.values.update(plain.astype(plain.dtype.newbyteorder("<")).view(np.uint8).data)

    def hexdigest(self) -> str:
        whole = hashlib.sha256()
        digests = [state.hexdigest() for state in (self.valid, self.lengths, self.values)]
        for each in digests + [state.hexdigest() for state in self.below]:
            whole.update(each.encode())
        return whole.hexdigest()


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_list_of_structs(kind: pa.DataType) -> bool:
    return _is_list(kind) and bool(pa.types.is_struct(kind.value_type))


def _encodings(schema: pa.Schema) -> Iterator[tuple[str, str]]:
    """The encoding of each column of a Parquet file, "" for a dictionary of its values.

    What a page takes in memory is its values as encoded, and a row, of however many spans, stands
    in one page. Texts hardly repeat; places in them grow by little; scores are few.
    """
    for each in schema:
        if _is_list_of_structs(each.type):
            for part in each.type.value_type:
                path = f"{each.name}.list.element.{part.name}"
                yield path, "DELTA_BINARY_PACKED" if pa.types.is_integer(part.type) else ""
        else:
            yield each.name, "PLAIN" if each.name == "text" else ""


class ShardWriter:
    """Write one Parquet shard; on a clean exit it has its final name and `shard` is its record.

    with ShardWriter(root, "00000.parquet", schema) as writer:
        writer.write(table)
    writer.shard

    Raises:
        ValueError: `path` leads out of `root`; nothing is written then.
    """

    def __init__(self, root: Path, path: str, schema: pa.Schema) -> None:
        require_inside(path)
        self.root, self.path, self.schema = Path(root), path, schema
        self.shard: Shard
        self.num_records = 0
        self._digest = RowDigest(schema)
        self._final = self.root / path
        self._final.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = temporary_for(self._final)
        encodings = dict(_encodings(schema))
        # a reader finds a flipped byte by the page's checksum, before the digest is asked for
        try:
            self._writer = pq.ParquetWriter(
                self._temporary,
                schema,
                compression="zstd",
                write_page_checksum=True,
                use_dictionary=[path for path, each in encodings.items() if not each],
                column_encoding={path: each for path, each in encodings.items() if each},
                write_statistics=False,  # of a long text they would be four copies
            )
        except OSError:  # on a full disk this begins the file and fails
            self._temporary.unlink(missing_ok=True)
            raise

    def write(self, rows: pa.Table | pa.RecordBatch | dict[str, list[Any]]) -> None:
        """Add rows; a dict of columns is converted with the shard's schema."""
        if isinstance(rows, dict):
            rows = pa.table(rows, schema=self.schema)
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
        table = table.select(self.schema.names).cast(self.schema)
        self._digest.update(table)
        self.num_records += table.num_rows
        per_row = max(1, table.nbytes // max(1, table.num_rows))
        self._writer.write_table(table, row_group_size=max(1, ROW_GROUP_BYTES // per_row))
        _let_go_beside(table)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._writer.close()
            if kind is not None:
                return
            with open(self._temporary, "rb") as file:
                os.fsync(file.fileno())
            size, sha256 = self._temporary.stat().st_size, file_sha256(self._temporary)
            os.replace(self._temporary, self._final)
        except OSError:
            if kind is None:
                raise
            return  # the error that is there already says why
        finally:
            self._temporary.unlink(missing_ok=True)
        self.shard = Shard(self.path, size, self._digest.hexdigest(), sha256, self.num_records)


def write_shard(
    root: Path, path: str, rows: dict[str, list[Any]] | pa.Table, schema: pa.Schema
) -> Shard:
    """Write one whole Parquet shard."""
    with ShardWriter(root, path, schema) as writer:
        writer.write(rows)
    return writer.shard


def join_rows(root: Path, path: str, schema: pa.Schema, parts: Sequence[str]) -> None:
    """Make one Parquet file of several below `root`, which are deleted then."""
    final = Path(root) / path
    temporary = temporary_for(final)
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for each in parts:
                for batch in pq.ParquetFile(final.parent / each).iter_batches():
                    writer.write_batch(batch)
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)
    for each in parts:
        (final.parent / each).unlink()


def read_shard(root: Path, shard: Shard, columns: list[str] | None = None) -> pa.Table:
    """Read one shard whole.

    Raises:
        CorruptShard: its size is not the manifest's, it is not Parquet, or rows are missing.
    """
    with _opened(root, shard, columns) as file:
        return _read(root, shard, lambda: file.read(columns=columns))


def read_part(root: Path, shard: Shard, column: str, part: str) -> list[pa.Array]:
    """One field of a column of lists of structs, which are read with that field alone.

    Raises:
        CorruptShard: as `read_shard`.
    """
    with _opened(root, shard, [column]) as file:
        names = [f"{column}.list.element.{part}"]
        return list(_read(root, shard, lambda: file.read(names)).column(0).chunks)


def read_batches(
    root: Path, shard: Shard, columns: list[str] | None = None, batch_rows: int = 1024
) -> Iterator[pa.RecordBatch]:
    """Read one shard in batches of at most `batch_rows` rows, in order, with flat memory."""
    with _opened(root, shard, columns) as file:
        batches = file.iter_batches(batch_size=batch_rows, columns=columns)
        while (batch := _read(root, shard, lambda: next(batches, None))) is not None:
            yield batch


def read_groups(
    root: Path, shard: Shard, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Read one shard by its row groups, whose size in bytes is bounded where rows are large."""
    with _opened(root, shard, columns) as file:
        for number in range(file.num_row_groups):
            table = _read(root, shard, partial(file.read_row_group, number, columns))
            yield from table.combine_chunks().to_batches()


def _read(root: Path, shard: Shard, read: Callable[[], Any]) -> Any:
    try:
        found = read()
    except UNREADABLE as error:
        raise CorruptShard(Path(root) / shard.path, None, f"not readable ({error})") from error
    _let_go_beside(found)
    return found


def _let_go_beside(rows: pa.Table | pa.RecordBatch | None) -> None:
    """Give back what Arrow took to read or write many bytes, which it keeps for the next time."""
    if rows is not None and rows.nbytes >= LARGE_BYTES:
        pa.default_memory_pool().release_unused()


def _opened(root: Path, shard: Shard, columns: list[str] | None) -> pq.ParquetFile:
    path = shard.place(root)
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        names = file.schema_arrow.names
    except UNREADABLE as error:
        raise CorruptShard(path, None, f"not readable ({error})") from error
    if missing := [name for name in columns or [] if name not in names]:
        raise CorruptShard(path, None, f"has no column {', '.join(missing)}")
    rows = file.metadata.num_rows
    if rows != shard.num_records:
        raise CorruptShard(path, None, f"has {rows} rows; its manifest says {shard.num_records}")
    return file
