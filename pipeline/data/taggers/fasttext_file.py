"""What a file of fastText says of itself, told without the C++ that believes it."""

from __future__ import annotations

import mmap
import struct
from functools import cache
from pathlib import Path

from pipeline.data.taggers import State

MAGIC = 793_712_314  # with which the format begins
PREFIX = "__label__"
ARGUMENTS = struct.calcsize("<12id")
ENTRY = 10  # bytes from the end of a word to the next one
LABEL = 1  # the kind of an entry of the dictionary
CENTROIDS = 256  # of each part of a vector that is quantized


@cache
def labels_of(path: str, state: State) -> frozenset[str]:
    """The labels of a model, without `__label__`, whose file is found to be whole.

    Raises:
        ValueError: it is no model of fastText, or its end is missing.

    Source: facebookresearch/fastText, `src/fasttext.cc`, `dictionary.cc`, `quantmatrix.cc`,
        `productquantizer.cc`, `densematrix.cc`: what `loadModel` reads.
    """
    if Path(path).stat().st_size == 0:
        raise ValueError("is no model of fastText (it is empty)")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Reader(data)
        if len(data) < 8 or reader.next("i")[0] != MAGIC:
            raise ValueError("is no model of fastText (it begins otherwise)")
        reader.skip(4 + ARGUMENTS)  # the version, and the arguments of the training
        labels = reader.labels()
        (is_quantized,) = reader.next("?")
        reader.skip_matrix(is_quantized)
        (is_quantized_too,) = reader.next("?")
        reader.skip_matrix(is_quantized and is_quantized_too)
    return labels


class _Reader:
    """A place in a file, which only moves on."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def next(self, form: str) -> tuple[int, ...]:
        at = self._at
        self.skip(struct.calcsize(f"<{form}"))
        return struct.unpack_from(f"<{form}", self._data, at)

    def skip(self, size: int) -> None:
        if size < 0:
            raise ValueError("is no model of fastText (it has a size below zero)")
        self._at += size
        if self._at > len(self._data):
            raise ValueError(
                f"is no whole model of fastText (it has {len(self._data)} bytes and should have at "
                f"least {self._at})"
            )

    def labels(self) -> frozenset[str]:
        size, _, _, _, num_pruned = self.next("iiiqq")
        found, at = [], self._at
        for _ in range(size):  # each with its end, a count of 8 bytes, and its kind
            end = self._data.find(b"\0", at)
            if end < 0 or end + ENTRY > len(self._data):
                raise ValueError("is no whole model of fastText (it ends within its words)")
            if self._data[end + ENTRY - 1] == LABEL:
                word = self._data[at:end].decode("utf-8", "replace")
                found.append(word.removeprefix(PREFIX))
            at = end + ENTRY
        self._at = at
        self.skip(8 * max(num_pruned, 0))
        return frozenset(found)

    def skip_matrix(self, is_quantized: int) -> None:
        if not is_quantized:
            num_rows, num_columns = self.next("qq")
            self.skip(4 * num_rows * num_columns)
            return
        has_norms, num_rows, _, num_codes = self.next("?qqi")
        self.skip(num_codes)
        self._skip_quantizer()
        if has_norms:
            self.skip(num_rows)
            self._skip_quantizer()

    def _skip_quantizer(self) -> None:
        num_dimensions, _, _, _ = self.next("iiii")
        self.skip(4 * num_dimensions * CENTROIDS)
