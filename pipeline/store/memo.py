"""What was computed before, by content: whole results, and files of finer grain."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.core.artifacts import Shard, write_json
from pipeline.core.keys import Json, digest


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
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def fetch(self, key: dict[str, Json], root: Path, path: str) -> Shard | None:
        """Link the remembered shard to `root / path`; None if there is none or it is damaged."""
        record = self.note(key)
        try:
            shard = Shard(**{**record, "path": path})
        except TypeError:
            return None
        return shard if self.place(key, root, [path]) else None

    def keep(self, key: dict[str, Json], root: Path, shard: Shard) -> None:
        """Remember a finished shard; its file is linked, not copied."""
        self.keep_files(key, root, [shard.path], asdict(shard))

    def note(self, key: dict[str, Json]) -> Json:
        """What was noted of the remembered work; None if there is none."""
        try:
            return json.loads((self._folder(key) / "note.json").read_text("utf-8"))["note"]
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def place(self, key: dict[str, Json], root: Path, paths: Sequence[str]) -> bool:
        """Link the remembered files to `root / path`, in the order they were kept in.

        False if there are none, or if they are not as many or as large as they were.
        """
        folder = self._folder(key)
        try:
            sizes = json.loads((folder / "note.json").read_text("utf-8"))["sizes"]
            if sizes != [(folder / str(i)).stat().st_size for i in range(len(paths))]:
                return False
        except (OSError, ValueError, TypeError, KeyError):
            return False
        for place, path in enumerate(paths):
            place_file(folder / str(place), Path(root) / path)
        return True

    def keep_files(
        self, key: dict[str, Json], root: Path, paths: Sequence[str], note: Json
    ) -> None:
        """Remember finished files, linked and not copied, and a note on them."""
        folder = self._folder(key)
        for place, path in enumerate(paths):
            place_file(Path(root) / path, folder / str(place))
        sizes = [(folder / str(i)).stat().st_size for i in range(len(paths))]
        write_json(folder / "note.json", {"sizes": sizes, "note": note})

    def _folder(self, key: dict[str, Json]) -> Path:
        name = digest(key)
        return self.root / name[:2] / name


def place_file(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copy2(source, temporary)
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # a renaming onto the same file leaves both names
