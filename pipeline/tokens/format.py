"""A token shard: raw little-endian ids that OLMo's own loader reads, and a row a document beside.

The ids are `00000.npy`, which by OLMo's custom has no NumPy header; `00000.idx.parquet` has rows
source, id, start, end, where start and end are places in the shard, the end token included.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.artifacts import TokenShard
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.keys import digest
from pipeline.core.shards import ShardWriter, read_shard, shard_name
from pipeline.core.temporary import temporary_for

DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
INDEX = pa.schema(
    [("source", pa.string()), ("id", pa.string()), ("start", pa.int64()), ("end", pa.int64())]
)


def token_dtype(vocab_size: int) -> str:
    """The narrowest dtype for ids below `vocab_size`: "uint16" or "uint32"."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def shard_paths(number: int) -> tuple[str, str]:
    """The names of shard `number`: its ids and its index."""
    return shard_name(number, ".npy"), shard_name(number, ".idx.parquet")


class TokenShardWriter:
    """Write one token shard; on a clean exit both files have their names and `shard` is the record.

    with TokenShardWriter(root, 0, "uint16") as writer:
        writer.write(["books"], ["moby-dick"], [[17, 4, 0]])
    writer.shard
    """

    def __init__(self, root: Path, number: int, dtype: str) -> None:
        self.root, self.dtype, self.number = Path(root), dtype, number
        self.shard: TokenShard
        self.num_tokens = 0
        self._type = DTYPES[dtype]
        self._sha256 = hashlib.sha256()
        ids, index = shard_paths(number)
        self._index = ShardWriter(self.root, index, INDEX)
        self._final = self.root / ids
        self._temporary = temporary_for(self._final)
        try:
            self._file = open(self._temporary, "wb")
        except OSError as error:
            self._index.__exit__(type(error), error, None)
            raise

    def write(
        self,
        sources: Sequence[str],
        names: Sequence[str],
        token_ids: Sequence[Sequence[int] | NDArray[Any]],
    ) -> None:
        """Add documents: where each is from, its id there, and its token ids.

        Raises:
            ValueError: a token id does not fit the dtype.
        """
        if not token_ids:
            return
        flat = np.concatenate([np.asarray(each, np.int64) for each in token_ids])
        if flat.size and not 0 <= flat.min() <= flat.max() <= np.iinfo(self._type).max:
            raise ValueError(f"token ids are {flat.min()} to {flat.max()}; must fit {self.dtype}")
        lengths = np.array([len(each) for each in token_ids], np.int64)
        self.write_index(sources, names, self.num_tokens + np.cumsum(lengths), lengths)
        self.write_ids(flat)

    def write_ids(self, ids: NDArray[Any]) -> None:
        """Add ids that are known to fit; `write_index` says which documents they are."""
        content = ids.astype(self._type).tobytes()
        self._sha256.update(content)
        self._file.write(content)
        self.num_tokens += ids.size

    def write_index(
        self,
        sources: Sequence[str] | pa.Array,
        names: Sequence[str] | pa.Array,
        ends: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        """Add documents alone: where the ids of each end in the shard, and how many they are."""
        columns = {"source": sources, "id": names, "start": ends - lengths, "end": ends}
        self._index.write(pa.table(columns, schema=INDEX))

    def __enter__(self) -> TokenShardWriter:
        self._index.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
            else:
                self._index.__exit__(kind, error, trace)
        finally:
            with suppress(OSError):  # of what a full disk did not take
                self._file.close()
            self._temporary.unlink(missing_ok=True)

    def _finish(self) -> None:
        with self._index:
            self._file.flush()
            os.fsync(self._file.fileno())
        os.replace(self._temporary, self._final)
        index, sha256 = self._index.shard, self._sha256.hexdigest()
        self.shard = TokenShard(
            path=self._final.name,
            num_bytes=self.num_tokens * self._type.itemsize,
            content=digest({"ids": sha256, "dtype": self.dtype, "index": index.content}),
            sha256=sha256,
            num_records=index.num_records,
            num_tokens=self.num_tokens,
            index_path=index.path,
            index_bytes=index.num_bytes,
            index_sha256=index.sha256,
        )


def open_ids(tokens_root: Path, shard: TokenShard, dtype: str) -> NDArray[Any]:
    """The ids of a shard as a read-only memory map; its digest is not computed.

    Raises:
        CorruptShard: it is missing, or its size is not the manifest's.
    """
    path = shard.place(tokens_root)
    if dtype not in DTYPES:
        raise CorruptShard(path, None, f"dtype is {dtype!r}; it must be one of {list(DTYPES)}")
    must = shard.num_tokens * DTYPES[dtype].itemsize
    if must != shard.num_bytes:
        reason = f"has {shard.num_bytes} bytes; {shard.num_tokens} {dtype} tokens must have {must}"
        raise CorruptShard(path, None, reason)
    if must == 0:  # which cannot be mapped
        return np.empty(0, DTYPES[dtype])
    return np.memmap(path, DTYPES[dtype], "r")


def read_index(tokens_root: Path, shard: TokenShard) -> pa.Table:
    """The index of a shard: source, id, start, end, a row a document.

    Raises:
        CorruptShard: it is missing, not the manifest's size, or lacks rows.
    """
    index = Shard(shard.index_path, shard.index_bytes, "", shard.index_sha256, shard.num_records)
    return read_shard(tokens_root, index)
