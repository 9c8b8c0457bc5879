"""Entries of a remote cache: one JSON object says all of a result, and is checked before use.

An entry holds the result's manifest, key and record, and each of its files by path, size and
SHA-256. It comes from a place that others write to, so nothing in it is believed: a path that
leaves the result, a manifest that is not of its files or a key that is not of its id is refused.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core.artifacts import MANIFEST, Artifact, Checkpoints, TokenMix
from pipeline.core.errors import CorruptShard
from pipeline.core.files import require_inside, write_json
from pipeline.core.keys import Json
from pipeline.core.untrusted import built
from pipeline.store.checkpoints import checkpoint_files
from pipeline.store.inventory import FILES, FileState, is_id
from pipeline.store.results import FAILURE, KEY, RECORD, Results, result_id
from pipeline.store.tensors import kind_of

OWN = frozenset({MANIFEST, KEY, RECORD, FILES, FAILURE})  # what an entry has no bytes of
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHECKPOINT = re.compile(r"[0-9a-f]{64}/step[0-9]+/[^/]+")


@dataclass(frozen=True)
class Stored:
    """The bytes of a file; in the remote they have their digest as their name."""

    num_bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 is {self.sha256[:80]!r}; it must be 64 hexadecimal digits")

    @property
    def place(self) -> str:
        return f"files/{self.sha256[:2]}/{self.sha256}"


@dataclass(frozen=True)
class Entry:
    """What the remote says of a result.

    Args:
        files: by their path in the result's folder, but for what is in the entry.
        series: files of checkpoints that it shows, by their path in the folder of all series.
        references: ids of the results whose files it reads from where they stand.
    """

    manifest: dict[str, Any]
    key: dict[str, Any]
    record: dict[str, Any]
    files: dict[str, Stored]
    series: dict[str, Stored]
    references: list[str]

    def __post_init__(self) -> None:
        _require_paths(self.files)
        _require_paths(self.series)
        for each in self.files:
            if each in OWN:
                raise ValueError(f"files names {each!r}, which is none of a result's")
        for each in self.series:
            if not _CHECKPOINT.fullmatch(each):
                raise ValueError(f"series names {each!r}, which is no file of a checkpoint")
        for each in self.references:
            if not is_id(each):
                raise ValueError(f"references names {each!r}, which is no id of a result")

    @property
    def num_bytes(self) -> int:
        return sum(each.num_bytes for each in (*self.files.values(), *self.series.values()))

    @property
    def content_key(self) -> str | None:
        """Under which it is remembered; None where it does not say."""
        found = self.record.get("content_key")
        return found if isinstance(found, str) and _SHA256.fullmatch(found) else None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, results: Results, id: str) -> Entry:
        """The entry of a result that stands here.

        Raises:
            KeyError: there is none.
            CorruptShard: it is damaged.
        """
        made, inventory = results.load(id), results.inventory(id)
        return cls(
            made.to_json(),
            results.key(id) or {},
            results.record(id),
            {
                name: Stored(each.num_bytes, each.sha256)
                for name, each in inventory.files.items()
                if name not in OWN
            },
            {name: Stored(e.num_bytes, e.sha256) for name, e in inventory.series.items()}
            | dict(_states(made)),
            inventory.references,
        )

    @classmethod
    def parse(cls, value: dict[str, Json], id: str, place: str) -> Entry:
        """An entry from its JSON, held against everything that can be known without its files.

        Raises:
            CorruptShard: it is none, or not one of the result `id`.
        """
        try:
            entry: Entry = built(cls, value, "entry")
            if (found := result_id(entry.key)) != id:
                raise ValueError(f"its key is that of {found}")
            return entry
        except (LookupError, ValueError, TypeError, RecursionError) as error:
            raise CorruptShard(place, None, f"not the entry of {id} ({error})") from error

    def load(self, folder: Path, place: str) -> Artifact:
        """Write the manifest to `folder` and read it; its files come later.

        Raises:
            CorruptShard: it is no manifest, or the files, checkpoints or results that it names are
                not those of the entry.
        """
        write_json(folder / MANIFEST, self.manifest)
        made = Artifact.load(folder)  # opens nothing that it names
        for each in made.files():
            held = self.files.get(os.path.normpath(each.path))
            if held is None or (held.num_bytes, held.sha256) != (each.num_bytes, each.sha256):
                reason = f"its manifest has {each.path}, {each.num_bytes} bytes; its files have not"
                raise CorruptShard(place, None, reason)
        if checkpoints(made) != {path.rsplit("/", 1)[0] for path in self.series}:
            raise CorruptShard(place, None, "its checkpoints are not those of its manifest")
        if _drawn_on(made, place) != set(self.references):
            raise CorruptShard(place, None, "its references are not those of its manifest")
        return made


def checkpoints(made: Artifact) -> set[str]:
    """The folders of the checkpoints that an artifact shows, below that of all series."""
    if not isinstance(made, Checkpoints):
        return set()
    return {f"{made.series}/{made.folder(each).name}" for each in made.steps}


def _states(made: Artifact) -> Iterator[tuple[str, Stored]]:
    """The optimizer's states beside the weights that an artifact shows, unless they were dropped.

    No result relies on them; where it is pulled, training goes on from them.
    """
    if not isinstance(made, Checkpoints):
        return
    for each in made.steps:
        folder = made.folder(each)
        for name, sha256 in checkpoint_files(folder, each.weights).items():
            if kind_of(name) == "optimizer" and sha256 is not None:
                state = FileState.of(folder / name, sha256)
                path = (folder / name).relative_to(made.series_root.parent).as_posix()
                yield path, Stored(state.num_bytes, sha256)


def _drawn_on(made: Artifact, place: str) -> set[str]:
    found = set()
    for each in made.locations if isinstance(made, TokenMix) else []:
        *way, id = PurePosixPath(each).parts or ("",)
        if way not in ([".."], ["..", "..", "cache"]) or not is_id(id):
            raise CorruptShard(place, None, f"{each!r} is not the place of a result")
        found.add(id)
    return found


def _require_paths(paths: Iterable[str]) -> None:
    """Raises ValueError where a path leaves its folder, is spelled oddly, or is a folder's too."""
    known = set(paths)
    for path in known:
        require_inside(path)
        pure = PurePosixPath(path)
        if pure.as_posix() != path or pure.name.endswith(".tmp"):
            raise ValueError(f"path is {path!r}; it must be written in its plain form")
        if any(above.as_posix() in known for above in pure.parents):
            raise ValueError(f"path is {path!r}, and what stands above it is a file")
