"""The reading order that a run of ai2-olmo left on disk, its `global_indices.npy`, to replay it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.core.artifacts import ReadingOrder, TokenMix
from pipeline.core.errors import CorruptShard, MismatchedInputs
from pipeline.core.files import StoredFile
from pipeline.core.fingerprints import OutsideFile
from pipeline.core.temporary import temporary_for
from pipeline.tokens.olmo_order import FileReader
from pipeline.tokens.order import IntArray, MixReader, OrderRule

FILE = "indices.bin"
INDEX = np.dtype("<u4")
BLOCK_INDICES = 1 << 20
NUMPY_MAGIC = b"\x93NUMPY"


def import_order(path: Path | str, *, out: Path) -> ReadingOrder:
    """Copy a file of little-endian uint32 numbers of instances, in the order they were read.

    Beside the file's blocks this holds a bit for every number up to the largest.

    Source: allenai/OLMo, `olmo/data/iterable_dataset.py`, which writes it to `train_data/`.

    Raises:
        CorruptShard: it is empty, has a NumPy header or a part of an index, or repeats an index.
    """
    path, out = Path(path), Path(out)
    if not path.is_file():
        raise CorruptShard(path, None, "is no file; a reading order is one file of indices")
    with open(path, "rb") as file:
        head = file.read(len(NUMPY_MAGIC))
    size = path.stat().st_size
    if head == NUMPY_MAGIC:
        reason = "has a NumPy header; ai2-olmo's file, though named .npy, is indices alone"
        raise CorruptShard(path, None, reason)
    if size == 0 or size % INDEX.itemsize:
        reason = f"has {size} bytes; it must have {INDEX.itemsize} for each index, and one or more"
        raise CorruptShard(path, None, reason)
    out.mkdir(parents=True, exist_ok=True)
    temporary, state, largest = temporary_for(out / FILE), hashlib.sha256(), 0
    seen = _Seen(path)
    try:
        with open(temporary, "wb") as copy:
            for place, block in _blocks(np.memmap(path, INDEX, "r")):
                seen.add(place, block)
                largest = max(largest, int(block.max()))
                data = block.tobytes()
                state.update(data)
                copy.write(data)
            copy.flush()
            os.fsync(copy.fileno())
        os.replace(temporary, out / FILE)
    finally:
        temporary.unlink(missing_ok=True)
    stored = StoredFile(FILE, size, state.hexdigest(), state.hexdigest())
    return ReadingOrder.of(out, num_instances=size // INDEX.itemsize, largest=largest, file=stored)


class _Seen:
    """Which indices were met, a bit each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bits = np.zeros(0, np.uint8)

    def add(self, place: int, block: NDArray[Any]) -> None:
        """Note the indices of a block at `place`; raises CorruptShard for one met before."""
        ordered = np.sort(block)
        bytes_of, masks = ordered >> 3, np.left_shift(1, ordered & 7).astype(np.uint8)
        self._grow(int(bytes_of[-1]) + 1)
        twice = (self._bits[bytes_of] & masks) != 0
        twice[1:] |= ordered[1:] == ordered[:-1]
        if twice.any():
            index = int(ordered[np.argmax(twice)])
            at = place + int(np.flatnonzero(block == index)[-1])
            reason = f"the index {index} stands before already; an epoch reads an instance once"
            raise CorruptShard(self.path, at, reason)
        starts = np.flatnonzero(np.diff(bytes_of, prepend=bytes_of[0] ^ 1))
        self._bits[bytes_of[starts]] |= np.bitwise_or.reduceat(masks, starts)

    def _grow(self, num_bytes: int) -> None:
        if num_bytes > len(self._bits):
            wider = np.zeros(num_bytes, np.uint8)
            wider[: len(self._bits)] = self._bits
            self._bits = wider


