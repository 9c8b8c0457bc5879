"""A source becomes Documents, piece by piece; a piece that was read before is not read again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import xxhash

from pipeline.core.artifacts import Documents, SourceCount
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import ChangedData, CorruptShard
from pipeline.core.files import Shard, write_json
from pipeline.core.keys import Json, canonical
from pipeline.core.shards import read_batches, shard_name
from pipeline.data.document import Document, write_documents
from pipeline.data.sources import Malformed, Piece, Skipped, Source
from pipeline.store.memo import FileMemo, place_file

VERSION = "001"
SET_ASIDE, SKIPPED = "malformed.jsonl", "skipped.json"
NAMED = np.dtype([("name", "S16"), ("shard", "<i8")])  # an id by its hash, and where it stands
NAMED_AT_ONCE = 1 << 20  # of these in memory, about: 24 MB
NUM_FIRST = 10  # skipped records of a reason that are named


def ingest_documents(
    source: Source,
    *,
    out: Path,
    shard_bytes: int = 8 << 20,
    max_malformed: int = 0,
    engine: Engine = LOCAL,
    memo: FileMemo | None = None,
) -> Documents:
    """Store the documents of a source in its order; each piece has shards of its own.

    Records that are no documents are set aside in `malformed.jsonl`, with place and reason, as long
    as they are not more than `max_malformed`. What a source skips, as it holds no document (the
    images of a crawl), is counted by reason in `skipped.json`. Checking that ids differ takes 24
    bytes a document on disk, and in memory some 80 a document of the one piece that is read.

    Args:
        shard_bytes: text in a shard before the next one begins.

    Raises:
        CorruptShard: a file is damaged, there are more malformed records, or an id comes twice.
        ChangedData: a file changed while it was read.
    """
    if shard_bytes < 1 or max_malformed < 0:
        raise ValueError(
            f"shard_bytes is {shard_bytes}, max_malformed is {max_malformed}; must be >= 1 and >= 0"
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    pieces = source.pieces()
    form = dict(canonical(source))
    form.pop("fingerprint", None)  # each piece has its own digest
    work = _IngestPiece(source, form, pieces, shard_bytes, max_malformed, out, memo)
    read = engine.map(work, range(len(pieces)), label="ingest")
    malformed = [Malformed(**each) for piece in read for each in piece.malformed]
    if len(malformed) > max_malformed:
        first = malformed[0]
        more = f"; {len(malformed)} records are malformed, max_malformed is {max_malformed}"
        raise CorruptShard(first.path, first.record, first.reason + more)
    if malformed:
        _set_aside(malformed, out)
    if skipped := _together(piece.skipped for piece in read):
        write_json(out / SKIPPED, {reason: asdict(skipped[reason]) for reason in sorted(skipped)})
    shards = [shard for piece in read for shard in piece.shards]
    _require_unique(out, shards)
    num_documents = sum(each.num_records for each in shards)
    num_text_bytes = sum(piece.num_text_bytes for piece in read)
    count = SourceCount(
        source.source, source.licence, source.provenance, num_documents, num_text_bytes
    )
    return Documents.of(
        out,
        num_documents=num_documents,
        num_text_bytes=num_text_bytes,
        sources=[count],
        shards=shards,
        num_malformed=len(malformed),
    )


def concat_documents(documents: Sequence[Documents], *, out: Path) -> Documents:
    """Several Documents as one, in their order; files are linked, not copied.

    Raises:
        ValueError: two of them hold the same source, so an id might stand for two documents.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    sources: list[SourceCount] = []
    shards: list[Shard] = []
    for place, each in enumerate(documents):
        for count in each.sources:
            if count.source in {known.source for known in sources}:
                raise ValueError(f"documents[{place}] holds source {count.source!r} again")
            sources.append(count)
        for shard in each.shards:
            path = shard_name(len(shards))
            place_file(each.root / shard.path, out / path)
            shards.append(Shard(**{**asdict(shard), "path": path}))
    return Documents.of(
        out,
        num_documents=sum(each.num_documents for each in documents),
        num_text_bytes=sum(each.num_text_bytes for each in documents),
        sources=sources,
        shards=shards,
        num_malformed=sum(each.num_malformed for each in documents),
    )


@dataclass(frozen=True)
class _Count:
    """Records that were skipped for one reason, and the places of the first of them."""

    count: int = 0
    first: list[list[Any]] = field(default_factory=list)  # path and record

    def __add__(self, other: _Count) -> _Count:
        return _Count(self.count + other.count, (self.first + other.first)[:NUM_FIRST])


@dataclass(frozen=True)
class _Read:
    """What one piece gave."""

    shards: list[Shard] = field(default_factory=list)
    num_text_bytes: int = 0
    malformed: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, _Count] = field(default_factory=dict)


