"""One directory a result; its state is read from the files, never from a database.

    <root>/work/<id>/     a result in the making; stays after a kill, so that work goes on
    <root>/cache/<id>/    a result: manifest.json, key.json, run.json and its files
    <root>/leases/        who works on what
    <root>/memo/          content key -> result, and work of finer grain
    <root>/series/        training trajectories, shared by every view of them
    <root>/runs/<name>/   links to look at

A result is committed by one rename, so what stands in `cache/` with a manifest is complete.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.core.artifacts import MANIFEST, Artifact, write_json
from pipeline.core.errors import CorruptShard
from pipeline.core.keys import Json, digest
from pipeline.store.leases import Lease
from pipeline.store.memo import FileMemo, ResultMemo, place_file

KEY, RECORD, FAILURE = "key.json", "run.json", "failure.json"
ID = re.compile(r"[A-Za-z0-9]+-[A-Za-z0-9]+-[0-9a-f]{32}")


def result_id(key: dict[str, Json]) -> str:
    """`<step>-<version>-<digest>`: the name of the result that a key stands for."""
    return f"{key['step']}-{key['version']}-{digest(key)[:32]}"


class Results:
    """The results below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).resolve()
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

    def resume(self, id: str) -> Path:
        """Where a result is made, rid of what a killed attempt had under a temporary name.

        The caller holds the lease on `id`, so nobody else is writing there.
        """
        work = self.work(id)
        for each in work.rglob(".*.tmp"):
            if each.is_file():
                each.unlink(missing_ok=True)
        return work

    def series(self, id: str) -> Path:
        """Where a training series stands."""
        return self.root / "series" / id

    def lease(self, name: str, waiting: Callable[[dict[str, object]], None] | None = None) -> Lease:
        return Lease(self.root / "leases", name, waiting)

    def __contains__(self, id: str) -> bool:
        return (self.folder(id) / MANIFEST).is_file()

    def __iter__(self) -> Iterator[str]:
        cache = self.root / "cache"
        names = sorted(p.name for p in cache.iterdir()) if cache.is_dir() else []
        return (name for name in names if ID.fullmatch(name) and name in self)

    def load(self, id: str) -> Artifact:
        """The manifest of a complete result; raises KeyError where there is none."""
        if id not in self:
            raise KeyError(id)
        return Artifact.load(self.folder(id))

    def commit(
        self, id: str, key: dict[str, Json], content_key: str, record: dict[str, Any]
    ) -> Artifact:
        """Turn the finished work on `id` into a result, in one rename, and remember it."""
        work = self.work(id)
        made = Artifact.load(work)
        for each in made.files():
            size = (work / each.path).stat().st_size
            if size != each.num_bytes:
                raise CorruptShard(
                    work / each.path, None, f"has {size} bytes, not {each.num_bytes}"
                )
        (work / FAILURE).unlink(missing_ok=True)
        write_json(work / KEY, key)
        write_json(work / RECORD, {**record, "content_key": content_key})
        self.memo.keep(content_key, id)  # first: what is remembered and not there is made anew
        self.publish(work, id)
        return self.load(id)

    def link(self, earlier: str, id: str, key: dict[str, Json], content_key: str) -> Artifact:
        """Let an earlier result with the same content key stand under a new id as well."""
        source, work = self.folder(earlier), self.work(id)
        shutil.rmtree(work)
        for path in sorted(source.rglob("*")):
            if path.is_file() and path.name not in (KEY, RECORD):
                place = work / path.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                place_file(path, place)
        write_json(work / KEY, key)
        write_json(work / RECORD, {"linked_from": earlier, "content_key": content_key})
        self.publish(work, id)
        return self.load(id)

    def fail(self, id: str, record: dict[str, Any]) -> None:
        """Note why the work on `id` failed; the work itself stays for the next attempt."""
        write_json(self.work(id) / FAILURE, record)

    def publish(self, work: Path, id: str) -> None:
        """Make a result of a folder that is complete and stands two levels below the root."""
        final = self.folder(id)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():  # no manifest, or the caller would not be here: it is not a result
            shutil.rmtree(final)
        os.replace(work, final)


def _checked(id: str) -> str:
    if not ID.fullmatch(id):
        raise ValueError(f"{id!r} is not the id of a result")
    return id
