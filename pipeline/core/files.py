"""The files of an artifact: written whole or not at all, and what a manifest says of each."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pipeline.core.errors import CorruptShard, damage
from pipeline.core.temporary import temporary_for

F = TypeVar("F", bound="StoredFile")

INDENTED_BYTES = 1 << 16  # of JSON that is written for people, level by level


@dataclass(frozen=True)
class StoredFile:
    """A file of an artifact: its place below the root, its size, and two digests.

    `content` is of what the file means (rows, ids, tensors); `sha256` only proves it whole.
    """

    path: str
    num_bytes: int
    content: str
    sha256: str

    def __post_init__(self) -> None:
        require_inside(self.path)
        if self.num_bytes < 0:
            raise ValueError(f"num_bytes is {self.num_bytes}; it must not be negative")

    def logical(self) -> dict[str, Any]:
        """What of this record belongs to the content of its artifact."""
        return {"content": self.content}

    @classmethod
    def of(cls: type[F], root: Path, path: str, content: str | None = None, **more: Any) -> F:
        """The record of the file at `root / path`; without `content`, its bytes are its content."""
        sha256 = file_sha256(root / path)
        size = (root / path).stat().st_size
        return cls(path=path, num_bytes=size, content=content or sha256, sha256=sha256, **more)

    def parts(self) -> Iterator[StoredFile]:
        """Every file that this record is of."""
        yield self

    def place(self, root: Path) -> Path:
        """Where the file is, as far as a look at its name and size can tell.

        Raises:
            CorruptShard: it is missing, no plain file of its own below `root`, or of another size.
        """
        path = Path(root) / self.path
        place = os.fspath(root)
        try:
            for part in PurePosixPath(self.path).parts:
                place = os.path.join(place, part)
                found = os.lstat(place)
                if stat.S_ISLNK(found.st_mode):
                    break
        except (OSError, ValueError) as error:
            raise damage(path, error, "is missing from its artifact") from error
        if not stat.S_ISREG(found.st_mode):
            raise CorruptShard(path, None, "is no plain file inside its artifact")
        if found.st_size != self.num_bytes:
            reason = f"has {found.st_size} bytes; its manifest says {self.num_bytes}"
            raise CorruptShard(path, None, reason)
        return path

    def verify(self, root: Path) -> None:
        """Check size and SHA-256.

        Raises:
            CorruptShard: the file is missing, is no plain file inside `root`, or differs.
        """
        path = self.place(root)
        if file_sha256(path) != self.sha256:
            raise CorruptShard(path, None, "its SHA-256 is not the one in its manifest")


def require_inside(path: str) -> None:
    """Raises ValueError for a path that is not relative, or that leads out of its folder."""
    parts = [each for each in path.split("/") if each not in ("", ".")]
    if path.startswith("/") or ".." in parts or not parts or "\\" in path or "\0" in path:
        raise ValueError(f"path is {path!r}; it must be relative and inside the artifact")


@dataclass(frozen=True)
class NamedFile(StoredFile):
    """A file whose name is part of the content, as in a model folder others open by name."""

    def logical(self) -> dict[str, Any]:
        return {"path": self.path, "content": self.content}


@dataclass(frozen=True)
class Shard(StoredFile):
    """A file of records; row i of shard k is one logical place in an artifact."""

    num_records: int = 0

    def logical(self) -> dict[str, Any]:
        return {"content": self.content, "num_records": self.num_records}


def write_json(path: Path, value: object) -> None:
    """Write a JSON file under a temporary name, sync it and rename it into place."""
    text = json.dumps(value, allow_nan=False)
    if len(text) < INDENTED_BYTES:
        text = json.dumps(value, indent=1)
    elif isinstance(value, dict):  # indenting a manifest of many shards takes many times as long
        text = "{\n" + ",\n".join(f"{json.dumps(k)}: {_lines(v)}" for k, v in value.items()) + "\n}"
    write_file(path, f"{text}\n".encode())


def _lines(value: object) -> str:
    """JSON with an item of a list a line."""
    if not isinstance(value, list) or not value:
        return json.dumps(value)
    return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"


def write_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, sync it and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # a full disk most of all
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        state = hashlib.sha256()
        while block := file.read(1 << 20):
            state.update(block)
        return state.hexdigest()
