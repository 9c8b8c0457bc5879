"""Ids that come twice in a corpus: found over all of its shards, named by their files, left out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from pipeline.core.files import Shard
from pipeline.core.shards import read_batches, read_shard, write_shard
from pipeline.data.document import DOCUMENT_SCHEMA
from pipeline.data.duplicates.first_seen import Run, RunWriter, firsts, part_bits
from pipeline.data.sources.files import Malformed, Piece

BATCH_ROWS = 1 << 14
Places = NDArray[np.int64]


class Repeats(NamedTuple):
    """Places in a corpus, from 0, whose id an earlier document has, and where that one stands."""

    places: Places
    firsts: Places


class Left(NamedTuple):
    """What is left of a shard, None if that is nothing, and the bytes of text that went."""

    shard: Shard | None
    num_text_bytes_gone: int


def hash_of(id: str) -> bytes:
    """16 bytes that stand for an id."""
    return xxhash.xxh3_128_digest(id.encode())


def find_repeats(root: Path, shards: Sequence[Shard]) -> Repeats:
    """The documents of a corpus whose id stands earlier in it.

    Below `root` stand meanwhile 24 bytes a document; memory does not grow with their number.
    """
    scratch = root / ".ids"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    num_bits = part_bits(sum(each.num_records for each in shards))
    runs, at = RunWriter(scratch, "ids", num_bits), 0
    for shard in shards:
        for batch in read_batches(root, shard, ["id"], BATCH_ROWS):
            names = b"".join(map(hash_of, batch[0].to_pylist()))
            keys = np.frombuffer(names, np.uint64).reshape(-1, 2)
            runs.add(keys, np.arange(at, at + len(keys)))
            at += len(keys)
    found = [np.empty((2, 0), np.int64)]
    for each in firsts([Run(scratch / name) for name in runs.close()], num_bits):
        pair = np.stack(each)
        found.append(pair[:, pair[0] != pair[1]])
    shutil.rmtree(scratch)
    places, earlier = np.concatenate(found, axis=1)
    order = np.argsort(places)
    return Repeats(places[order], earlier[order])


def name_repeats(
    root: Path, shards: Sequence[Shard], owners: Sequence[Piece], repeats: Repeats
) -> list[Malformed]:
    """Why each of them is no document of its own; `owners` has the piece of each shard."""
    ends = list(accumulate(each.num_records for each in shards))
    of_place, of_first = (np.searchsorted(ends, each, "right").tolist() for each in repeats)
    ids = _ids_at(root, shards, repeats.places)
    found = []
    for id, own, first in zip(ids, of_place, of_first, strict=True):
        reason = f"its id {id!r} stands in {file_of(owners[first], id)} already"
        found.append(Malformed(file_of(owners[own], id), id, reason))
    return found


def leave_out(root: Path, shards: Sequence[Shard], places: Places) -> list[Left]:
    """Write the shards anew without some documents; one of which nothing is left is deleted."""
    left = []
    for shard, rows in zip(shards, _rows_by_shard(shards, places), strict=True):
        if not len(rows):
            left.append(Left(shard, 0))
            continue
        table = read_shard(root, shard)
        stays = np.ones(table.num_rows, bool)
        stays[rows] = False
        gone = pc.sum(pc.binary_length(table["text"].filter(pa.array(~stays)))).as_py()
        if stays.any():
            rest = table.filter(pa.array(stays))
            left.append(Left(write_shard(root, shard.path, rest, DOCUMENT_SCHEMA), gone))
        else:
            (root / shard.path).unlink()
            left.append(Left(None, gone))
    return left


def _ids_at(root: Path, shards: Sequence[Shard], places: Places) -> Iterator[str]:
    for shard, rows in zip(shards, _rows_by_shard(shards, places), strict=True):
        if len(rows):
            yield from read_shard(root, shard, ["id"])["id"].take(pa.array(rows)).to_pylist()


def _rows_by_shard(shards: Sequence[Shard], places: Places) -> Iterator[Places]:
    """The rows in each shard of places in the corpus, which are in order."""
    first = 0
    for shard in shards:
        begin, end = np.searchsorted(places, [first, first + shard.num_records])
        yield places[begin:end] - first
        first += shard.num_records


def file_of(piece: Piece, id: str) -> str:
    """The file in which an id of a piece stands; where a file is a document, its name is the id."""
    return next((path for path, name in piece.files if name == id), piece.path)
