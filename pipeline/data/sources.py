"""Where documents come from: a source is a list of pieces, each read apart and remembered apart."""

from __future__ import annotations

import glob
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

from pipeline.core.errors import CorruptShard, Unavailable
from pipeline.core.fingerprints import (
    fetch,
    file_digests,
    fingerprint_files,
    is_url,
    open_outside,
)
from pipeline.core.keys import digest
from pipeline.core.pins import Pin, is_commit
from pipeline.data.document import Document
from pipeline.data.records import Conversations, as_document, check_fields


class Piece(NamedTuple):
    """A part of a source that is read as one: where it is, its name, and the digest of its bytes.

    `digest` is "" for what this machine does not hold; such a piece is read whenever it is asked
    for.
    """

    path: str
    name: str
    digest: str


class Malformed(NamedTuple):
    """A record that is no document, and why."""

    path: str
    record: int | str
    reason: str


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

    def read(self, piece: Piece) -> Iterator[Document | Malformed]:
        """The documents of one part, in order."""
        ...

    def digest_now(self, piece: Piece) -> str:
        """The digest that the part would have in `pieces` now: another one if its bytes changed."""
        ...


F = TypeVar("F", bound="_Files")


@dataclass(frozen=True)
class _Files:
    """Files of records, local by a glob pattern or remote by URL.

    Args:
        path: a path, glob pattern or URL, or several.
        source: the name its documents carry.
        fields: our field -> theirs, where the names differ.
        number_records: give the ids `<file>:<number of the record from 1>`.
        conversations: `messages`: the record has a list of them, and no text of its own;
            `preferences`: it has a prompt, a chosen and a rejected answer, or, for these, whole
            conversations that differ in their last message.
        revision: of what a URL names, so that a key can tell that it changed.
        pins: what the lock beside the experiment knows of the URLs; a download is held to it.
    """

    path: str | list[str]
    source: str
    licence: str = "unknown"
    provenance: str = "unknown"
    fields: dict[str, str] = field(default_factory=dict)
    number_records: bool = False
    conversations: Conversations | None = None
    revision: str = ""
    pins: dict[str, Pin] = field(default_factory=dict)

    VERSION: ClassVar[str] = "002"
    # the fingerprint says which bytes they are
    UNKEYED: ClassVar[tuple[str, ...]] = ("path", "revision", "pins")

    def __post_init__(self) -> None:
        check_fields(self.fields)
        if not self.source:
            raise ValueError("source is ''; it must be a name")
        for each in self._paths():
            if is_url(each):
                if not self.revision:
                    raise ValueError(f"revision is missing; {each!r} is not on this machine")
            elif not _matches(each):
                raise ValueError(f"path is {each!r}, which matches no file")

    def fingerprint(self) -> str:
        pieces = self.pieces()
        if all(piece.digest for piece in pieces):
            return digest([[piece.name, piece.digest] for piece in pieces])
        told = [piece.path if is_url(piece.path) else piece.digest for piece in pieces]
        return "; ".join([*told, f"revision {self.revision}", *map(str, self.pins.values())])

    def pieces(self) -> list[Piece]:
        return self.pieces_of(self.listed())

    def listed(self) -> list[tuple[str, str]]:
        """Path or URL of each part, and its name; no file is opened."""
        found: list[tuple[str, str]] = []
        for each in self._paths():
            if is_url(each):
                found.append((each, each.rsplit("/", 1)[-1]))
                continue
            above = _fixed_part(each)
            found += [(path, os.path.relpath(path, above)) for path in _matches(each)]
        return found

    def pieces_of(self, listed: Sequence[tuple[str, str]]) -> list[Piece]:
        """Some of what `listed` gives, with the digests of these files alone."""
        here = [path for path, _ in listed if not is_url(path)]
        digests = dict(zip(here, file_digests([Path(path) for path in here]), strict=True))
        return [
            Piece(path, name, digests.get(path) or self._pinned_digest(path))
            for path, name in listed
        ]

    def read(self, piece: Piece) -> Iterator[Document | Malformed]:
        for number, row in self._rows(piece):
            if isinstance(row, str):
                yield Malformed(piece.path, number, row)
                continue
            try:
                name = f"{piece.name}:{number}" if self.number_records else None
                yield as_document(row, self.source, self.fields, name, self.conversations)
            except ValueError as error:
                yield Malformed(piece.path, number, str(error))

    def digest_now(self, piece: Piece) -> str:
        return self.pieces_of([(piece.path, piece.name)])[0].digest

    def outside(self) -> dict[str, Pin]:
        """The URLs, with what is known of each."""
        return {each: self.pins.get(each, Pin()) for each in self._paths() if is_url(each)}

    def pinned(self: F, pins: Mapping[str, Pin]) -> F:
        """The same with what a lock knows of its URLs."""
        known = self.outside()
        found = {each: own.joined(pins[each]) for each, own in known.items() if each in pins}
        return replace(self, pins={**self.pins, **found}) if found else self

    def _pinned_digest(self, url: str) -> str:
        """The digest of a URL's bytes if that is pinned, else what is, with the URL; or ""."""
        pin = self.pins.get(url, Pin())
        return pin.sha256 or (f"{url} {pin}" if str(pin) else "")

    def _paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else self.path

    def _rows(self, piece: Piece) -> Iterator[tuple[int, Any]]:
        """Number from 1 and row, or what is wrong with it as text."""
        raise NotImplementedError