@dataclass(frozen=True)
class _IngestPiece:
    source: Source
    form: dict[str, Json]  # the source in a key
    pieces: list[Piece]
    shard_bytes: int
    max_malformed: int
    out: Path
    memo: FileMemo | None

    def __call__(self, number: int) -> _Read:
        piece, prefix = self.pieces[number], f"{number:05d}-"
        key = self._key(piece)
        if self.memo is not None and piece.digest:
            found = self._remembered(self.memo, key, prefix)
            if found is not None:
                return found
        malformed: list[Malformed] = []
        skipped: dict[str, _Count] = {}
        shards, num_text_bytes = write_documents(
            self._documents(piece, malformed, skipped), self.out, prefix, self.shard_bytes
        )
        if self.source.digest_now(piece) != piece.digest:
            raise ChangedData(piece.path)
        read = _Read(shards, num_text_bytes, [each._asdict() for each in malformed], skipped)
        if self.memo is not None and piece.digest and len(malformed) <= self.max_malformed:
            self.memo.keep_files(key, self.out, [each.path for each in shards], asdict(read))
        return read

    def _documents(
        self, piece: Piece, malformed: list[Malformed], skipped: dict[str, _Count]
    ) -> Iterator[Document]:
        seen: set[bytes] = set()
        for number, each in enumerate(self.source.read(piece), 1):
            if isinstance(each, Document):
                name = xxhash.xxh3_128_digest(each.id.encode())
                if name not in seen:
                    seen.add(name)
                    yield each
                    continue
                each = Malformed(piece.path, number, f"its id {each.id!r} stands there already")
            elif isinstance(each, Skipped):
                one = _Count(1, [[each.path, each.record]])
                skipped[each.reason] = skipped.get(each.reason, _Count()) + one
                continue
            malformed.append(each)
            if len(malformed) > self.max_malformed:
                return

    def _key(self, piece: Piece) -> dict[str, Json]:
        return {
            "ingest": VERSION,
            "source": self.form,
            "piece": [piece.name, piece.digest],
            "shard_bytes": self.shard_bytes,
        }

    def _remembered(self, memo: FileMemo, key: dict[str, Json], prefix: str) -> _Read | None:
        note = memo.note(key)
        try:
            shards = [
                Shard(**{**each, "path": f"{prefix}{place:05d}.parquet"})
                for place, each in enumerate(note["shards"])
            ]
            skipped = {name: _Count(**each) for name, each in note["skipped"].items()}
            read = _Read(shards, note["num_text_bytes"], note["malformed"], skipped)
        except (TypeError, KeyError, AttributeError):
            return None
        return read if memo.place(key, self.out, [each.path for each in shards]) else None


def _together(counts: Iterable[dict[str, _Count]]) -> dict[str, _Count]:
    whole: dict[str, _Count] = {}
    for each in counts:
        for reason, count in each.items():
            whole[reason] = whole.get(reason, _Count()) + count
    return whole


def _set_aside(malformed: list[Malformed], out: Path) -> None:
    temporary = out / f".{SET_ASIDE}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        for each in malformed:
            file.write(json.dumps(each._asdict(), ensure_ascii=True) + "\n")
    os.replace(temporary, out / SET_ASIDE)


def _require_unique(out: Path, shards: Sequence[Shard]) -> None:
    """Raises CorruptShard where an id stands in two shards; within a piece it is known already."""
    num_parts = min(256, 1 + sum(each.num_records for each in shards) // NAMED_AT_ONCE)
    scratch = out / ".ids"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    with ExitStack() as stack:
        parts = [stack.enter_context(open(scratch / str(n), "w+b")) for n in range(num_parts)]
        for number, shard in enumerate(shards):
            for batch in read_batches(out, shard, ["id"], 1 << 16):
                named = _named(batch[0].to_pylist(), number)
                # by the first byte, so that the parts are in the order of names
                part_of = named.view(np.uint8)[:: NAMED.itemsize].astype(np.int64) * num_parts >> 8
                for part in np.unique(part_of):
                    named[part_of == part].tofile(parts[part])
        for file in parts:
            file.seek(0)
            every = np.fromfile(file, NAMED)
            every.sort(order="name")
            same = np.flatnonzero(every["name"][1:] == every["name"][:-1])
            if len(same):
                place = int(same[0])
                numbers = every["shard"][place], every["shard"][place + 1]
                _refuse_id(out, every["name"][place], *(shards[each] for each in numbers))
    shutil.rmtree(scratch)


def _named(ids: Sequence[str], shard: int) -> npt.NDArray[Any]:
    names = [xxhash.xxh3_128_digest(each.encode()) for each in ids]
    named = np.empty(len(names), NAMED)
    named["name"], named["shard"] = np.array(names, dtype="S16"), shard
    return named


def _refuse_id(out: Path, name: np.bytes_, first: Shard, second: Shard) -> NoReturn:
    for batch in read_batches(out, first, ["id"], 1 << 16):
        for each in batch[0].to_pylist():
            if np.bytes_(xxhash.xxh3_128_digest(each.encode())) == name:
                reason = f"the id stands in {second.path} as well; ids of a source must differ"
                raise CorruptShard(out / first.path, each, reason)
    raise AssertionError(f"no id of {first.path} has the name that was read there")
