"""Digests of outside files, remembered by path, size and times so that a plan reads none twice."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.core.artifacts import file_sha256, write_json
from pipeline.core.errors import CorruptShard, Unavailable
from pipeline.core.keys import digest

RACY_SECONDS = 2  # a file this young may change again within one tick of its clock


def fingerprint_files(paths: Sequence[Path], names: Sequence[str]) -> str:
    """Digest of the names and the bytes of files, in the order given.

    Args:
        names: what each file is called in the digest, as paths change with the machine.
    """
    digests = file_digests(paths)
    return digest([[name, each] for name, each in zip(names, digests, strict=True)])


def file_digests(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file; one that has not changed since it was last asked for is not read."""
    memory = _load()
    found, changed = [], False
    for path in paths:
        name = os.path.abspath(path)
        stat = os.stat(path)
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        known = memory.get(name)
        if isinstance(known, dict) and known.get("state") == state:
            found.append(str(known.get("sha256")))
            continue
        found.append(file_sha256(Path(path)))
        if time.time() - max(stat.st_mtime, stat.st_ctime) > RACY_SECONDS:
            memory[name] = {"state": state, "sha256": found[-1]}
            changed = True
    if changed:
        try:
            write_json(_memory_path(), memory)
        except OSError:  # a home that cannot be written costs time, not correctness
            pass
    return found


@dataclass(frozen=True)
class OutsideFile:
    """A file or folder that is not ours, on this machine or at a URL; its content is what counts.

    Args:
        path: a path or a URL.
        revision: of what a URL names; needed for one, as nothing is fetched to make a key.
        sha256: of a file at a URL, checked when it was fetched.
    """

    path: str
    revision: str = ""
    sha256: str = ""

    UNKEYED: ClassVar[tuple[str, ...]] = ("path",)
    FROM_TEXT: ClassVar[str] = "path"  # a plain string in an experiment stands for it

    def __post_init__(self) -> None:
        if is_url(self.path):
            if not self.revision:
                raise ValueError(f"revision is missing; {self.path!r} is not on this machine")
        elif not os.path.exists(self.path):
            raise ValueError(f"path is {self.path!r}, which does not exist")

    def fingerprint(self) -> str:
        """The URL and its revision, or the digest of what is here."""
        if is_url(self.path):
            return f"{self.path} revision {self.revision}"
        if os.path.isfile(self.path):
            return file_digests([Path(self.path)])[0]
        paths = sorted(each for each in Path(self.path).rglob("*") if each.is_file())
        return fingerprint_files(paths, [each.relative_to(self.path).as_posix() for each in paths])

    def local(self) -> Path:
        """Where it is on this machine; a file at a URL is fetched into the cache once.

        Raises:
            Unavailable: it cannot be fetched.
            CorruptShard: it is not the file of that SHA-256.
        """
        if not is_url(self.path):
            return Path(self.path)
        name = self.path.rstrip("/").rsplit("/", 1)[-1]
        target = cache_folder() / "files" / digest([self.path, self.revision]) / name
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{name}.{os.getpid()}.tmp")
            try:
                with open_outside(self.path) as source, open(temporary, "wb") as file:
                    shutil.copyfileobj(source, file)
            except Exception as error:  # each protocol has errors of its own
                temporary.unlink(missing_ok=True)
                raise Unavailable(f"{self.path} cannot be fetched ({error})") from error
            os.replace(temporary, target)
        if self.sha256 and (found := file_sha256(target)) != self.sha256:
            raise CorruptShard(target, None, f"its SHA-256 is {found}; it must be {self.sha256}")
        return target


def is_url(path: str) -> bool:
    """Whether a path names something on another machine."""
    return "://" in path


def open_outside(path: str) -> Any:
    """Open a file, local or http, s3, gs and so on, to read bytes; decompressed by its name."""
    with warnings.catch_warnings():  # Google's client, which it imports, complains of Python 3.10
        warnings.filterwarnings("ignore", ".*Python version", FutureWarning)
        from smart_open import open as open_any

    # the host of Dolma's files refuses clients that do not name themselves
    named = {"headers": {"User-Agent": "olmo-tango"}} if path.startswith("http") else {}
    return open_any(path, "rb", transport_params=named)


def cache_folder() -> Path:
    """Where what is fetched or remembered between workspaces is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "olmo-tango"


def _memory_path() -> Path:
    return cache_folder() / "fingerprints.json"


def _load() -> dict[str, object]:
    try:
        memory = json.loads(_memory_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}
