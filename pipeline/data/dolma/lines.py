"""The lines of Dolma's attribute files, and which of them are about which shard of documents."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.core.artifacts import Documents
from pipeline.core.engine import Engine
from pipeline.core.errors import CorruptShard
from pipeline.core.fingerprints import open_outside
from pipeline.core.shards import read_batches
from pipeline.data.dolma.export import DOCUMENTS
from pipeline.data.sources.files import numbered_lines, reading

IntArray = NDArray[np.uint64]
BATCH_ROWS = 1024


class _Place(NamedTuple):
    """Lines of one file, by their places among its lines that are not blank."""

    path: Path
    lines: Sequence[int]


@dataclass(frozen=True)
class AttributeFiles:
    """The files of an experiment: for each shard of documents where its lines stand."""

    experiment: str
    places: list[list[_Place]]

    @classmethod
    def of(
        cls, documents: Documents, experiment: str, folder: Path, part: bool, engine: Engine
    ) -> AttributeFiles:
        """Find the lines of documents, which may be some of those that the files are about.

        Raises:
            CorruptShard: a file is missing, is not readable, or is of other documents.
        """
        return cls(experiment, _places(documents, experiment, _files(folder), part, engine))

    def lines(self, stretch: range) -> Iterator[tuple[Path, int, Any]]:
        """File, number and value of the line of each document of some shards, in order.

        However many of the shards a file is about, it is read once.
        """
        places = (place for number in stretch for place in self.places[number])
        for path, parts in groupby(places, key=attrgetter("path")):
            left = (line for part in parts for line in part.lines)
            following = next(left, None)
            with reading(str(path)), open_outside(str(path)) as file:
                for place, (row, line) in enumerate(_lines_of(file)):
                    if place == following:
                        yield path, row, _parsed(path, row, line)
                        following = next(left, None)
                    if following is None:
                        break


def stretches(sets: Sequence[AttributeFiles], num_shards: int) -> list[range]:
    """Shards of documents that follow each other, cut where no file goes on into the next one."""
    begins: list[int] = []
    last: list[Path | None] = [None] * len(sets)
    for number in range(num_shards):
        own = [each.places[number] for each in sets]
        goes_on = [
            bool(each) and each[0].path == path for each, path in zip(own, last, strict=True)
        ]
        if number == 0 or (any(own) and not any(goes_on)):
            begins.append(number)
        last = [each[-1].path if each else path for each, path in zip(own, last, strict=True)]
    return [range(*bounds) for bounds in pairwise([*begins, num_shards])]


def _files(folder: Path) -> list[Path]:
    """The files below a folder in the order of their paths, which must be those of documents."""
    names = _below(folder)
    beside = folder.parent.parent / DOCUMENTS
    if folder.parent.name == "attributes" and beside.is_dir():
        for name in _below(beside):
            if name not in names:
                raise CorruptShard(folder / name, None, f"is missing; there is {beside / name}")
    return [folder / each for each in names]


def _below(folder: Path) -> list[str]:
    return sorted(
        each.relative_to(folder).as_posix()
        for each in folder.rglob("*")
        if each.is_file() and not each.name.startswith(".")
    )


def _places(
    documents: Documents, experiment: str, paths: list[Path], part: bool, engine: Engine
) -> list[list[_Place]]:
    """Where the lines of each shard of documents stand; raises CorruptShard for what has none."""
    if part:
        hashes = engine.map(_hashes_of_ids, paths, label="ids of attributes")
        return _found(documents, experiment, paths, hashes)
    counts = engine.map(_num_lines, paths, label="count lines")
    if sum(counts) != documents.num_documents:
        reason = f"its files have {sum(counts)} lines; the documents are {documents.num_documents}"
        raise CorruptShard(paths[0].parent if paths else experiment, None, reason)
    ends = list(accumulate(counts))
    found, first = [], 0
    for shard in documents.shards:
        last, own = first + shard.num_records, []
        for file in range(bisect_right(ends, first), len(paths)):
            begun = ends[file] - counts[file]
            if begun >= last:
                break
            lines = range(max(first, begun) - begun, min(last, ends[file]) - begun)
            own.append(_Place(paths[file], lines))
        found.append(own)
        first = last
    return found


def _found(
    documents: Documents, experiment: str, paths: list[Path], hashes: Sequence[IntArray]
) -> list[list[_Place]]:
    """Places by the ids, in one pass over documents and lines, which have one order."""
    ends = np.cumsum([0, *map(len, hashes)])
    every = np.concatenate([*hashes, np.zeros(0, np.uint64)])
    found, at = [], 0
    for shard in documents.shards:
        wanted = []
        for batch in read_batches(documents.root, shard, ["id"], BATCH_ROWS):
            for id in batch[0].to_pylist():
                own = xxhash.xxh3_64_intdigest(id.encode())
                while at < len(every) and every[at] != own:
                    at += 1
                if at == len(every):
                    reason = f"no line after those of the documents before it is about {id!r}"
                    raise CorruptShard(experiment, None, f"{reason} of {shard.path}")
                wanted.append(at)
                at += 1
        lines = np.array(wanted, np.int64)
        file = np.searchsorted(ends, lines, "right") - 1
        found.append(
            [_Place(paths[n], (lines[file == n] - ends[n]).tolist()) for n in np.unique(file)]
        )
    return found


def _num_lines(path: Path) -> int:
    with reading(str(path)), open_outside(str(path)) as file:
        return sum(1 for _ in _lines_of(file))


def _hashes_of_ids(path: Path) -> IntArray:
    with reading(str(path)), open_outside(str(path)) as file:
        ids = (_parsed(path, number, line)["id"] for number, line in _lines_of(file))
        return np.fromiter((xxhash.xxh3_64_intdigest(id.encode()) for id in ids), np.uint64)


def _lines_of(file: Any) -> Iterator[tuple[int, bytes | None]]:
    """The lines that are not blank, with their numbers."""
    for number, line in numbered_lines(file):
        if line is None or (line and not line.isspace()):
            yield number, line


def _parsed(path: Path, number: int, line: bytes | None) -> Any:
    import orjson

    try:
        value = orjson.loads(line if line is not None else b"")
    except ValueError as error:
        raise CorruptShard(path, number, f"not JSON ({error})") from error
    if not isinstance(value, dict) or not isinstance(value.get("attributes"), dict):
        raise CorruptShard(path, number, "has no attributes; it must be an object with some")
    if not isinstance(value.get("id"), str):
        raise CorruptShard(path, number, f"its id is {value.get('id')!r}; it must be text")
    return value
