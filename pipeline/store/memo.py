"""What was computed before, by content: whole results, and files of finer grain."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import Inaccessible, require_known
from pipeline.core.files import Shard, write_json
from pipeline.core.keys import Json, digest
from pipeline.core.temporary import temporary_for
from pipeline.core.untrusted import built
from pipeline.store.inventory import FileState, time_of
from pipeline.store.sealed import read_sealed, write_sealed

NOTE = "note.json"


class ResultMemo:
    """Content key -> id of the result that it gave."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def find(self, content_key: str) -> str | None:
        """The id of an earlier result, if one is remembered; it may be gone by now."""
        try:
            found = json.loads(self._path(content_key).read_text(encoding="utf-8"))["result"]
            return found if isinstance(found, str) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, content_key: str, id: str) -> None:
        write_json(self._path(content_key), {"result": id})

    def _path(self, content_key: str) -> Path:
        return self.root / content_key[:2] / f"{content_key}.json"


class FileMemo:
    """(component, version, parameters, content) -> the files that the work gave, and a note.

    This is also how a killed step goes on: what it had finished is remembered.

    Args:
        code: digest of the code that works; what other code remembered is not found. "" asks for
            nothing, as versions are what says that work differs.
    """

    def __init__(self, root: Path, code: str = "") -> None:
        self.root = Path(root)
        self.code = code

    def of_code(self, code: str) -> FileMemo:
        """The same memo for one state of the code only."""
        return FileMemo(self.root, code)

    def fetch(self, key: dict[str, Json], root: Path, path: str) -> Shard | None:
        """Link the remembered shard to `root / path`; None if there is none or it is damaged."""
        folder = self._folder(key)
        entry = _usable_entry(folder)
        try:
            shard = Shard(**{**entry.note, "path": path}) if entry else None
        except TypeError:
            return None
        return shard if entry and _placed(folder, entry, root, [path]) else None

    def keep(self, key: dict[str, Json], root: Path, shard: Shard) -> None:
        """Remember a finished shard; its file is linked, not copied."""
        self.keep_files(key, root, [shard.path], asdict(shard))

    def note(self, key: dict[str, Json]) -> Json:
        """What was noted of the remembered work; None if there is none, or it is damaged."""
        entry = _usable_entry(self._folder(key))
        return None if entry is None else entry.note

    def place(self, key: dict[str, Json], root: Path, paths: Sequence[str]) -> bool:
        """Link the remembered files to `root / path`, in the order they were kept in.

        False if there are none, or if they are not as many or not what they were: then the memory
        is forgotten, and the work is done again.
        """
        folder = self._folder(key)
        entry = _usable_entry(folder)
        return entry is not None and _placed(folder, entry, root, paths)

    def keep_files(
        self, key: dict[str, Json], root: Path, paths: Sequence[str], note: Json
    ) -> None:
        """Remember finished files, linked and not copied, and a note on them."""
        folder = self._folder(key)
        known = dict(_noted_digests(note))
        files = []
        for place, path in enumerate(paths):
            place_file(Path(root) / path, folder / str(place))
            files.append(FileState.of(folder / str(place), known.get(path)))
        write_sealed(folder / NOTE, {"files": [asdict(each) for each in files], "note": note})

    def folders(self) -> Iterator[Path]:
        """Where each piece of work is remembered."""
        for above in sorted(self.root.iterdir()) if self.root.is_dir() else []:
            if above.is_dir() and not above.is_symlink():
                for each in sorted(above.iterdir()):
                    if each.is_dir() and not each.is_symlink():
                        yield each

    def _folder(self, key: dict[str, Json]) -> Path:
        name = digest({"key": key, "code": self.code} if self.code else key)
        return self.root / name[:2] / name


class MemoEntry(NamedTuple):
    """One piece of remembered work: its files, named 0, 1 and on, and what was noted of it."""

    files: list[FileState]
    note: Json


def read_entry(folder: Path) -> MemoEntry | None:
    """What a folder of the memo remembers; None if that is nothing, or damaged.

    Raises:
        Inaccessible: it may be something.
    """
    try:
        form = read_sealed(folder / NOTE)
        return MemoEntry(built(list[FileState], form["files"], "files"), form["note"])
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        require_known(folder / NOTE, error)
        return None


def _usable_entry(folder: Path) -> MemoEntry | None:
    """What a folder remembers, if it may be read; else the work is done again."""
    try:
        return read_entry(folder)
    except Inaccessible:
        return None


def _placed(folder: Path, entry: MemoEntry, root: Path, paths: Sequence[str]) -> bool:
    if len(entry.files) != len(paths):
        return False
    noted_ns = time_of(folder / NOTE)
    for place, state in enumerate(entry.files):
        # small ones are digested by the step that reads the result
        try:
            damaged = state.fault(folder / str(place), noted_ns, small_bytes=-1) is not None
        except Inaccessible:  # of somebody else; the work is done again
            return False
        if damaged:
            forget(folder)
            return False
    try:
        for place, path in enumerate(paths):
            place_file(folder / str(place), Path(root) / path)
    except FileNotFoundError:  # somebody cleans the memo
        return False
    return True


def forget(folder: Path) -> None:
    """Drop a folder of the memo: first its note, so that it is never half there."""
    (folder / NOTE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _noted_digests(note: Json) -> Iterator[tuple[str, str]]:
    """Path and SHA-256 of the files that a note tells of, so that they are not digested again."""
    if isinstance(note, dict):
        for path, sha256 in (("path", "sha256"), ("index_path", "index_sha256")):
            if isinstance(note.get(path), str) and isinstance(note.get(sha256), str):
                yield note[path], note[sha256]
    if isinstance(note, (dict, list)):
        for each in note.values() if isinstance(note, dict) else note:
            yield from _noted_digests(each)


def place_file(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the file system has no links."""
    try:
        os.link(source, target)
        return
    except FileExistsError:
        pass
    except OSError:
        target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(target)
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copy2(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # there still when they were one file already
