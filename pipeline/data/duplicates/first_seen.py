"""Which key stands where for the first time, in memory that does not grow with their number.

Keys of 128 bits are written to disk in runs, each grouped by the key's first bits into parts; then
a part at a time, over all runs in their order, a table remembers who was first. On disk a key takes
24 bytes; in memory a part's distinct keys take 24 bytes a slot of a table that is 1/4 to 1/2 full.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]  # a row a key: two words
Places = npt.NDArray[np.int64]
KEY_BYTES, PLACE_BYTES = 16, 8
RUN_KEYS = 1 << 19  # in memory before they are written: 12 MB with their places
PART_KEYS = 1 << 18  # aimed at, so that a table is small beside a processor's cache
MAX_PART_BITS = 12  # more would read too little at a time
LEAST_SLOTS = 1 << 10


class Run(NamedTuple):
    """Keys and their places in one file, grouped by part; `base` is added to the places."""

    path: Path
    base: int = 0


def part_bits(num_keys: int) -> int:
    """The number of first bits that part about so many keys."""
    return min(MAX_PART_BITS, max(0, (num_keys // PART_KEYS).bit_length()))


def write_run(path: Path, keys: Keys, places: Places, num_bits: int) -> Run:
    """Write keys, whose places are in their order, as one run."""
    from pipeline.data.compiled import hashing  # numba

    grouped, moved, bounds = hashing.group(keys, places, num_bits)
    with open(path, "wb") as file:
        for each in (bounds, grouped, moved):
            file.write(each.data)
    return Run(path)


class RunWriter:
    """Keys and their places, written as a run whenever there are many.

    Args:
        name: of the runs' files in `folder`, which are numbered.
    """

    def __init__(self, folder: Path, name: str, num_bits: int) -> None:
        self._folder, self._name, self._num_bits = folder, name, num_bits
        self._keys, self._places = np.empty((RUN_KEYS, 2), np.uint64), np.empty(RUN_KEYS, np.int64)
        self._num_held = 0
        self._names: list[str] = []

    def room(self) -> Keys:
        """Where the next keys are put: one row at least."""
        if self._num_held == len(self._keys):
            self.write()
        return self._keys[self._num_held :]

    def hold(self, places: Places) -> None:
        """Take as many keys of the room as there are places."""
        end = self._num_held + len(places)
        self._places[self._num_held : end] = places
        self._num_held = end

    def add(self, keys: Keys, places: Places) -> None:
        """Take keys that stand elsewhere."""
        at = 0
        while at < len(keys):
            room = self.room()
            held = slice(at, at + len(room))
            room[: len(keys[held])] = keys[held]
            self.hold(places[held])
            at = held.stop

    def write(self) -> None:
        """Write what is held as one run."""
        if self._num_held:
            self._names.append(f"{self._name}-{len(self._names)}.keys")
            held = slice(self._num_held)
            path = self._folder / self._names[-1]
            write_run(path, self._keys[held], self._places[held], self._num_bits)
        self._num_held = 0

    def close(self) -> list[str]:
        """Write what is left; gives the names of all runs."""
        self.write()
        return self._names


def firsts(runs: Sequence[Run], num_bits: int) -> Iterator[tuple[Places, Places]]:
    """Places, and beside each the place at which its key stands first; in no order of places."""
    for part in range(1 << num_bits):
        yield from firsts_of_part(runs, part, num_bits)


def firsts_of_part(
    runs: Sequence[Run], part: int, num_bits: int
) -> Iterator[tuple[Places, Places]]:
    """The same of the keys of one part, which have nothing to do with those of another."""
    table = _Table()
    for run in runs:
        keys, places = _read_part(run, part, num_bits)
        if len(keys):
            yield places, table.look_up(keys, places)


class _Table:
    """The first place of each key, as an open-addressing table."""

    def __init__(self) -> None:
        self.slots: Keys = np.zeros((LEAST_SLOTS, 2), np.uint64)
        self.owners: Places = np.empty(LEAST_SLOTS, np.int64)
        self.num_keys = 0

    def look_up(self, keys: Keys, places: Places) -> Places:
        from pipeline.data.compiled import hashing  # numba

        found = np.empty(len(keys), np.int64)
        at = 0
        while at < len(keys):  # in pieces, so that many equal keys make no wide table
            piece = slice(at, at + max(LEAST_SLOTS // 2, self.num_keys))
            self._make_room(self.num_keys + len(keys[piece]))
            self.num_keys += hashing.find_firsts(
                keys[piece], places[piece], self.slots, self.owners, found[piece]
            )
            at = piece.stop
        return found

    def _make_room(self, num_keys: int) -> None:
        from pipeline.data.compiled import hashing  # numba

        if 2 * num_keys <= len(self.slots):
            return
        width = 1 << (2 * num_keys - 1).bit_length()
        slots, owners = np.zeros((width, 2), np.uint64), np.empty(width, np.int64)
        hashing.move_slots(self.slots, self.owners, slots, owners)
        self.slots, self.owners = slots, owners


def _read_part(run: Run, part: int, num_bits: int) -> tuple[Keys, Places]:
    width = (1 << num_bits) + 1
    with open(run.path, "rb", buffering=0) as file:
        fd = file.fileno()
        start, stop = np.frombuffer(os.pread(fd, 16, 8 * part), np.int64).tolist()
        count = stop - start
        (total,) = np.frombuffer(os.pread(fd, 8, 8 * (width - 1)), np.int64).tolist()
        keys = os.pread(fd, KEY_BYTES * count, 8 * width + KEY_BYTES * start)
        at = 8 * width + KEY_BYTES * total + PLACE_BYTES * start
        places = os.pread(fd, PLACE_BYTES * count, at)
    found = np.frombuffer(places, np.int64) + run.base
    return np.frombuffer(keys, np.uint64).reshape(-1, 2), found
