"""Where documents come from: a source is a list of pieces, each read apart and remembered apart."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.core.errors import CorruptShard
from pipeline.core.fingerprints import fetch, is_url, open_outside
from pipeline.core.shards import UNREADABLE
from pipeline.data.document import Document
from pipeline.data.sources.files import MAX_RECORD_BYTES, RecordFiles, numbered_lines, reading
from pipeline.data.sources.files import Malformed as Malformed
from pipeline.data.sources.files import Piece as Piece
from pipeline.data.sources.files import Skipped as Skipped
from pipeline.data.sources.parquet_rows import parquet_rows

EXCERPT_BYTES = 200  # of a line that is no document


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
                    found = found if known else self._document(piece, number, _parsed(line))
                    if isinstance(found, Malformed):
                        begun = line[:EXCERPT_BYTES].decode(errors="replace")
                        found = found._replace(excerpt=begun)
                    yield found


@dataclass(frozen=True)
class ParquetFiles(RecordFiles):
    """Parquet files with a column a field; other columns go into the metadata.

    A row of more than 256 MiB is malformed.
    """

    def _rows(self, piece: Piece) -> Iterator[tuple[int, Any]]:
        try:
            with reading(piece.path), self._opened(piece.path) as file:
                yield from enumerate(parquet_rows(file), 1)
        except UNREADABLE as error:
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
    return "is a text; it must be an object" if isinstance(row, str) else row
