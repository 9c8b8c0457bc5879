"""Where documents come from: a source is a list of pieces, each read apart and remembered apart."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pipeline.core.errors import CorruptShard, Unavailable
from pipeline.core.fingerprints import fetch, fingerprint_files, is_url, open_outside
from pipeline.core.pins import Pin, is_commit
from pipeline.data.document import Document
from pipeline.data.files import MAX_RECORD_BYTES, RecordFiles, numbered_lines, reading
from pipeline.data.files import Malformed as Malformed
from pipeline.data.files import Piece as Piece
from pipeline.data.files import Skipped as Skipped
from pipeline.data.records import Conversations, as_document, check_fields


class Source(Protocol):
    """Outside documents. A frozen dataclass whose `fingerprint` stands for its bytes in a key."""

    @property
    def source(self) -> str:
        """The name its documents carry."""
        ...

    @property
    def licence(self) -> str: ...

    @property
    def provenance(self) -> str: ...

    def fingerprint(self) -> str:
        """Equal for equal content; costs no reading of what has not changed."""
        ...

    def pieces(self) -> list[Piece]:
        """The parts, in the order of the corpus."""
        ...

    def read(self, piece: Piece) -> Iterator[Document | Malformed | Skipped]:
        """The documents of one part, in order."""
        ...

    def digest_now(self, piece: Piece) -> str:
        """The digest that the part would have in `pieces` now: another one if its bytes changed."""
        ...


@dataclass(frozen=True)
class Jsonl(RecordFiles):
    """JSON Lines in Dolma's format, compressed as their names say (.gz, .zst, .bz2, .xz).

    Fields other than a document's own go into its metadata. A line of more than 256 MiB is
    malformed.

    Source: allenai/dolma, `docs/data-format.md`.
    """

    def read(self, piece: Piece) -> Iterator[Document | Malformed]:
        import orjson

        with reading(piece.path), open_outside(piece.path, self.pins.get(piece.path)) as file:
            for number, line in numbered_lines(file):
                if line is None:
                    reason = f"has more than {MAX_RECORD_BYTES} bytes"
                    yield Malformed(piece.path, number, reason)
                elif line and not line.isspace():
                    try:
                        found = self._document(piece, number, orjson.loads(line))
                        known = isinstance(found, Document) and "e+" not in found.metadata
                    except ValueError:
                        known = False
                    # the slower parser has the last word on what is wrong, on what the faster one
                    # refuses, and on integers of more than 64 bits, which that makes floats
                    yield found if known else self._document(piece, number, _parsed(line))


@dataclass(frozen=True)
class ParquetFiles(RecordFiles):
    """Parquet files with a column a field; other columns go into the metadata."""

    def _rows(self, piece: Piece) -> Iterator[tuple[int, Any]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with reading(piece.path), self._opened(piece.path) as file:
                number = 0
                for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
                    for row in _rows_of(batch):
                        number += 1
                        yield number, row
        except pa.ArrowInvalid as error:
            raise CorruptShard(piece.path, None, f"not readable ({error})") from error

    def _opened(self, path: str) -> Any:
        """A file whose parts can be read in any order; one at a URL, all of which is read, here."""
        if not is_url(path):
            return open_outside(path)
        file = tempfile.TemporaryFile()
        try:
            fetch(path, file, self.pins.get(path))
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return file


@dataclass(frozen=True)
class HfDataset:
    """A dataset of the Hugging Face Hub, or one in a local folder, read as a stream.

    Args:
        path: what `datasets.load_dataset` takes: a name on the Hub or a folder.
        revision: a commit of the Hub's repository; needed unless `path` is a folder.
        fields: our field -> theirs, where the names differ; other columns go into the metadata.
        number_records: give the ids `<split>:<number of the record from 1>`.
        conversations: as for files.
        pin: what the lock beside the experiment knows: the commit that `revision` is.
    """

    path: str
    source: str
    name: str | None = None
    split: str = "train"
    revision: str = ""
    licence: str = "unknown"
    provenance: str = "unknown"
    fields: dict[str, str] = field(default_factory=dict)
    number_records: bool = False
    conversations: Conversations | None = None
    pin: Pin | None = None

    VERSION: ClassVar[str] = "002"
    UNKEYED: ClassVar[tuple[str, ...]] = ("path", "revision", "pin")

    def __post_init__(self) -> None:
        check_fields(self.fields)
        if not self.revision and not os.path.isdir(self.path):
            raise ValueError(f"revision is missing; {self.path!r} is no folder of this machine")

    def fingerprint(self) -> str:
        if not os.path.isdir(self.path):
            return f"{self.path} revision {self.commit}"
        return self._files()

    @property
    def commit(self) -> str:
        """The revision that is read."""
        return (self.pin.revision if self.pin else "") or self.revision

    def outside(self) -> dict[str, Pin]:
        """The dataset at its revision, if it is on the Hub."""
        if os.path.isdir(self.path):
            return {}
        known = Pin(revision=self.commit) if is_commit(self.commit) else Pin()
        return {f"hf://datasets/{self.path}@{self.revision}": known}

    def pinned(self, pins: Mapping[str, Pin]) -> HfDataset:
        """The same at the commit that a lock knows."""
        for locator, known in self.outside().items():
            if locator in pins:
                return replace(self, pin=known.joined(pins[locator]))
        return self

    def pieces(self) -> list[Piece]:
        return [Piece(self.path, self.split, self.fingerprint())]

    def read(self, piece: Piece) -> Iterator[Document | Malformed]:
        import datasets

        try:
            rows = datasets.load_dataset(
                self.path,
                self.name,
                split=self.split,
                revision=self.commit or None,
                streaming=True,
            )
        except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
            raise Unavailable(f"{self.path} cannot be loaded ({error})") from error
        for number, row in enumerate(rows, 1):
            try:
                name = f"{piece.name}:{number}" if self.number_records else None
                yield as_document(row, self.source, self.fields, name, self.conversations)
            except ValueError as error:
                yield Malformed(piece.path, number, str(error))

    def digest_now(self, piece: Piece) -> str:
        return self.fingerprint()

    def _files(self) -> str:
        paths = sorted(p for p in Path(self.path).rglob("*") if p.is_file())
        return fingerprint_files(paths, [p.relative_to(self.path).as_posix() for p in paths])


def _rows_of(batch: Any) -> Iterator[Any]:
    """The rows of a batch; what is wrong with one that cannot be read, as text."""
    try:
        yield from batch.to_pylist()
        return
    except (ValueError, OverflowError):  # bytes that are not UTF-8, a date of the year 200,000
        pass
    for place in range(batch.num_rows):
        try:
            yield batch.slice(place, 1).to_pylist()[0]
        except (ValueError, OverflowError) as error:
            yield f"is not readable ({error})"


def _parsed(line: bytes) -> Any:
    """The value of a line, or what is wrong with it as text."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return f"not JSON ({error.msg} at {error.pos})"
    except ValueError as error:  # bytes that are not UTF-8, a number of 5,000 digits
        return f"not JSON ({error})"
    except RecursionError:
        return "not JSON (nested too deep)"
    return "is a str; it must be an object" if isinstance(row, str) else row
