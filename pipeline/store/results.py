"""One directory a result; its state is read from the files, never from a database.

    work      a folder an id: results in the making; they stay after a kill, so that work goes on
    cache     a folder an id: manifest.json, key.json, run.json, files.json and the result's files
    damaged   what was found broken, each with the reason; never used, made again
    leases    who works on what
    memo      content key -> result, and work of finer grain
    series    training trajectories, shared by every view of them
    runs      a folder a run: links to look at

A result is committed by one rename, so what stands in `cache/` with a manifest is complete. It is
taken as there while its files stand in their sizes; `unreadable` digests what may have changed.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.artifacts import MANIFEST, Artifact
from pipeline.core.errors import CorruptShard, Inaccessible
from pipeline.core.files import sync, write_json
from pipeline.core.keys import Json, digest
from pipeline.core.untrusted import read_json
from pipeline.store.code import Code
from pipeline.store.inventory import FILES, Inventory, is_id, stands
from pipeline.store.inventory import ID as ID
from pipeline.store.leases import Lease
from pipeline.store.memo import FileMemo, ResultMemo, forget, place_file
from pipeline.store.series import note_user

KEY, RECORD, FAILURE, REASON = "key.json", "run.json", "failure.json", "reason.json"
logger = logging.getLogger(__name__)


class Unreadable(NamedTuple):
    """A result whose files cannot be read as they stand: discarded on purpose, or damaged."""

    id: str
    discarded: bool
    reason: str


class Results:
    """The results below one folder.

    Args:
        strict: whether a result counts as missing once the code that makes it has changed.
    """

    def __init__(self, root: Path, *, strict: bool = False) -> None:
        self.root = Path(root).resolve()
        self.strict = strict
        self.memo = ResultMemo(self.root / "memo" / "results")
        self.files = FileMemo(self.root / "memo" / "files")

    def folder(self, id: str) -> Path:
        """Where a complete result stands."""
        return self.root / "cache" / _checked(id)

    def work(self, id: str) -> Path:
        """Where a result is made."""
        path = self.root / "work" / _checked(id)
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def series_root(self) -> Path:
        """Where all training series stand."""
        return self.root / "series"

    def series(self, name: str, user: str | None = None) -> Path:
        """Where a training series stands; `user` is the id of a step that is about to train it."""
        path = self.series_root / name
        if user is not None:
            path.mkdir(parents=True, exist_ok=True)
            note_user(path, user)
        return path

    def resume(self, id: str) -> Path:
        """Where a result is made, rid of what a killed attempt had under a temporary name.

        The caller holds the lease on `id`, so nobody else is writing there.
        """
        work = self.work(id)
        for each in work.rglob(".*.tmp"):
            if each.is_file():
                each.unlink(missing_ok=True)
        return work

    def lease(self, name: str, waiting: Callable[[dict[str, object]], None] | None = None) -> Lease:
        return Lease(self.root / "leases", name, waiting)

    def __contains__(self, id: str) -> bool:
        return is_id(id) and self.fault(id) is None

    def __iter__(self) -> Iterator[str]:
        """Ids of the results that can be used, as far as they may be looked at."""
        for name in self.standing():
            with suppress(Inaccessible):
                if name in self:
                    yield name

    def standing(self) -> Iterator[str]:
        """Ids of all that stands in the cache, whole or not."""
        cache = self.root / "cache"
        names = sorted(p.name for p in cache.iterdir()) if cache.is_dir() else []
        return (name for name in names if ID.fullmatch(name))

    def fault(self, id: str) -> CorruptShard | None:
        """Why there is no result to use under `id`, by a look at names and sizes; None if it is.

        Raises:
            Inaccessible: there may be one.
        """
        folder = self.folder(id)
        try:
            inventory = self.inventory(id)
            fault = inventory.missing(folder, self.series_root)
            for each in inventory.references if fault is None else []:
                if (below := self.fault(each)) is not None:
                    return CorruptShard(folder, None, f"draws on {each}, which is gone: {below}")
            return fault
        except (CorruptShard, RecursionError) as error:
            return CorruptShard(folder, None, str(error))

    def inventory(self, id: str) -> Inventory:
        """The list of the files of a result; where there is none, it is made from the manifest.

        Raises:
            CorruptShard: there is no result, or its manifest or list is broken.
        """
        folder = self.folder(id)
        if os.path.islink(folder):  # what it leads to is not ours to change
            raise CorruptShard(folder, None, "is a link; a result has a folder of its own")
        if not stands(folder / MANIFEST):
            raise CorruptShard(folder / MANIFEST, None, "is missing")
        known = Inventory.read(folder)
        return known or Inventory.of_manifest(Artifact.load(folder), self.series_root)

    def load(self, id: str) -> Artifact:
        """The manifest of a complete result.

        Raises:
            KeyError: there is none.
            CorruptShard: it is damaged.
        """
        fault = self.fault(id)
        if fault is not None:
            if not stands(self.folder(id) / MANIFEST):
                raise KeyError(id)
            raise fault
        return Artifact.load(self.folder(id))

    def key(self, id: str) -> dict[str, Json] | None:
        """The document that an id is the digest of; None where there is no such result."""
        return _object(self.folder(id) / KEY)

    def record(self, id: str) -> dict[str, Any]:
        """How a result was made; empty where nothing is known of it."""
        return _object(self.folder(id) / RECORD) or {}

    def is_stale(self, id: str, code: Code | None) -> bool:
        """Whether a result was made by other code than this, and that counts."""
        if not self.strict or code is None:
            return False
        made_by = Code.from_json(self.record(id).get("code"))
        return made_by is None or bool(made_by.changes(code))

    def readers(self, id: str) -> list[str]:
        """The results that were made from one, directly or not, each after those made from it."""
        read: dict[str, list[str]] = {}
        for each in self.standing():
            for name in inputs_of(self.folder(each)):
                read.setdefault(name, []).append(each)
        found: list[str] = []

        def visit(name: str) -> None:
            for each in read.get(name, ()):
                if each not in found:
                    visit(each)
                    found.append(each)

        visit(id)
        return found

    def unreadable(self, id: str) -> list[Unreadable]:
        """What keeps the files of a result, or of those that it draws on, from being read.

        A file whose modification time moved since it was committed is digested. Results below come
        first.
        """
        fault = self.fault(id)
        if fault is not None:
            return [Unreadable(id, False, str(fault))]
        inventory = self.inventory(id)
        found = [each for below in inventory.references for each in self.unreadable(below)]
        if inventory.discarded:
            return [*found, Unreadable(id, True, "its data was discarded")]
        faults = inventory.faults(self.folder(id), self.series_root, thorough=False)
        for each in faults:
            if isinstance(each, Inaccessible):
                raise each
        return [*found, *(Unreadable(id, False, str(each)) for each in faults[:1])]

    def find_earlier(self, content_key: str, code: Code | None = None) -> str | None:
        """The id of a whole result with this content key, if one is remembered.

        Where code counts, only of one that the same code made.
        """
        earlier = self.memo.find(content_key)
        if earlier is None or not ID.fullmatch(earlier):
            return None
        try:
            if any(not each.discarded for each in self.unreadable(earlier)):
                return None
        except Inaccessible:  # it can be made anew
            return None
        return None if self.is_stale(earlier, code) else earlier

    def commit(
        self, id: str, key: dict[str, Json], content_key: str, record: dict[str, Any]
    ) -> Artifact:
        """Turn the finished work on `id` into a result, in one rename, and remember it.

        Raises:
            CorruptShard: a file is missing or not of the size that its writer noted.
        """
        work = self.work(id)
        self.seal(work, key, {**record, "content_key": content_key})
        self._give_way(id, Artifact.load(work))
        self.memo.keep(content_key, id)  # first: what is remembered and not there is made anew
        self.publish(work, id)
        return self.load(id)

    def seal(self, work: Path, key: dict[str, Json], record: dict[str, Any]) -> None:
        """Write down of finished work why and how it was made, and which files it has.

        Raises:
            CorruptShard: a file is missing or not of the size that its writer noted.
        """
        self.sweep(work)
        write_json(work / KEY, key)
        write_json(work / RECORD, record)
        Inventory.take(Artifact.load(work), self.series_root).write(work)

    def sweep(self, work: Path) -> None:
        """Drop from finished work what is no part of the result: what a killed writer left."""
        for name in (FAILURE, FILES):
            (work / name).unlink(missing_ok=True)
        for each in work.rglob(".*.tmp"):
            each.unlink()

    def link(self, earlier: str, id: str, key: dict[str, Json], content_key: str) -> Artifact:
        """Let an earlier result with the same content key stand under a new id as well.

        Of a discarded result the data is discarded here too.
        """
        source, work = self.folder(earlier), self.work(id)
        shutil.rmtree(work)
        for path in sorted(source.rglob("*")):
            if path.is_file() and path.name not in (KEY, RECORD, FILES):
                place = work / path.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                place_file(path, place)
        write_json(work / KEY, key)
        record = {"linked_from": earlier, "content_key": content_key}
        write_json(work / RECORD, {**record, "code": self.record(earlier).get("code")})
        self.inventory(earlier).relisted(work).write(work)
        self._give_way(id, self.load(earlier))
        self.publish(work, id)
        return self.load(id)

    def fail(self, id: str, record: dict[str, Any]) -> None:
        """Note why the work on `id` failed; the work itself stays for the next attempt."""
        with suppress(OSError):  # a full disk may be why it failed
            write_json(self.work(id) / FAILURE, record)

    def _give_way(self, id: str, made: Artifact) -> None:
        """Move a result that `made` takes the place of out of the way.

        Where the content is another, what was made from it goes first: so a kill at any moment
        leaves no result that was made from what is gone.
        """
        if id not in self:
            return
        if self.load(id).content == made.content:
            shutil.rmtree(self.folder(id))
            return
        for each in self.readers(id):
            self.set_aside(each, f"it was made from {id}, which other code made otherwise")
        self.set_aside(id, "other code made it otherwise")

    def mark(self, id: str, damage: str) -> None:
        """Note what a thorough look found, or with "" that it found nothing.

        A result that is marked is not used any more; it is set aside when it is made again.
        """
        with suppress(OSError, CorruptShard):  # what cannot be written is found out again
            inventory = self.inventory(id)
            if inventory.damage != damage:
                replace(inventory, damage=damage).write(self.folder(id))

    def set_aside(self, id: str, reason: str) -> Path:
        """Move what stands under `id` out of use, with the reason beside it."""
        folder = self.folder(id)
        self.forget_files_of(folder)
        aside = self._unused_name(id)
        os.replace(folder, aside)
        note = {"result": id, "reason": reason, "set_aside": round(time.time(), 3)}
        with suppress(OSError):
            write_json(aside / REASON, note)
        logger.warning(
            "%s is not used, stands in %s and is made again: %s",
            id,
            aside.relative_to(self.root),
            reason.replace(f"{self.root}{os.sep}", ""),
        )
        return aside

    def _unused_name(self, id: str) -> Path:
        above = self.root / "damaged"
        above.mkdir(parents=True, exist_ok=True)
        number = 1
        while (path := above / f"{id}-{number}").exists():
            number += 1
        return path

    def forget_files_of(self, folder: Path) -> None:
        """Drop what the memo remembers by links to the files in a folder."""
        shared = {_inode(each) for each in folder.rglob("*") if each.is_file()}
        for entry in self.files.folders():
            if any(_inode(each) in shared for each in entry.iterdir()):
                forget(entry)

    def publish(self, work: Path, id: str) -> None:
        """Make a result of a folder that is complete and stands two levels below the root."""
        final = self.folder(id)
        final.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(final):
            self.set_aside(id, str(self.fault(id) or "it was made again"))
        os.replace(work, final)
        _sync_names(final.parent)


def inputs_of(folder: Path) -> list[str]:
    """Ids of the results that the key in a folder names; none if there is no key."""
    return sorted(set(_steps_in((_object(folder / KEY) or {}).get("args"))))


def _steps_in(value: Json) -> Iterator[str]:
    if isinstance(value, dict):
        if is_id(value.get("step")):
            yield value["step"]
        for each in value.values():
            yield from _steps_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from _steps_in(each)


def _object(path: Path) -> dict[str, Any] | None:
    """A small JSON file of ours; None where there is none that can be read."""
    try:
        form = read_json(path)
    except (OSError, ValueError):
        return None
    return form if isinstance(form, dict) else None


def _inode(path: Path) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _sync_names(folder: Path) -> None:
    """Have the names in a folder on the disk, where the file system can be asked to."""
    with suppress(OSError):
        sync(folder)


def _checked(id: str) -> str:
    if not is_id(id):
        raise ValueError(f"{id!r} is not the id of a result")
    return id


def result_id(key: dict[str, Json]) -> str:
    """`<step>-<version>-<digest>`: the name of the result that a key stands for."""
    return f"{key['step']}-{key['version']}-{digest(key)[:32]}"
