"""Entries of a remote cache: one JSON object says all of a result, and is checked before use.

An entry holds the result's manifest, key and record, and each of its files by path, size and
SHA-256. It comes from a place that others write to, so nothing in it is believed: a path that
leaves the result, a manifest that is not of its files or a key that is not of its id is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core.artifacts import (
    MANIFEST,
    Artifact,
    Checkpoints,
    StoredFile,
    TokenMix,
    file_sha256,
    write_json,
)
from pipeline.core.errors import CorruptShard
from pipeline.core.keys import Json
from pipeline.store.results import FAILURE, ID, KEY, RECORD, result_id

OWN = (MANIFEST, KEY, RECORD, FAILURE)  # in a result's folder, and not among its files
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Listed:
    """A file of a result: its path below the result's folder, and what its bytes are."""

    path: str
    num_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if type(self.num_bytes) is not int or type(self.path) is not str:
            raise ValueError(f"{self.path!r} has {self.num_bytes!r} bytes")
        StoredFile(self.path, self.num_bytes, "", self.sha256)
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 is {self.sha256!r}; it must be 64 hexadecimal digits")
        if PurePosixPath(self.path).as_posix() != self.path or "\0" in self.path:
            raise ValueError(f"path is {self.path!r}; it must be written in its plain form")

    @property
    def place(self) -> str:
        """Where its bytes stand in the remote."""
        return f"files/{self.sha256[:2]}/{self.sha256}"


@dataclass(frozen=True)
class Entry:
    """What the remote says of a result."""

    manifest: dict[str, Json]
    key: dict[str, Json]
    record: dict[str, Json]
    files: list[Listed]
    checkpoints: dict[str, list[Listed]] = field(default_factory=dict)  # of a training result

    @property
    def num_bytes(self) -> int:
        return sum(each.num_bytes for each in self.every_file())

    def every_file(self) -> list[Listed]:
        """The files of the result and those of its checkpoints."""
        return [*self.files, *(each for files in self.checkpoints.values() for each in files)]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of(folder: Path, made: Artifact) -> Entry:
        """The entry of a result that stands in `folder`.

        Raises:
            CorruptShard: a file is missing or has another size than its manifest says.
        """
        known = _known(made)
        files = _listed(folder, known, leave_out=OWN)
        for path in known.keys() - {each.path for each in files}:
            raise CorruptShard(folder / path, None, "the file is missing from its artifact")
        checkpoints = {}
        if isinstance(made, Checkpoints):
            for each in made.steps:
                place = made.folder(each)
                checkpoints[place.name] = _listed(place, {})
        key, record = (_read(folder / name) for name in (KEY, RECORD))
        return Entry(made.to_json(), key, record, files, checkpoints)

    @staticmethod
    def parse(value: dict[str, Any], id: str, place: str) -> Entry:
        """An entry from its JSON, held against everything that can be known without its files.

        Raises:
            CorruptShard: it is none, or not one of the result `id`.
        """
        try:
            if value.keys() != {"manifest", "key", "record", "files", "checkpoints"}:
                raise ValueError(f"its fields are {sorted(value)}")
            checkpoints = {name: _files(each) for name, each in value["checkpoints"].items()}
            entry = Entry(
                dict(value["manifest"]),
                dict(value["key"]),
                dict(value["record"]),
                _files(value["files"], OWN),
                checkpoints,
            )
            if result_id(entry.key) != id:
                raise ValueError(f"its key is that of {result_id(entry.key)}")
            return entry
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptShard(place, None, f"not the entry of {id} ({error})") from error

    def load(self, folder: Path, place: str) -> Artifact:
        """Write the manifest to `folder` and read it; its files come later.

        Raises:
            CorruptShard: it is no manifest, or its files or checkpoints are not those of the entry.
        """
        write_json(folder / MANIFEST, self.manifest)
        made = Artifact.load(folder)  # opens nothing that it names
        held = {each.path: (each.num_bytes, each.sha256) for each in self.files}
        for path, known in _known(made).items():
            if held.get(path) != known:
                reason = f"its manifest has {path}, {known[0]} bytes; its entry has not"
                raise CorruptShard(place, None, reason)
        if isinstance(made, Checkpoints):
            names = [made.folder(each).name for each in made.steps]
            if made.series_root and [*self.checkpoints] != names:
                raise CorruptShard(place, None, "its checkpoints are not those of its manifest")
        elif self.checkpoints:
            raise CorruptShard(place, None, "it has checkpoints and is not of a training")
        references(made)
        return made


def references(made: Artifact) -> list[str]:
    """Ids of the results whose files a manifest names by their place.

    Raises:
        CorruptShard: it names a place that is not a result's.
    """
    found = []
    for each in made.locations if isinstance(made, TokenMix) else []:
        *way, id = PurePosixPath(each).parts
        if tuple(way) not in ((*[".."],), ("..", "..", "cache")) or not ID.fullmatch(id):
            raise CorruptShard(made.root / MANIFEST, None, f"{each!r} is not the place of a result")
        found.append(id)
    return found


def _known(made: Artifact) -> dict[str, tuple[int, str]]:
    """Path -> size and SHA-256 of each file that a manifest names."""
    return {each.path: (each.num_bytes, each.sha256) for each in made.files()}


def _listed(
    folder: Path, known: dict[str, tuple[int, str]], leave_out: Iterable[str] = ()
) -> list[Listed]:
    """The files in a folder but hidden ones; those that a manifest knows are not read."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts) or name.as_posix() in leave_out:
            continue
        if path.is_symlink() or not path.is_file():
            continue
        size = path.stat().st_size
        num_bytes, sha256 = known.get(name.as_posix()) or (size, file_sha256(path))
        if size != num_bytes:
            raise CorruptShard(path, None, f"has {size} bytes; its manifest says {num_bytes}")
        found.append(Listed(name.as_posix(), num_bytes, sha256))
    return found


def _files(value: list[dict[str, Any]], refused: Iterable[str] = ()) -> list[Listed]:
    files = [Listed(**each) for each in value]
    paths = {each.path for each in files}
    if len(paths) != len(files):
        raise ValueError("it names a file twice")
    for each in files:
        above = {parent.as_posix() for parent in PurePosixPath(each.path).parents}
        if each.path in refused or above & paths:
            raise ValueError(f"{each.path!r} cannot be a file of a result")
    return files


def _read(path: Path) -> dict[str, Json]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptShard(path, None, f"not readable ({error})") from error
    if not isinstance(value, dict):
        raise CorruptShard(path, None, "not a JSON object")
    return value
