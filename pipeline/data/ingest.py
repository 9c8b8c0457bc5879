"""A source becomes Documents, piece by piece; a piece that was read before is not read again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.core.artifacts import Documents, SourceCount
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import ChangedData, CorruptShard
from pipeline.core.files import Shard, write_file, write_json
from pipeline.core.keys import Json, canonical
from pipeline.core.shards import shard_name
from pipeline.data.document import Document, write_documents
from pipeline.data.duplicates.repeated_ids import (
    Repeats,
    file_of,
    find_repeats,
    hash_of,
    leave_out,
    name_repeats,
)
from pipeline.data.sources.rows import Malformed, Piece, Skipped, Source
from pipeline.store.memo import FileMemo, place_file

VERSION = "001"
SET_ASIDE, SKIPPED = "malformed.jsonl", "skipped.json"
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

    Records that are no documents, or whose id an earlier one has, are set aside in
    `malformed.jsonl`, with place and reason, as long as they are not more than `max_malformed`.
    What a source skips, as it holds no document (the images of a crawl), is counted by reason in
    `skipped.json`. To check that ids differ takes up to 130 bytes a document of a piece while it is
    read, and then 24 a document of all on disk.

    Args:
        shard_bytes: text in a shard before the next one begins.

    Raises:
        CorruptShard: a file is damaged, or there are more malformed records.
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
    _require_few(malformed, len(malformed), max_malformed)
    read, malformed = _without_repeats(pieces, read, out, malformed, max_malformed)
    if malformed:
        _set_aside(malformed, out)
    if skipped := _together(piece.skipped for piece in read):
        write_json(out / SKIPPED, {reason: asdict(skipped[reason]) for reason in sorted(skipped)})
    shards = [shard for piece in read for shard in piece.shards]
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
        for each in self.source.read(piece):
            if isinstance(each, Document):
                name = hash_of(each.id)
                if name not in seen:
                    seen.add(name)
                    yield each
                    continue
                reason = f"its id {each.id!r} stands there already"
                each = Malformed(file_of(piece, each.id), getattr(each, "record", each.id), reason)
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


def _without_repeats(
    pieces: Sequence[Piece],
    read: list[_Read],
    out: Path,
    malformed: list[Malformed],
    max_malformed: int,
) -> tuple[list[_Read], list[Malformed]]:
    """The same without documents whose id an earlier piece has; these are malformed too."""
    shards = [shard for piece in read for shard in piece.shards]
    owners = [piece for piece, own in zip(pieces, read, strict=True) for _ in own.shards]
    repeats = find_repeats(out, shards if len(pieces) > 1 else [])  # in one they are known
    count = len(malformed) + len(repeats.places)
    if count > max_malformed:  # one is named
        repeats = Repeats(repeats.places[:1], repeats.firsts[:1])
    malformed = malformed + name_repeats(out, shards, owners, repeats)
    _require_few(malformed, count, max_malformed)
    if not len(repeats.places):
        return read, malformed
    left, kept = leave_out(out, shards, repeats.places), []
    for piece in read:
        own, left = left[: len(piece.shards)], left[len(piece.shards) :]
        kept.append(
            replace(
                piece,
                shards=[each.shard for each in own if each.shard is not None],
                num_text_bytes=piece.num_text_bytes - sum(each.num_text_bytes_gone for each in own),
            )
        )
    return kept, malformed


def _require_few(malformed: Sequence[Malformed], count: int, max_malformed: int) -> None:
    if count > max_malformed:
        first = malformed[0]
        records = "1 record is" if count == 1 else f"{count} records are"
        more = f"; {records} malformed, max_malformed is {max_malformed}"
        raise CorruptShard(first.path, first.record, first.reason + more)


def _set_aside(malformed: list[Malformed], out: Path) -> None:
    lines = [json.dumps(each._asdict(), ensure_ascii=True) + "\n" for each in malformed]
    write_file(out / SET_ASIDE, "".join(lines).encode())
