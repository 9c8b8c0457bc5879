"""A few documents of another source, chosen by hash: what a rehearsal reads, and its parts."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, TypeVar

from pipeline.core.keys import Json, canonical, digest
from pipeline.data.document import Document
from pipeline.data.rules import Sample, sample_place
from pipeline.data.sources.rows import Malformed, Piece, Skipped, Source

SEED = "cut"
T = TypeVar("T")


@dataclass(frozen=True)
class Cut:
    """At most so many parts of a source, and so many of their documents, in their order.

    A part is chosen by the hash of its name and a document by that of its id, so that what is read
    is spread over the source. Of files, only the chosen ones are digested.

    Args:
        of: the source.
        max_documents: of all parts together.
        max_bytes: of their text; of those chosen, one that would go beyond it is left out.
        max_records: read of each part, from its start; documents are chosen among these.
    """

    of: Source
    max_pieces: int = 2
    max_documents: int = 128
    max_bytes: int = 1 << 20
    max_records: int = 10_000

    VERSION: ClassVar[str] = "001"

    def __post_init__(self) -> None:
        for name in ("max_pieces", "max_documents", "max_bytes", "max_records"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def source(self) -> str:
        return self.of.source

    @property
    def licence(self) -> str:
        return self.of.licence

    @property
    def provenance(self) -> str:
        return self.of.provenance

    def canonical(self) -> Json:
        """The cut source by its values and by the bytes of what is chosen, not by all its bytes."""
        of: Any = self.of
        unkeyed = getattr(of, "UNKEYED", ())
        form = {n: getattr(of, n) for n in _names(of) if n not in unkeyed}
        kind = {"is": type(of).__name__, "version": getattr(of, "VERSION", "")}
        own = {n: getattr(self, n) for n in _names(self) if n != "of"}
        return {
            "is": type(self).__name__,
            "version": self.VERSION,
            "of": canonical(kind | form),
            "num_parts": self._num_parts(),  # each gives its share
            "fingerprint": self.fingerprint(),
            **own,
        }

    def fingerprint(self) -> str:
        if not hasattr(self.of, "listed"):
            return digest([self.of.fingerprint(), [each.name for each in self.pieces()]])
        unread = f"revision {getattr(self.of, 'revision', '')}"
        return digest([[p.name, p.digest or f"{p.path} {unread}"] for p in self.pieces()])

    def pieces(self) -> list[Piece]:
        listed = getattr(self.of, "listed", None)
        if listed is None:
            pieces = self.of.pieces()
            return chosen(pieces, [each.name for each in pieces], self.max_pieces)
        named = listed()
        some = chosen(named, [each.name for each in named], self.max_pieces)
        found: list[Piece] = getattr(self.of, "pieces_of")(some)  # noqa: B009  only files have it
        return found

    def digest_now(self, piece: Piece) -> str:
        return self.of.digest_now(piece)

    def read(self, piece: Piece) -> Iterator[Document | Malformed | Skipped]:
        parts = self._num_parts()
        share, left = -(-self.max_documents // parts), self.max_bytes // parts
        kept: list[tuple[float, int, Document]] = []  # a heap with the one to go first on top
        with closing(_iterator(self.of.read(piece))) as records:
            for number, each in enumerate(islice(records, self.max_records)):
                if not isinstance(each, Document):
                    yield each
                    continue
                entry = (-sample_place(SEED, each.id), number, each)
                if len(kept) < share:
                    heapq.heappush(kept, entry)
                else:
                    heapq.heappushpop(kept, entry)
        fitting: list[tuple[int, Document]] = []
        for _, number, document in sorted(kept, reverse=True):  # by the hash, least first
            size = len(document.text.encode())
            if size <= left or not fitting:
                left -= size
                fitting.append((number, document))
        for _, document in sorted(fitting, key=lambda entry: entry[0]):
            yield document

    def _num_parts(self) -> int:
        listed = getattr(self.of, "listed", None)
        pieces = listed() if listed is not None else self.of.pieces()
        return max(1, min(self.max_pieces, len(pieces)))


def chosen(items: Sequence[T], names: Sequence[str], limit: int) -> list[T]:
    """At most `limit` items in their order, chosen by the hash of their names."""
    by_hash = sorted(range(len(items)), key=lambda i: (sample_place(SEED, names[i]), i))
    return [items[i] for i in sorted(by_hash[:limit])]


class Widened:
    """Shares of documents spread apart, so that each part of so few still holds some.

    All bounds that rules set on one hash are moved together and keep their order: what was parted
    stays parted, and what was left over stays left over.

    Args:
        samples: every rule of a graph that keeps a share.
        least: the share of the smallest part, before all are made to fill the whole again.
    """

    def __init__(self, samples: Iterable[Sample], least: float = 0.25) -> None:
        bounds: dict[tuple[str, str], set[float]] = {}
        for each in samples:
            found = bounds.setdefault((each.sample_by, each.seed), {0.0, 1.0})
            found |= {each.from_fraction, each.to_fraction}
        self._moved = {name: _spread(sorted(found), least) for name, found in bounds.items()}

    def __call__(self, sample: Sample) -> Sample:
        moved = self._moved[sample.sample_by, sample.seed]
        low, high = moved[sample.from_fraction], moved[sample.to_fraction]
        return dataclasses.replace(sample, from_fraction=low, to_fraction=high)


def _spread(bounds: list[float], least: float) -> dict[float, float]:
    shares = [b - a for a, b in itertools.pairwise(bounds)]
    if min(shares) >= least:
        return {each: each for each in bounds}
    widths = [max(share, least) for share in shares]
    places = [0.0, *itertools.accumulate(width / sum(widths) for width in widths)]
    return dict(zip(bounds, [*(round(each, 6) for each in places[:-1]), 1.0], strict=True))


def _names(value: Any) -> list[str]:
    return [each.name for each in dataclasses.fields(value)]


def _iterator(records: Iterator[T]) -> Any:
    """With a `close`, which only generators have."""
    yield from records
