"""Names that files have while they are written; `.<name>.<any>.tmp`, hidden and easily found."""

from __future__ import annotations

import uuid
from pathlib import Path


def temporary_for(path: Path) -> Path:
    """A name beside `path` that nobody else has, on any machine that shares the folder.

    The id of a process would not do: in containers all of them are small.
    """
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}.tmp")
