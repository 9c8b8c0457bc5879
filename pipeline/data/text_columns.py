"""The text of shards as Arrow holds it: one block of UTF-8 and where each text begins.

Kernels work on it as it is, so no text becomes a Python string.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.shards import read_batches

BATCH_ROWS = 4096
EMPTY = np.frombuffer(b"", np.uint8)
NO_TEXTS = np.frombuffer(bytes(4), np.int32)
T = TypeVar("T")


class TextColumn(NamedTuple):
    """Text `i` is `data[offsets[i]:offsets[i + 1]]`, in UTF-8."""

    data: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int32]

    @classmethod
    def of(cls, array: Any) -> TextColumn:
        """The buffers of an Arrow array of strings or binary without nulls; nothing is copied."""
        if len(array) == 0:
            return cls(EMPTY, NO_TEXTS)
        _, offsets, data = array.buffers()
        places = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
        return cls(EMPTY if data is None else np.frombuffer(data, np.uint8), places)


def read_text(
    root: Path, shard: Shard, more: list[str] | None = None
) -> Iterator[tuple[TextColumn, pa.RecordBatch]]:
    """The texts of a shard batch by batch, the next one being read meanwhile by another thread.

    Args:
        more: columns that the batches have beside the text.

    Raises:
        CorruptShard: a text is missing or no UTF-8.
    """
    return _ahead(_read(root, shard, ["text", *(more or [])]))


def _read(
    root: Path, shard: Shard, columns: list[str]
) -> Iterator[tuple[TextColumn, pa.RecordBatch]]:
    first = 0
    for batch in read_batches(root, shard, columns, BATCH_ROWS):
        texts = batch["text"]
        if texts.null_count:
            missing = texts.is_null().to_pylist().index(True)
            raise CorruptShard(root / shard.path, first + missing, "has no text")
        try:
            texts.validate(full=True)
        except pa.ArrowInvalid as error:
            raise CorruptShard(root / shard.path, None, f"not readable ({error})") from error
        first += len(texts)
        yield TextColumn.of(texts), batch


def _ahead(items: Iterator[T]) -> Iterator[T]:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, None)
        while (item := future.result()) is not None:
            future = pool.submit(next, items, None)
            yield item