@dataclass(frozen=True)
class OlmoReplay(OrderRule):
    """The order of an index file, of instances numbered as `OlmoShuffle` numbers them.

    A file is of one epoch: ai2-olmo shuffles anew for the next, and overwrites it. The run's seed
    has no say.
    """

    indices: ReadingOrder

    VERSION: ClassVar[str] = "001"

    def reader(self, mix: TokenMix) -> MixReader:
        return FileReader(mix)

    def order(self, num_instances: int, batch_instances: int, seed: int) -> FileOrder:
        return FileOrder(self.indices, num_instances, batch_instances)

    def require_steps(self, num_steps: int, batch_instances: int, told: str) -> None:
        require_held(self.indices.num_instances, num_steps, batch_instances, told)


def order_of(order: OrderRule | ReadingOrder) -> OrderRule:
    """What an experiment gives as an order, which may be an index file."""
    return OlmoReplay(order) if isinstance(order, ReadingOrder) else order


@dataclass(frozen=True)
class FileOrder:
    """Whole batches of an index file, of which only what is asked for is read.

    Args:
        num_held: instances of the data.
        batch_instances: of one optimizer step, over all ranks.

    Raises:
        MismatchedInputs: the file names an instance that the data has not.
        ValueError: it does not hold a batch.
    """

    indices: ReadingOrder
    num_held: int
    batch_instances: int

    def __post_init__(self) -> None:
        if self.indices.largest >= self.num_held:
            indices = open_indices(self.indices)
            beyond = (
                (at, np.flatnonzero(block >= self.num_held)) for at, block in _blocks(indices)
            )
            place = next(at + int(found[0]) for at, found in beyond if found.size)
            raise MismatchedInputs(
                f"ReadingOrder {self.indices.content[:12]}",
                f"the mix of {self.num_held} instances",
                f"the index at place {place} is {indices[place]}",
            )
        held, size = self.indices.num_instances, self.batch_instances
        require_held(held, 1, size, f"batch_instances is {size}")

    @property
    def num_instances(self) -> int:
        """Instances of the whole batches of the file."""
        return self.indices.num_instances // self.batch_instances * self.batch_instances

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> IntArray:
        """Instances read by `rank` at `step`, from 0: every `world_size`-th row of the batch."""
        if step < 0:
            raise ValueError(f"step is {step}; it must be at least 0")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; it must be from 0 to {world_size - 1}")
        held = self.indices.num_instances
        require_held(held, step + 1, self.batch_instances, f"step is {step}, from 0")
        first = step * self.batch_instances
        rows = slice(first + rank, first + self.batch_instances, world_size)
        return open_indices(self.indices)[rows].astype(np.int64)

    def when(self, instance: int, epoch: int = 0) -> tuple[int, int] | None:
        """Step and row that read an instance; None where no whole batch of the file does."""
        if not 0 <= instance < self.num_held:
            raise ValueError(f"instance is {instance}; it must be from 0 to {self.num_held - 1}")
        if epoch == 0:
            for place, block in _blocks(open_indices(self.indices)[: self.num_instances]):
                found = np.flatnonzero(block == instance)
                if found.size:
                    return divmod(place + int(found[0]), self.batch_instances)
        return None


def open_indices(indices: ReadingOrder) -> NDArray[np.uint32]:
    """The numbers of instances as a read-only memory map; its digest is not computed.

    Raises:
        CorruptShard: it is missing, or its size is not the manifest's.
    """
    return np.memmap(indices.file.place(indices.root), INDEX, "r")


def num_instances_in(file: OutsideFile) -> int | None:
    """How many instances a file of indices names, where its size is known before it is read."""
    size = file.num_bytes()
    return None if size is None else size // INDEX.itemsize


def require_held(
    num_instances: int,
    num_steps: int,
    batch_instances: int,
    told: str,
    file: str = "the index file",
) -> None:
    """Raises ValueError where a file of so many instances ends before so many steps.

    Args:
        told: what asks for them, as `stop_at is 9`.
        file: what the file is called.
    """
    held = num_instances // batch_instances
    if num_steps > held:
        raise ValueError(
            f"{told}; {file} has {num_instances} instances, which is {held} updates of "
            f"batch_size {batch_instances}, and no second epoch"
        )


def _blocks(indices: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Blocks of a file, each with its place."""
    for place in range(0, len(indices), BLOCK_INDICES):
        yield place, np.array(indices[place : place + BLOCK_INDICES])
