"""What was computed before, by content: whole results, and files of finer grain."""

from __future__ import annotations

import json
import os
import shutil
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
    """(component, version, parameters, content) -> the shard that the work gave."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def fetch(self, key: dict[str, Json], root: Path, path: str) -> Shard | None:
        """Link the remembered shard to `root / path`; None if there is none or it is damaged."""
        folder = self._folder(key)
        try:
            record = json.loads((folder / "shard.json").read_text(encoding="utf-8"))
            shard = Shard(**{**record, "path": path})
            kept = folder / "shard"
            if kept.stat().st_size != shard.num_bytes:
                return None
        except (OSError, ValueError, TypeError):
            return None
        place_file(kept, root / path)
        return shard

    def keep(self, key: dict[str, Json], root: Path, shard: Shard) -> None:
        """Remember a finished shard; its file is linked, not copied."""
        folder = self._folder(key)
        place_file(root / shard.path, folder / "shard")
        write_json(folder / "shard.json", asdict(shard))

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
