"""Files that documents are read from: which there are, what they are called, and their digests."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from pipeline.core.errors import CorruptShard, PipelineError, Unavailable
from pipeline.core.fingerprints import check_scheme, file_digests, is_url, require_known
from pipeline.core.keys import digest
from pipeline.core.pins import Pin
from pipeline.data.document import Document
from pipeline.data.sources.records import Conversations, as_document, check_fields, excerpt_of

BLOCK_BYTES = 1 << 20
# Of one line or file. What a small file can be blown up to does not fill the memory.
MAX_RECORD_BYTES = 256 << 20
HOST_PACKAGES = ("requests", "urllib3", "http", "socket", "botocore", "boto3", "google")


class Piece(NamedTuple):
    """A part of a source that is read as one: where it is, its name, and the digest of its bytes.

    `digest` is "" for what this machine does not hold; such a piece is read whenever it is asked
    for. `files` are path and name of those that are read as one, if they are several.
    """

    path: str
    name: str
    digest: str = ""
    files: tuple[tuple[str, str], ...] = ()


class Placed(Document):
    """A document that knows the number of its record, from 1."""

    record: int

    @classmethod
    def at(cls, record: int, document: Document) -> Placed:
        placed = tuple.__new__(cls, document)
        placed.record = record
        return placed


class Malformed(NamedTuple):
    """A record that is no document, why, and how it begins."""

    path: str
    record: int | str
    reason: str
    excerpt: str = ""


class Skipped(NamedTuple):
    """A record in which no document was looked for, or in which there is none; only counted."""

    path: str
    record: int | str
    reason: str


F = TypeVar("F", bound="Files")


@dataclass(frozen=True)
class Files:
    """Files, local by a glob pattern or remote by URL; each is a piece.

    Args:
        path: a path, glob pattern or URL, or several.
        source: the name its documents carry.
        revision: of what a URL names, so that a key can tell that it changed.
        pins: what the lock beside the experiment knows of the URLs; a download is held to it.
    """

    path: str | list[str]
    source: str
    licence: str = "unknown"
    provenance: str = "unknown"
    revision: str = ""
    pins: dict[str, Pin] = field(default_factory=dict)

    VERSION: ClassVar[str] = "001"
    # the fingerprint says which bytes they are
    UNKEYED: ClassVar[tuple[str, ...]] = ("path", "revision", "pins")

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError("source is ''; it must be a name")
        if not self._paths():
            raise ValueError("path is []; it must name a file")
        for each in self._paths():
            check_scheme(each)
            if is_url(each) and "*" in each.split("?", 1)[0]:
                raise ValueError(
                    f"path is {each!r}; a URL is of one file, so that it can be pinned: "
                    "patterns are for this machine"
                )
            if not is_url(each) and not _matches(each):
                raise ValueError(f"path is {each!r}, which matches no file")

    def fingerprint(self) -> str:
        """Equal for equal names and bytes; a URL stands for what is known of it.

        Raises:
            ValueError: nothing is known of a URL.
        """
        for url, known in self.outside().items():
            require_known(url, self.revision, known)
        pieces = self.pieces()
        if all(piece.digest for piece in pieces):
            return digest([[piece.name, piece.digest] for piece in pieces])
        named = [each for piece in pieces for each in piece.files or [(piece.path, piece.name)]]
        singly = self.pieces_of([Piece(path, name) for path, name in named])
        told = [each.path if is_url(each.path) else each.digest for each in singly]
        return "; ".join([*told, f"revision {self.revision}", *map(str, self.pins.values())])

    def pieces(self) -> list[Piece]:
        """The parts in their order, with the digests of their bytes."""
        return self.pieces_of(self.listed())

    def listed(self) -> list[Piece]:
        """The parts without digests; no file is opened."""
        return [Piece(path, name) for path, name in self._found()]

    def pieces_of(self, listed: Sequence[Piece]) -> list[Piece]:
        """Some of what `listed` gives, with the digests of these files alone."""
        named = [each.files or ((each.path, each.name),) for each in listed]
        here = [path for files in named for path, _ in files if not is_url(path)]
        digests = dict(zip(here, file_digests([Path(path) for path in here]), strict=True))
        found = []
        for each, files in zip(listed, named, strict=True):
            own = [digests.get(path) or self._pinned_digest(path) for path, _ in files]
            if each.files:
                named_too = [[name, one] for (_, name), one in zip(files, own, strict=True)]
                own = [digest(named_too) if all(own) else ""]
            found.append(each._replace(digest=own[0]))
        return found

    def digest_now(self, piece: Piece) -> str:
        """The digest that the part has now; "" if it is not there any more."""
        try:
            return self.pieces_of([piece])[0].digest
        except FileNotFoundError:
            return ""

    def outside(self) -> dict[str, Pin]:
        """The URLs, with what is known of each."""
        return {each: self.pins.get(each, Pin()) for each in self._paths() if is_url(each)}

    def pinned(self: F, pins: Mapping[str, Pin]) -> F:
        """The same with what a lock knows of its URLs."""
        known = self.outside()
        found = {each: own.joined(pins[each]) for each, own in known.items() if each in pins}
        return replace(self, pins={**self.pins, **found}) if found else self

    def _found(self) -> list[tuple[str, str]]:
        """Path or URL of each file, and its name below the fixed part of its pattern."""
        found: list[tuple[str, str]] = []
        for each in self._paths():
            if is_url(each):
                found.append((each, each.rsplit("/", 1)[-1]))
                continue
            above = _fixed_part(each)
            found += [(path, os.path.relpath(path, above)) for path in _matches(each)]
        return told_apart(found)

    def _pinned_digest(self, url: str) -> str:
        """The digest of a URL's bytes if that is pinned, else what is, with the URL; or ""."""
        pin = self.pins.get(url, Pin())
        return pin.sha256 or (f"{url} {pin}" if str(pin) else "")

    def _paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else self.path


