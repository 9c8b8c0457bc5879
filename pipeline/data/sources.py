"""Where documents come from: a source is a list of pieces, each read apart and remembered apart."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from pipeline.core.errors import CorruptShard, Unavailable, nearest
from pipeline.core.fingerprints import file_digests, fingerprint_files, is_url, open_outside
from pipeline.data.document import DOCUMENT_SCHEMA, Document, json_text

Conversations = Literal["messages", "preferences"]
FIELDS = ("id", "text", "added", "created", "metadata")


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


@dataclass(frozen=True)
class _Files:
    """Files of records, local by a glob pattern or remote by URL.

    Args:
        path: a path, glob pattern or URL, or several.
        source: the name its documents carry.
        fields: our field -> theirs, where the names differ.
        number_records: give the ids `<file>:<number of the record from 1>`.
        conversations: `messages`: the record has a list of them, and no text of its own;
            `preferences`: it has a prompt, a chosen and a rejected answer, or conversations.
        revision: of what a URL names, so that a key can tell that it changed.
    """

    path: str | list[str]
    source: str
    licence: str = "unknown"
    provenance: str = "unknown"
    fields: dict[str, str] = field(default_factory=dict)
    number_records: bool = False
    conversations: Conversations | None = None
    revision: str = ""

    VERSION: ClassVar[str] = "001"
    UNKEYED: ClassVar[tuple[str, ...]] = ("path",)  # the fingerprint says which bytes they are

    def __post_init__(self) -> None:
        _check_fields(self.fields)
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
        urls = [piece.path for piece in pieces if not piece.digest]
        if urls:
            return "; ".join([*urls, f"revision {self.revision}"])
        return fingerprint_files([Path(p.path) for p in pieces], [p.name for p in pieces])

    def pieces(self) -> list[Piece]:
        return self.pieces_of(self.listed())

    def listed(self) -> list[tuple[str, str]]:
        """Path or URL of each part, and its name; no file is opened."""
        found: list[tuple[str, str]] = []
        for each in self._paths():
            if is_url(each):
                found.append((each, each.rsplit("/", 1)[-1]))
                continue
            found += [(p, os.path.relpath(p, _fixed_part(each))) for p in _matches(each)]
        return found

    def pieces_of(self, listed: Sequence[tuple[str, str]]) -> list[Piece]:
        """Some of what `listed` gives, with the digests of these files alone."""
        here = [path for path, _ in listed if not is_url(path)]
        digests = dict(zip(here, file_digests([Path(path) for path in here]), strict=True))
        return [Piece(path, name, digests.get(path, "")) for path, name in listed]

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
        with _reading(piece.path), open_outside(piece.path) as file:
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
            with _reading(piece.path), open_outside(piece.path) as file:
                number = 0
                for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except pa.ArrowInvalid as error:
            raise CorruptShard(piece.path, None, f"not readable ({error})") from error


@dataclass(frozen=True)
class HfDataset:
    """A dataset of the Hugging Face Hub, or one in a local folder, read as a stream.

    Args:
        path: what `datasets.load_dataset` takes: a name on the Hub or a folder.
        revision: a commit of the Hub's repository; needed unless `path` is a folder.
        fields: our field -> theirs, where the names differ; other columns go into the metadata.
        number_records: give the ids `<split>:<number of the record from 1>`.
        conversations: as for files.
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

    VERSION: ClassVar[str] = "001"
    UNKEYED: ClassVar[tuple[str, ...]] = ("path",)

    def __post_init__(self) -> None:
        _check_fields(self.fields)
        if not self.revision and not os.path.isdir(self.path):
            raise ValueError(f"revision is missing; {self.path!r} is no folder of this machine")

    def fingerprint(self) -> str:
        if not os.path.isdir(self.path):
            return f"{self.path} revision {self.revision}"
        return self._files()

    def pieces(self) -> list[Piece]:
        digest = self._files() if os.path.isdir(self.path) else f"revision {self.revision}"
        return [Piece(self.path, self.split, digest)]

    def read(self, piece: Piece) -> Iterator[Document | Malformed]:
        import datasets

        try:
            rows = datasets.load_dataset(
                self.path,
                self.name,
                split=self.split,
                revision=self.revision or None,
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

    def _files(self) -> str:
        paths = sorted(p for p in Path(self.path).rglob("*") if p.is_file())
        return fingerprint_files(paths, [p.relative_to(self.path).as_posix() for p in paths])


def as_document(
    row: Any,
    source: str,
    fields: Mapping[str, str],
    name: str | None = None,
    conversations: Conversations | None = None,
) -> Document:
    """The document in a record; what is not a field of its own goes into the metadata.

    Raises:
        ValueError: the record is no object, lacks its id or text, or has one of a wrong type.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"is a {type(row).__name__}; it must be an object")
    rest = with_conversation(row, conversations) if conversations else dict(row)
    rest.pop("source", None)
    values = {each: rest.pop(fields.get(each, each), None) for each in FIELDS}
    if name is not None:
        values["id"] = name
    for each in ("id", "text"):
        if values[each] is None:
            raise ValueError(f"has no {fields.get(each, each)!r}")
    for each in ("id", "text", "added", "created"):
        value = values[each] if values[each] is not None else ""
        if each not in ("id", "text") and hasattr(value, "isoformat"):
            value = value.isoformat()
        if not isinstance(value, str):
            raise ValueError(f"{fields.get(each, each)!r} is {value!r}; it must be text")
        require_text(value, fields.get(each, each))
        values[each] = value
    if not values["id"]:
        raise ValueError("'id' is empty")
    metadata = values["metadata"] if values["metadata"] is not None else {}
    if not isinstance(metadata, Mapping):
        raise ValueError(f"'metadata' is a {type(metadata).__name__}; it must be an object")
    if both := sorted(metadata.keys() & rest.keys()):
        raise ValueError(f"{both[0]!r} stands in the record and in its metadata")
    try:
        text = json_text({**metadata, **rest})
        require_text(text, "metadata")
    except (TypeError, ValueError) as error:
        raise ValueError(f"'metadata' has no JSON form ({error})") from error
    return Document(values["id"], values["text"], source, values["added"], values["created"], text)


def with_conversation(row: Mapping[str, Any], kind: Conversations) -> dict[str, Any]:
    """The record with a text of all that is said in it, and a preference in our own form.

    Ours: `prompt` is a list of messages, `chosen` and `rejected` are the answers alone.

    Raises:
        ValueError: it has no such conversation.
    """
    made = dict(row)
    try:
        if kind == "messages":
            made["text"] = "\n\n".join(each["content"] for each in made["messages"])
            return made
        prompt = made["prompt"]
        if isinstance(prompt, str):
            made["prompt"] = [{"role": "user", "content": prompt}]
        for side in ("chosen", "rejected"):
            if not isinstance(made[side], str):
                made[side] = made[side][-1]["content"]
        said = [*(each["content"] for each in made["prompt"]), made["chosen"], made["rejected"]]
        made["text"] = "\n\n".join(said)
    except (KeyError, TypeError, IndexError) as error:
        missing = f"{type(error).__name__}: {error}"
        raise ValueError(f"has no conversation of kind {kind!r} ({missing})") from error
    return made


def require_text(value: str, name: str) -> None:
    """Raises ValueError for half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name!r} has half a surrogate pair at {error.start}") from None


def _check_fields(fields: Mapping[str, str]) -> None:
    for each in fields:
        if each not in FIELDS:
            raise ValueError(f"fields has {each!r}{nearest(each, DOCUMENT_SCHEMA.names)}")


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
