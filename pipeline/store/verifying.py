"""Every digest read anew: what is damaged is named, and marked so that nothing uses it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.artifacts import Artifact, Tokens, TokenShard
from pipeline.core.errors import UNUSABLE, CorruptShard, Inaccessible, require_known
from pipeline.core.files import Shard, StoredFile, file_sha256
from pipeline.core.keys import digest
from pipeline.core.shards import RowDigest, read_batches
from pipeline.store.checkpoints import checkpoint_files
from pipeline.store.inventory import FileState, is_id
from pipeline.store.memo import forget, read_entry
from pipeline.store.results import KEY, Results, result_id

MEMO = "memo"  # the owner of what is remembered of work


@dataclass(frozen=True)
class Damage:
    """One fault: what has it (the id of a result, a series or the memo), and what it is."""

    owner: str
    fault: CorruptShard | Inaccessible

    def __str__(self) -> str:
        return f"{self.owner}: {self.fault}"


class Reader:
    """Digests files, each once however many links it has, and counts what was read."""

    def __init__(self, told: Callable[[int], None] | None = None) -> None:
        self.told = told
        self.num_files = self.num_bytes = 0
        self._known: dict[tuple[int, int], str] = {}

    def sha256(self, path: Path) -> str:
        found = os.stat(path)
        inode = found.st_dev, found.st_ino
        if inode not in self._known:
            self._known[inode] = file_sha256(path)
            self.num_files += 1
            self.num_bytes += found.st_size
            if self.told is not None:
                self.told(found.st_size)
        return self._known[inode]


def find_damage(
    results: Results, id: str, *, content: bool = False, reader: Reader | None = None
) -> list[Damage]:
    """Read all of a result, of the checkpoints that it shows and of what it draws on.

    What is damaged is marked in its list of files; a mark that is not true any more is taken away.
    What cannot be read is named, and not marked.

    Args:
        content: compute the content digests of Parquet files and tokens too.
    """
    reader = reader or Reader()
    faults: list[CorruptShard | Inaccessible] = []
    found: list[Damage] = []
    try:
        inventory = results.inventory(id)
        for each in inventory.references:
            found += find_damage(results, each, content=content, reader=reader)
        folder = results.folder(id)
        faults += inventory.faults(
            folder, results.series_root, thorough=True, sha256_of=reader.sha256
        )
        artifact = Artifact.load(folder)
        key = results.key(id)
        if key is None or result_id(key) != id:
            faults.append(CorruptShard(folder / KEY, None, f"is not the key of {id}"))
        if content and not faults and not inventory.discarded:
            faults += _content_faults(artifact)
    except UNUSABLE as fault:
        faults.append(fault)
    except (LookupError, ValueError, TypeError) as error:
        faults.append(CorruptShard(results.folder(id), None, str(error)))
    damaged = [each for each in faults if isinstance(each, CorruptShard)]
    if damaged or not faults:
        results.mark(id, f"{damaged[0]}" if damaged else "")
    return [*found, *(Damage(id, each) for each in faults)]


def find_all_damage(
    results: Results, *, content: bool = False, reader: Reader | None = None
) -> list[Damage]:
    """Read everything in a workspace: results, series and what the memo remembers.

    A memory that is damaged is forgotten, as the work that it saves is only done again.
    """
    reader = reader or Reader()
    found: dict[str, Damage] = {}
    for id in results.standing():
        for each in find_damage(results, id, content=content, reader=reader):
            found[str(each)] = each
    named = {each.fault.path for each in found.values()}
    series = results.series_root  # with the state of runs that were asked to stop
    for folder in sorted([*series.glob("*/step[0-9]*"), *series.glob("*/.stopped")]):
        for fault in _checkpoint_faults(folder, reader):
            if fault.path not in named:
                owner = f"series {folder.parent.name}"
                found[str(fault)] = Damage(owner, fault)
    for folder in results.files.folders():
        if (broken := _memory_fault(folder, reader)) is not None:
            if isinstance(broken, CorruptShard):
                forget(folder)
            found[str(broken)] = Damage(MEMO, broken)
    return list(found.values())


def _memory_fault(folder: Path, reader: Reader) -> CorruptShard | Inaccessible | None:
    try:
        entry = read_entry(folder)
        if entry is None:
            return CorruptShard(folder, None, "is no memory of any work")
        faults = (
            state.fault(folder / str(place), sha256_of=reader.sha256)
            for place, state in enumerate(entry.files)
        )
        return next((fault for fault in faults if fault is not None), None)
    except Inaccessible as error:
        return error


def num_bytes_to_read(results: Results, ids: Iterable[str]) -> int:
    """About how much a thorough look at some results reads, for a progress bar."""
    total, seen = 0, set()
    for id in ids:
        if not is_id(id):
            continue
        try:
            inventory = results.inventory(id)
        except UNUSABLE:
            continue
        for path, state in inventory.places(results.folder(id), results.series_root):
            try:
                found = os.lstat(path)
            except OSError:
                continue
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += state.num_bytes
    return total


def _checkpoint_faults(folder: Path, reader: Reader) -> list[CorruptShard | Inaccessible]:
    found: list[CorruptShard | Inaccessible] = []
    try:
        for name, sha256 in checkpoint_files(folder).items():
            if sha256 is not None:
                state = FileState.of(folder / name, sha256)
                fault = state.fault(folder / name, sha256_of=reader.sha256)
                found += [fault] if fault else []
    except UNUSABLE as fault:
        found.append(fault)
    return found


def _content_faults(artifact: Artifact) -> list[CorruptShard]:
    found = []
    for each in artifact.files():
        path = artifact.root / each.path
        try:
            content = _content(artifact, each)
        except (CorruptShard, pa.ArrowInvalid, OSError) as error:
            require_known(path, error)
            found.append(CorruptShard(path, None, f"not readable ({error})"))
            continue
        if content is not None and content != each.content:
            reason = "the digest of its rows is not the one in its manifest"
            found.append(CorruptShard(path, None, reason))
    return found


def _content(artifact: Artifact, file: StoredFile) -> str | None:
    """The content digest of a file, computed anew; None for a kind that its SHA-256 speaks for."""
    if isinstance(file, TokenShard) and isinstance(artifact, Tokens):
        _, index = file.parts()
        rows = _rows_digest(artifact.root, index)
        ids = file_sha256(artifact.root / file.path)
        return digest({"ids": ids, "dtype": artifact.dtype, "index": rows})
    is_index = isinstance(file, Shard) and not file.content
    if file.path.endswith(".parquet") and not is_index:
        return _rows_digest(artifact.root, file)
    return None


def _rows_digest(root: Path, file: StoredFile) -> str:
    path = file.place(root)
    schema = pq.read_schema(path)
    state = RowDigest(schema)
    rows = pq.read_metadata(path).num_rows
    shard = Shard(file.path, file.num_bytes, file.content, file.sha256, rows)
    for batch in read_batches(root, shard):
        state.update(batch)
    return state.hexdigest()