@dataclass(frozen=True)
class RecordFiles(Files):
    """Files of records with a field for each of a document's own.

    Args:
        fields: our field -> theirs, where the names differ.
        number_records: give the ids `<file>:<number of the record from 1>`.
        conversations: `messages`: the record has a list of them, and no text of its own;
            `preferences`: it has a prompt, a chosen and a rejected answer, or, for these, whole
            conversations that differ in their last message.
        leave_out: their fields that are not kept in the metadata.
    """

    fields: dict[str, str] = field(default_factory=dict)
    number_records: bool = False
    conversations: Conversations | None = None
    leave_out: list[str] = field(default_factory=list)

    VERSION: ClassVar[str] = "003"

    def __post_init__(self) -> None:
        check_fields(self.fields, self.leave_out)
        super().__post_init__()

    def read(self, piece: Piece) -> Iterator[Document | Malformed]:
        """The documents of one file, in order."""
        for number, row in self._rows(piece):
            yield self._document(piece, number, row)

    def _document(self, piece: Piece, number: int, row: Any) -> Document | Malformed:
        """Of a row, or of what is wrong with it as text."""
        if isinstance(row, str):
            return Malformed(piece.path, number, row)
        name = f"{piece.name}:{number}" if self.number_records else None
        try:
            found = as_document(
                row, self.source, self.fields, name, self.conversations, self.leave_out
            )
            return Placed.at(number, found)
        except ValueError as error:
            return Malformed(piece.path, number, str(error), excerpt_of(row))

    def _rows(self, piece: Piece) -> Iterator[tuple[int, Any]]:
        """Number from 1 and row, or what is wrong with it as text."""
        raise NotImplementedError


def told_apart(found: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same paths with names by which they differ: of those of one name, with their folders.

    A file's is then its place below the folder that all of its name share; a URL's is all of it.
    """
    by_name: dict[str, set[str]] = {}
    for path, name in found:
        by_name.setdefault(name, set()).add(path)
    names = {}
    for paths in by_name.values():
        if len(paths) > 1:
            here = [each for each in paths if not is_url(each)]
            shared = os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in here or "."])
            for path in paths:
                place = path.split("://", 1)[1] if is_url(path) else os.path.relpath(path, shared)
                names[path] = place
    return [(path, names.get(path, name)) for path, name in found]


def numbered_lines(file: Any) -> Iterator[tuple[int, bytes | None]]:
    """Number from 1 and bytes of each line; None for one that is too long to be held."""
    number, size = 1, 0
    begun: list[bytes] = []  # of the line that the end of a block cuts
    while block := file.read(BLOCK_BYTES):
        *lines, rest = block.split(b"\n")
        for line in lines:
            if size:
                whole, begun, size = _joined(begun, line, size), [], 0
                yield number, whole
            else:
                yield number, line
            number += 1
        size += len(rest)
        if size <= MAX_RECORD_BYTES:
            begun.append(rest)
        else:
            begun.clear()
    if size:
        yield number, _joined(begun, b"", size)


def _joined(begun: list[bytes], line: bytes, size: int) -> bytes | None:
    return b"".join([*begun, line]) if size + len(line) <= MAX_RECORD_BYTES else None


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


class reading:
    """Names the file in what goes wrong while it is read: damage, or a host out of reach."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, PipelineError):
            return
        if is_url(self.path) and any(map(_of_a_host, (error, error.__cause__))):
            raise Unavailable(f"{self.path} cannot be read ({error})") from error
        damaged = type(error).__name__ in ("IsalError", "LZMAError", "ZstdError")
        damaged |= type(error).__module__ == "zlib"
        if damaged or isinstance(error, (OSError, EOFError)):
            cut = isinstance(error, EOFError) and "end-of-stream marker" in str(error)
            said = "it is cut off, or other bytes follow its end" if cut else str(error)
            raise CorruptShard(self.path, None, f"not readable ({said})") from error


def _of_a_host(error: BaseException | None) -> bool:
    """Whether it is an error of a connection, or of a package that speaks with hosts."""
    package = type(error).__module__.split(".", 1)[0]
    return isinstance(error, (ConnectionError, TimeoutError)) or package in HOST_PACKAGES
