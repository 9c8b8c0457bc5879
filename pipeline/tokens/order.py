"""Which instance is read at step s by rank r, and back: a pure function, not a state.

What orders and batches call a step is the number of a batch, from 0: batch s is read by optimizer
update s + 1. Tables, commands and files count updates, the first being 1.

A Feistel network keyed by (seed, epoch) permutes the instances of an epoch, so any place of 10⁹ is
found without a shuffled array, and so is the place of any instance. Epochs follow each other
without a gap: a batch may hold the end of one and the beginning of the next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from pipeline.core.artifacts import TokenMix, Tokens
from pipeline.core.seeds import seed_fault
from pipeline.tokens.format import open_ids, read_index

IntArray = NDArray[np.int64]
WordArray = NDArray[np.uint64]

MOST_BATCH = 1 << 20  # instances of an update: 2**31 tokens in rows of 2,048
MOST_STEPS = 1 << 40  # MOST_BATCH times as many places still fit an int64
NUM_ROUNDS = 8
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio
WORD = (1 << 64) - 1


@dataclass(frozen=True)
class FeistelOrder:
    """The reading order of `num_instances` in batches, epoch after epoch.

    Args:
        num_instances: of one epoch.
        batch_instances: of one optimizer step, over all ranks.
        seed: 0 to 2**53 - 1.
    """

    num_instances: int
    batch_instances: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("num_instances", "batch_instances"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.batch_instances > MOST_BATCH:
            raise ValueError(
                f"batch_instances is {self.batch_instances}; it must be at most {MOST_BATCH}"
            )
        if fault := seed_fault(self.seed):
            raise ValueError(f"seed {fault}")

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> IntArray:
        """Instances read by `rank` at `step`, from 0: every `world_size`-th row of the batch."""
        if step < 0:
            raise ValueError(f"step is {step}; it must be at least 0")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; it must be from 0 to {world_size - 1}")
        first = step * self.batch_instances
        places = np.arange(first + rank, first + self.batch_instances, world_size, dtype=np.int64)
        epochs, places = np.divmod(places, self.num_instances)
        return self.shuffle(places, epochs)

    def when(self, instance: int, epoch: int = 0) -> tuple[int, int]:
        """The step, and the row of its batch, that read an instance in an epoch."""
        place = epoch * self.num_instances + int(self.place(instance, epoch)[0])
        return divmod(place, self.batch_instances)

    def shuffle(self, places: ArrayLike, epochs: ArrayLike) -> IntArray:
        """The instances at places of their epochs, shape of `places`, at least 1-d.

        Source: Luby and Rackoff 1988 (the network); Black and Rogaway 2002, "Ciphers with Arbitrary
            Finite Domains", 3 (cycle walking); Steele et al. 2014 (SplitMix64, the round function).
        """
        return self._walk(places, epochs, range(NUM_ROUNDS))

    def place(self, instances: ArrayLike, epochs: ArrayLike) -> IntArray:
        """The places in their epochs of instances: the inverse of `shuffle`."""
        return self._walk(instances, epochs, range(NUM_ROUNDS - 1, -1, -1))

    def _walk(self, numbers: ArrayLike, epochs: ArrayLike, rounds: range) -> IntArray:
        given = np.atleast_1d(np.asarray(numbers, np.int64))
        if given.size and not 0 <= given.min() <= given.max() < self.num_instances:
            raise ValueError(
                f"places are {given.min()} to {given.max()}; "
                f"they must be from 0 to {self.num_instances - 1}"
            )
        wide = np.broadcast_to(np.asarray(epochs, np.int64), given.shape).astype(np.uint64)
        seeds = scrambled(scrambled(np.full(given.shape, self.seed, np.uint64)) ^ wide)
        values = self._rounds(given.astype(np.uint64), seeds, rounds)
        # the network permutes a power of two below twice the size: walk on until inside
        while (outside := np.flatnonzero(values >= np.uint64(self.num_instances))).size:
            values.flat[outside] = self._rounds(values.flat[outside], seeds.flat[outside], rounds)
        return values.astype(np.int64)

    def _rounds(self, values: WordArray, seeds: WordArray, rounds: range) -> WordArray:
        num_bits = max(2, (self.num_instances - 1).bit_length())
        low_bits = np.uint64(num_bits // 2)
        low_mask = np.uint64((1 << int(low_bits)) - 1)
        high_mask = np.uint64((1 << (num_bits - int(low_bits))) - 1)
        high, low = values >> low_bits, values & low_mask
        for number in rounds:
            key = seeds + np.uint64((number + 1) * GOLDEN & WORD)
            if number % 2:
                low = low ^ (scrambled(high ^ key) & low_mask)
            else:
                high = high ^ (scrambled(low ^ key) & high_mask)
        return (high << low_bits) | low


def scrambled(words: WordArray) -> WordArray:
    """SplitMix64's output function, a bijection of 64-bit words.

    Source: Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators", figure 14.
    """
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


class Piece(NamedTuple):
    """Part of a document in an instance; start and end are token offsets in the document."""

    part: str
    source: str
    id: str
    start: int
    end: int


class MixReader:
    """The instances of a mix by number; files are opened when first read, so it can be pickled."""

    def __init__(self, mix: TokenMix) -> None:
        self.mix = mix
        self.num_instances = sum(part.num_drawn for part in mix.parts)
        self._ends = np.cumsum([part.num_drawn for part in mix.parts])
        self._parts: list[_PartReader] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": None}

    @property
    def parts(self) -> list[_PartReader]:
        """A reader of each part."""
        if self._parts is None:
            self._parts = [_PartReader(each) for each in self.mix.load_parts()]
        return self._parts

    def locate(self, instance: int) -> tuple[int, int]:
        """The part of an instance of the mix, and the offset of its first token in the part."""
        if not 0 <= instance < self.num_instances:
            raise ValueError(
                f"instance is {instance}; it must be from 0 to {self.num_instances - 1}"
            )
        place = int(np.searchsorted(self._ends, instance, side="right"))
        part = self.mix.parts[place]
        number = (instance - int(self._ends[place]) + part.num_drawn) % part.num_instances
        return place, number * self.mix.sequence_length

    def places(self, instances: IntArray) -> IntArray:
        """The part of each of many instances, by its place in the mix."""
        return np.searchsorted(self._ends, instances, side="right")

    def read(self, instances: IntArray) -> IntArray:
        """The token ids of instances, one a row."""
        length = self.mix.sequence_length
        rows = np.empty((len(instances), length), np.int64)
        for row, instance in zip(rows, instances, strict=True):
            place, first = self.locate(int(instance))
            self.parts[place].read(first, row)
        return rows

    def holding(self, document: str) -> list[int]:
        """The instances that hold tokens of the documents of an id, ascending.

        Reads every index of the mix once; instances that repeat a run of tokens are all given.
        """
        length, found = self.mix.sequence_length, set[int]()
        for part, reader, end in zip(self.mix.parts, self.parts, self._ends, strict=True):
            first = int(end) - part.num_drawn
            for low, high in reader.spans_of(document):
                for number in range(low // length, -(-high // length)):
                    found.update(range(first + number, int(end), part.num_instances))
        return sorted(found)

    def pieces(self, instance: int) -> Iterator[Piece]:
        """The documents an instance holds, in order."""
        length = self.mix.sequence_length
        place, first = self.locate(instance)
        name = self.mix.parts[place].name
        for source, document, start, end in self.parts[place].pieces(first, length):
            yield Piece(name, source, document, start, end)


class _PartReader:
    """Tokens as one long run of ids."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.starts = np.cumsum([0, *(shard.num_tokens for shard in tokens.shards)])
        self._maps: dict[int, NDArray[Any]] = {}
        self._index = lru_cache(maxsize=16)(self._read_index)

    def read(self, start: int, row: IntArray) -> None:
        """Fill `row` with the ids from `start` on."""
        filled = 0
        for number, low, high in self._spans(start, len(row)):
            if number not in self._maps:
                shard = self.tokens.shards[number]
                self._maps[number] = open_ids(self.tokens.root, shard, self.tokens.dtype)
            row[filled : filled + high - low] = self._maps[number][low:high]
            filled += high - low
        assert filled == len(row), f"{filled} tokens from {start}"

    def pieces(self, start: int, length: int) -> Iterator[tuple[str, str, int, int]]:
        """Source, id, and token offsets in the document, of what a run of ids holds."""
        for number, low, high in self._spans(start, length):
            table, starts, ends = self._index(number)
            first = int(np.searchsorted(ends, low, side="right"))
            last = int(np.searchsorted(starts, high, side="left"))
            rows = table.slice(first, last - first).select(["source", "id"]).to_pylist()
            for place, row in enumerate(rows, first):
                begin, end = int(starts[place]), int(ends[place])
                yield row["source"], row["id"], max(low, begin) - begin, min(high, end) - begin

    def spans_of(self, document: str) -> Iterator[tuple[int, int]]:
        """First and last offset, in the run of all shards, of each document of an id."""
        for number in range(len(self.tokens.shards)):
            table, starts, ends = self._index(number)
            base = int(self.starts[number])
            for row in np.flatnonzero(pc.equal(table["id"], document).to_numpy()):
                if ends[row] > starts[row]:
                    yield base + int(starts[row]), base + int(ends[row])

    def _spans(self, start: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Shard, and first and last offset in it, of a run of ids that may cross shards."""
        stop = start + length
        number = int(np.searchsorted(self.starts, start, side="right")) - 1
        while start < stop and number < len(self.tokens.shards):
            base, end = int(self.starts[number]), min(stop, int(self.starts[number + 1]))
            if end > start:
                yield number, start - base, end - base
                start = end
            number += 1

    def _read_index(self, number: int) -> tuple[pa.Table, IntArray, IntArray]:
        table = read_index(self.tokens.root, self.tokens.shards[number])
        return table, table["start"].to_numpy(), table["end"].to_numpy()


class Order(Protocol):
    """What tells which instances a step reads, and back; `num_instances` are read in an epoch."""

    @property
    def num_instances(self) -> int: ...

    @property
    def batch_instances(self) -> int: ...

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> IntArray:
        """Instances read by `rank` at `step`, from 0."""
        ...

    def when(self, instance: int, epoch: int = 0) -> tuple[int, int] | None:
        """Step and row that read an instance in an epoch; None where the epoch leaves it out."""
        ...


class OrderRule(ABC):
    """How the instances of a mix are numbered and ordered: a part of an experiment."""

    def reader(self, mix: TokenMix) -> MixReader:
        """The instances of a mix by the numbers that this rule gives them."""
        return MixReader(mix)

    @abstractmethod
    def order(self, num_instances: int, batch_instances: int, seed: int) -> Order:
        """The order of so many instances; `seed` is the run's."""

    def require_steps(self, num_steps: int, batch_instances: int, told: str) -> None:
        """Raises ValueError where the order ends before so many steps; most never end.

        Args:
            told: what asks for them, as `stop_at is 9`.
        """
        return


@dataclass(frozen=True)
class Feistel(OrderRule):
    """A keyed permutation of all instances (`FeistelOrder`), each epoch another one."""

    VERSION: ClassVar[str] = "001"

    def order(self, num_instances: int, batch_instances: int, seed: int) -> Order:
        return FeistelOrder(num_instances, batch_instances, seed)


FEISTEL = Feistel()


class TokenBatches:
    """Batches of a mix, in the order of a seed.

    Args:
        batch_instances: of one optimizer step, over all ranks.
        order: how instances are numbered and shuffled.
    """

    def __init__(
        self, mix: TokenMix, batch_instances: int, seed: int, order: OrderRule = FEISTEL
    ) -> None:
        self.mix = mix
        self.reader = order.reader(mix)
        self.order = order.order(self.reader.num_instances, batch_instances, seed)

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> dict[str, IntArray]:
        """What `rank` reads at `step`.

        Returns:
            `input_ids`, int64 [B, T], a row an instance of this rank's.
        """
        return {"input_ids": self.reader.read(self.order.at(step, rank, world_size))}

    def tokens_by_source(self, step: int) -> Counter[str]:
        """Tokens that all ranks read at a step of each part of the mix, by its name."""
        times = np.bincount(self.reader.places(self.order.at(step)))
        seen = Counter[str]()
        for place in np.flatnonzero(times):
            seen[self.mix.parts[place].name] += self.mix.sequence_length * int(times[place])
        return seen

    def rows(self, step: int) -> list[list[Piece]]:
        """The documents of each row of the whole batch of a step, in order."""
        return [list(self.reader.pieces(int(each))) for each in self.order.at(step)]

    def documents(self, step: int) -> list[Piece]:
        """The documents that all ranks read at `step`, row by row."""
        return [piece for row in self.rows(step) for piece in row]

    def holding(self, document: str) -> list[int]:
        """The instances of an epoch that hold tokens of a document, by its id."""
        return self.reader.holding(document)
