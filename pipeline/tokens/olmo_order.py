"""The reading order of ai2-olmo, to replay a run of its trainer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.core.artifacts import TokenMix
from pipeline.core.seeds import seed_fault
from pipeline.tokens.order import IntArray, MixReader, OrderRule

MOST_INSTANCES = 1 << 32  # their numbers are uint32


@dataclass(frozen=True)
class OlmoShuffle(OrderRule):
    """The order that ai2-olmo makes of a seed, of instances that it numbers file by file.

    Every shard of the mix is read once an epoch and its tail shorter than an instance is dropped,
    so a mix with repeats or proportions is refused. Each epoch holds a shuffled array of 4 bytes
    an instance: minutes for the 10**9 of the published runs.

    Args:
        seed: of the first epoch, the run's where it is None; the published runs' is 6198.

    Source: allenai/OLMo, `olmo/data/iterable_dataset.py` and `memmap_dataset.py`.
    Differs: an epoch ends with its last whole global batch; the original cuts it to a multiple of
        the world size, so that its last, partial batch depends on the number of ranks.
    """

    seed: int | None = None

    VERSION: ClassVar[str] = "001"

    def __post_init__(self) -> None:
        if self.seed is not None and (fault := seed_fault(self.seed)):
            raise ValueError(f"seed {fault}")

    def reader(self, mix: TokenMix) -> MixReader:
        return FileReader(mix)

    def order(self, num_instances: int, batch_instances: int, seed: int) -> OlmoOrder:
        return OlmoOrder(num_instances, batch_instances, seed if self.seed is None else self.seed)


@dataclass(frozen=True)
class OlmoOrder:
    """Whole batches of an array that is shuffled anew each epoch.

    Args:
        num_held: instances of the data; `num_instances` of them are read in an epoch.
        batch_instances: of one optimizer step, over all ranks.
        seed: of epoch 0; epoch e has `seed + e`.
    """

    num_held: int
    batch_instances: int
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.batch_instances <= self.num_held:
            raise ValueError(
                f"batch_instances is {self.batch_instances}; it must be from 1 to "
                f"{self.num_held}, what the data holds"
            )
        if self.num_held > MOST_INSTANCES:
            raise ValueError(f"num_held is {self.num_held}; it must be at most 2**32")

    @property
    def num_instances(self) -> int:
        """Instances of the whole batches of an epoch."""
        return self.num_held // self.batch_instances * self.batch_instances

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> IntArray:
        """Instances read by `rank` at `step`, from 0: every `world_size`-th row of the batch."""
        if step < 0:
            raise ValueError(f"step is {step}; it must be at least 0")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; it must be from 0 to {world_size - 1}")
        epoch, first = divmod(step * self.batch_instances, self.num_instances)
        rows = slice(first + rank, first + self.batch_instances, world_size)
        return _shuffled(self.num_held, self.seed + epoch)[rows].astype(np.int64)

    def when(self, instance: int, epoch: int = 0) -> tuple[int, int] | None:
        """Step and row that read an instance in an epoch; None where the epoch leaves it out."""
        if not 0 <= instance < self.num_held:
            raise ValueError(f"instance is {instance}; it must be from 0 to {self.num_held - 1}")
        place = int(np.flatnonzero(_shuffled(self.num_held, self.seed + epoch) == instance)[0])
        if place >= self.num_instances:
            return None
        return divmod(epoch * self.num_instances + place, self.batch_instances)


@lru_cache(maxsize=2)
def _shuffled(size: int, seed: int) -> NDArray[np.uint32]:
    indices = np.arange(size, dtype=np.uint32)
    np.random.Generator(np.random.PCG64(seed)).shuffle(indices)
    return indices


class FileReader(MixReader):
    """The instances of each shard, shard by shard and part by part, without the shards' tails.

    Raises:
        ValueError: a part of the mix is not read exactly once, or no shard holds an instance.
    """

    def __init__(self, mix: TokenMix) -> None:
        super().__init__(mix)
        for part in mix.parts:
            if part.num_drawn != part.num_instances:
                raise ValueError(
                    f"mix draws {part.num_drawn} of the {part.num_instances} instances of "
                    f"{part.name!r}; OLMo's order reads each part once"
                )
        shards = [
            (place, int(start), shard.num_tokens // mix.sequence_length)
            for place, part in enumerate(self.parts)
            for start, shard in zip(part.starts, part.tokens.shards, strict=False)
        ]
        self._shards = [(place, start) for place, start, _ in shards]
        self._shard_starts = np.cumsum([0, *(count for _, _, count in shards)])
        self.num_instances = int(self._shard_starts[-1])
        if not self.num_instances:
            raise ValueError(f"no shard of the mix holds {mix.sequence_length} tokens")

    def locate(self, instance: int) -> tuple[int, int]:
        if not 0 <= instance < self.num_instances:
            raise ValueError(
                f"instance is {instance}; it must be from 0 to {self.num_instances - 1}"
            )
        number = int(np.searchsorted(self._shard_starts, instance, side="right")) - 1
        place, start = self._shards[number]
        return place, start + (
            instance - int(self._shard_starts[number])
        ) * self.mix.sequence_length

    def places(self, instances: IntArray) -> IntArray:
        numbers = np.searchsorted(self._shard_starts, instances, side="right") - 1
        return np.array([place for place, _ in self._shards], np.int64)[numbers]

    def holding(self, document: str) -> list[int]:
        length, found = self.mix.sequence_length, set[int]()
        spans = [list(part.spans_of(document)) for part in self.parts]
        for number, (place, start) in enumerate(self._shards):
            first, end = (int(each) for each in self._shard_starts[number : number + 2])
            for low, high in spans[place]:
                begin = first + max(0, (low - start) // length)
                found.update(range(begin, min(end, first - (start - high) // length)))
        return sorted(found)