@dataclass(frozen=True)
class Jsonl(_Files):
    """JSON Lines in Dolma's format, compressed as their names say (.gz, .zst, .bz2, .xz).

    Fields other than a document's own go into its metadata.

    Source: allenai/dolma, `docs/data-format.md`.
    """

    def _rows(self, piece: Piece) -> Iterator[tuple[int, Any]]:
        with _reading(piece.path), open_outside(piece.path, self.pins.get(piece.path)) as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    yield number, json.loads(line)
                except json.JSONDecodeError as error:
                    yield number, f"not JSON ({error.msg} at {error.pos})"
                except ValueError as error:  # bytes that are not UTF-8, a number of 5,000 digits
                    yield number, f"not JSON ({error})"
                except RecursionError:
                    yield number, "not JSON (nested too deep)"


@dataclass(frozen=True)
class ParquetFiles(_Files):
    """Parquet files with a column a field; other columns go into the metadata."""

    def _rows(self, piece: Piece) -> Iterator[tuple[int, Any]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with _reading(piece.path), self._opened(piece.path) as file:
                number = 0
                for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except pa.ArrowInvalid as error:
            raise CorruptShard(piece.path, None, f"not readable ({error})") from error

    def _opened(self, path: str) -> Any:
        """A file whose parts can be read in any order; one that is pinned is fetched whole."""
        pin = self.pins.get(path)
        if pin is None:
            return open_outside(path)
        file = tempfile.TemporaryFile()
        try:
            fetch(path, file, pin)
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


def _matches(pattern: str) -> list[str]:
    if os.path.isfile(pattern):  # a name may hold the signs of a pattern
        return [pattern]
    return sorted(p for p in glob.glob(pattern, recursive=True) if os.path.isfile(p))


def _fixed_part(pattern: str) -> str:
    """The folder that a pattern's own signs begin below."""
    if os.path.isfile(pattern):
        return os.path.dirname(pattern) or "."
    parts: list[str] = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return os.path.join(*parts) if parts else "."


class _reading:
    """Names the file in what goes wrong while it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (OSError, EOFError)) and not isinstance(error, CorruptShard):
            raise CorruptShard(self.path, None, f"not readable ({error})") from error
        if type(error).__module__ == "zlib" or type(error).__name__ == "LZMAError":
            raise CorruptShard(self.path, None, f"not readable ({error})") from error
