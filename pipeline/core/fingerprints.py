"""Digests of outside files, remembered by path, size and times so that a plan reads none twice."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pipeline.core.errors import MissingDependency, Unavailable
from pipeline.core.files import file_sha256, write_json
from pipeline.core.keys import digest
from pipeline.core.pins import Counted, Pin
from pipeline.core.temporary import temporary_for

SCHEMES = ("http", "https", "s3", "gs")
MAX_NAME_BYTES = 100  # of the name that a fetched file keeps
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
    found: list[str] = []
    new: dict[str, object] = {}
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
            new[name] = {"state": state, "sha256": found[-1]}
    if new:
        try:
            write_json(_memory_path(), {**memory, **new})
        except OSError:  # a home that cannot be written costs time, not correctness
            pass
    return found


def require_known(url: str, revision: str, known: Pin) -> None:
    """Raises ValueError where neither the experiment nor its lock says what a URL names."""
    if not revision and not str(known):
        raise ValueError(
            f"revision is missing; {url!r} is not on this machine, and no lock knows it: "
            "olmo lock notes what it is now"
        )


@dataclass(frozen=True)
class OutsideFile:
    """A file or folder that is not ours, on this machine or at a URL; its content is what counts.

    Args:
        path: a path or a URL.
        revision: of what a URL names; needed for one that no lock knows, as nothing is fetched to
            make a key.
        sha256: of a file at a URL, checked when it was fetched.
        pin: what the lock beside the experiment knows of a URL; checked as well.
    """

    path: str
    revision: str = ""
    sha256: str = ""
    pin: Pin | None = None

    # the fingerprint says which bytes they are
    UNKEYED: ClassVar[tuple[str, ...]] = ("path", "revision", "sha256", "pin")
    FROM_TEXT: ClassVar[str] = "path"  # a plain string in an experiment stands for it

    def __post_init__(self) -> None:
        check_scheme(self.path)
        if is_url(self.path) and name_of(self.path) in (".", ".."):
            raise ValueError(f"path is {self.path!r}, which names no file")
        if not is_url(self.path) and not os.path.exists(self.path):
            raise ValueError(f"path is {self.path!r}, which does not exist")
        self._known()

    def fingerprint(self) -> str:
        """The digest of what is here, or of a URL what is known: the same digest, if that is.

        Raises:
            ValueError: nothing is known of a URL.
        """
        if is_url(self.path):
            known = self._known()
            require_known(self.path, self.revision, known)
            return known.sha256 or f"{self.path} {str(known) or f'revision {self.revision}'}"
        if os.path.isfile(self.path):
            return file_digests([Path(self.path)])[0]
        paths = sorted(each for each in Path(self.path).rglob("*") if each.is_file())
        return fingerprint_files(paths, [each.relative_to(self.path).as_posix() for each in paths])

    def outside(self) -> dict[str, Pin]:
        """The URL, with what is known of it."""
        return {self.path: self._known()} if is_url(self.path) else {}

    def num_bytes(self) -> int | None:
        """The size of a file, where that is known and nothing has to be fetched."""
        if is_url(self.path):
            return self._known().num_bytes
        return os.path.getsize(self.path) if os.path.isfile(self.path) else None

    def pinned(self, pins: Mapping[str, Pin]) -> OutsideFile:
        """The same with what a lock knows of it."""
        pin = pins.get(self.path) if is_url(self.path) else None
        return self if pin is None else replace(self, pin=pin)

    def local(self) -> Path:
        """Where it is on this machine; a file at a URL is fetched into the cache once.

        Raises:
            Unavailable: it cannot be fetched.
            CorruptShard: it is not the file that is pinned.
        """
        if not is_url(self.path):
            return Path(self.path)
        known = self._known()
        name = name_of(self.path).encode()[-MAX_NAME_BYTES:].decode(errors="ignore") or "file"
        folder = digest([self.path, self.revision, str(known)])
        target = cache_folder() / "files" / folder / name
        if target.is_file() and known.sha256 in ("", file_sha256(target)):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_for(target)
        try:
            with open(temporary, "wb") as file:
                fetch(self.path, file, known)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return target

    def _known(self) -> Pin:
        return Pin(sha256=self.sha256).joined(self.pin or Pin())


def is_url(path: str) -> bool:
    """Whether a path names something on another machine."""
    return "://" in path


def check_scheme(path: str) -> None:
    """Raises ValueError for a URL of a kind that is not read, such as file: or hdfs:."""
    if is_url(path) and path.split("://", 1)[0] not in SCHEMES:
        raise ValueError(f"path is {path!r}; a URL must be one of {', '.join(SCHEMES)}")


def name_of(path: str) -> str:
    """The last part of a path or URL; what a web server is asked beside it is no part of it."""
    place = urlsplit(path).path if path.startswith(("http://", "https://")) else path
    return place.rstrip("/").rsplit("/", 1)[-1]


def open_outside(path: str, pin: Pin | None = None) -> Any:
    """Open a file, local or at a URL, to read bytes; decompressed by its name.

    With a pin, the file is read from start to end only, and leaving its `with` block in peace
    raises CorruptShard where it is not the one that is pinned.

    Raises:
        EOFError: it should be compressed and is empty.
        ValueError: it is at a URL of a kind that is not read.
    """
    return _decompressed(_open(path), path) if pin is None else _Pinned(path, pin)


def fetch(path: str, file: Any, pin: Pin | None = None) -> Pin:
    """Copy the bytes at a URL into a file, as they are; gives their size and SHA-256.

    Raises:
        Unavailable: they cannot be fetched.
        CorruptShard: they are not those that are pinned.
    """
    try:
        with Counted(_open(path)) as source:
            shutil.copyfileobj(source, file)
    except MissingDependency:
        raise
    except Exception as error:  # each protocol has errors of its own
        raise Unavailable(f"{path} cannot be fetched ({error})") from error
    (pin or Pin()).require(path, source.num_bytes, source.sha256)
    return Pin(num_bytes=source.num_bytes, sha256=source.sha256)


def _open(path: str) -> Any:
    check_scheme(path)
    with warnings.catch_warnings():  # Google's client, which it imports, complains of Python 3.10
        warnings.filterwarnings("ignore", ".*Python version", FutureWarning)
        from smart_open import open as open_any

    # the host of Dolma's files refuses clients that do not name themselves
    headers = {"User-Agent": "olmo-tango", "Accept-Encoding": "identity"}
    named = {"headers": headers} if path.startswith("http") else {}
    try:
        return open_any(path, "rb", transport_params=named, compression="disable")
    except ImportError as error:
        extra = f"olmo-tango[{path.split('://', 1)[0]}]"
        raise MissingDependency(extra, path) from error


def _decompressed(file: Any, path: str) -> Any:
    """A file that gives the bytes that one holds compressed, if its name says so; closes both."""
    from smart_open.compression import compression_wrapper, get_supported_extensions

    name = name_of(path)
    if os.path.splitext(name)[1].lower() not in get_supported_extensions():
        return file
    below = file if hasattr(file, "peek") else io.BufferedReader(file)
    if not below.peek(1):  # to gzip that is no data, to the others it is damaged
        below.close()
        raise EOFError("it is empty, which no compressed file is")
    if name.lower().endswith(".gz"):
        from isal import igzip

        unpack: Any = igzip.open  # three times as fast as Python's own
        return _Above(unpack(below), below)
    return _Above(compression_wrapper(below, "rb", filename=name), below)


class _Above(io.BufferedReader):
    """A stream whose bytes come of another, which is closed with it."""

    def __init__(self, stream: Any, below: Any) -> None:
        super().__init__(stream)
        self._below = below

    def close(self) -> None:
        super().close()
        self._below.close()


class _Pinned:
    """A file that is read once through, and checked when that is done."""

    def __init__(self, path: str, pin: Pin) -> None:
        self.path, self.pin = path, pin

    def __enter__(self) -> Any:
        self._raw = Counted(_open(self.path))
        self._file = _decompressed(io.BufferedReader(self._raw), self.path)
        return self._file

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if kind is None:
                while self._raw.read(1 << 20):  # what a decompressor leaves behind the end
                    pass
                self.pin.require(self.path, self._raw.num_bytes, self._raw.sha256)
        finally:
            self._file.close()
            self._raw.close()


def cache_folder() -> Path:
    """Where what is fetched or remembered between workspaces is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "olmo-tango"


def _memory_path() -> Path:
    return cache_folder() / "fingerprints.json"


def _load() -> Mapping[str, object]:
    path = _memory_path()
    try:
        stat = os.stat(path)
        return _parsed(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)
    except (OSError, ValueError):
        return {}


@lru_cache(maxsize=1)
def _parsed(path: Path, *state: int) -> dict[str, object]:
    """The memory in one state of its file, so that a graph of many sources reads it once."""
    memory = json.loads(path.read_text(encoding="utf-8"))
    return memory if isinstance(memory, dict) else {}
