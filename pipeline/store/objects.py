"""Files in object storage or in a folder far away, through fsspec: each whole or absent.

Object stores show an object when its last byte is there; elsewhere a file is written under a
temporary name and renamed. What is read is held against the size and the SHA-256 it must have.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.core.errors import CorruptShard, MissingDependency, PipelineError, Unavailable
from pipeline.core.temporary import temporary_for

# where an upload is one transaction; a rename there would be a copy
ATOMIC = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"})
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}
LOCAL_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})  # of the disk here
BLOCK_BYTES = 16 << 20
MAX_JSON_BYTES = 256 << 20
Tell = Callable[[int], None]


class ObjectStore:
    """What stands below a URL, or below a folder; nothing is opened before it is asked for.

    Every method raises Unavailable where the other side cannot be reached or refuses.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __repr__(self) -> str:
        return f"ObjectStore({self.shown!r})"

    @property
    def shown(self) -> str:
        """The URL without a user and a password in it."""
        return re.sub(r"//[^/@]*@", "//", self.url)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        protocol = self.url.split("://")[0]
        try:
            # others write here too: what was listed once may be out of date
            fs, root = url_to_fs(self.url, use_listings_cache=False)
        except ImportError as error:
            package = PACKAGES.get(protocol, str(error))
            raise MissingDependency(package, f"the remote {self.shown}") from error
        except ValueError as error:
            raise ValueError(f"remote is {self.shown!r}: {error}") from error
        return fs, root.rstrip("/")

    @property
    def _atomic(self) -> bool:
        return self.url.split("://")[0] in ATOMIC

    def size(self, path: str) -> int | None:
        """Bytes of an object; None where there is none."""
        with self._reaching(path) as (fs, place):
            try:
                return int(fs.info(place)["size"])
            except FileNotFoundError:
                return None

    def names(self, folder: str) -> list[str]:
        """The names in a folder, in order."""
        with self._reaching(folder) as (fs, place):
            try:
                found = fs.ls(place, detail=False)
            except FileNotFoundError:
                return []
        return sorted(each.rstrip("/").rsplit("/", 1)[-1] for each in found)

    def read_json(self, path: str) -> dict[str, Any] | None:
        """An object of JSON; None where there is none.

        Raises:
            CorruptShard: it is larger than any of ours, or no JSON object.
        """
        size = self.size(path)
        if size is None:
            return None
        if size > MAX_JSON_BYTES:
            reason = f"has {size} bytes; it must have at most {MAX_JSON_BYTES}"
            raise CorruptShard(f"{self.shown}/{path}", None, reason)
        with self._reaching(path) as (fs, place):
            data = fs.cat_file(place)
        try:
            value = json.loads(data, parse_constant=_refused)
        except (ValueError, RecursionError) as error:
            raise CorruptShard(f"{self.shown}/{path}", None, f"not JSON ({error})") from error
        if not isinstance(value, dict):
            raise CorruptShard(f"{self.shown}/{path}", None, "not a JSON object")
        return value

    def write_json(self, path: str, value: dict[str, Any]) -> None:
        """Write a JSON object, whole or not at all."""
        data = json.dumps(value, indent=1, allow_nan=False).encode()
        with self._writing(path) as (fs, place):
            fs.pipe_file(place, data)

    def upload(self, source: Path, path: str, tell: Tell) -> None:
        """Copy a file there; `tell` hears of each part of its bytes."""
        from fsspec.callbacks import Callback

        size, told = source.stat().st_size, 0

        class Heard(Callback):  # type: ignore[misc]
            def relative_update(self, inc: int = 1) -> None:
                nonlocal told
                step = min(inc, size - told)
                told += step
                tell(step)

        with self._writing(path) as (fs, place):
            fs.put_file(str(source), place, callback=Heard())
        tell(size - told)  # some protocols say nothing on the way

    def download(self, path: str, target: Path, *, num_bytes: int, sha256: str, tell: Tell) -> None:
        """Copy an object to `target`, which is there only if size and digest are right.

        Raises:
            CorruptShard: it is missing, or is not of that size and digest.
        """
        name = f"{self.shown}/{path}"
        size = self.size(path)
        if size != num_bytes:
            held = "is missing" if size is None else f"has {size} bytes"
            raise CorruptShard(name, None, f"{held}; its entry says {num_bytes} bytes")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_for(target)
        state, read = hashlib.sha256(), 0
        try:
            with open(temporary, "wb") as file, self._reaching(path) as (fs, place):
                with fs.open(place, "rb", block_size=BLOCK_BYTES, cache_type="none") as source:
                    while block := source.read(min(BLOCK_BYTES, num_bytes - read + 1)):
                        read += len(block)
                        if read > num_bytes:
                            raise CorruptShard(name, None, f"has more than {num_bytes} bytes")
                        state.update(block)
                        file.write(block)
                        tell(len(block))
                file.flush()
                os.fsync(file.fileno())
            if read != num_bytes or state.hexdigest() != sha256:
                reason = f"its {read} bytes are not those of SHA-256 {sha256}"
                raise CorruptShard(name, None, reason)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _writing(self, path: str) -> Iterator[tuple[Any, str]]:
        """The file system and the name to write to; it has its own name when all went well."""
        with self._reaching(path) as (fs, place):
            try:
                if self._atomic:
                    yield fs, place
                    return
                folder, _, name = place.rpartition("/")
                fs.makedirs(folder, exist_ok=True)
                temporary = f"{folder}/{temporary_for(Path(name))}"
                yield fs, temporary
                fs.mv(temporary, place)
            except FileNotFoundError as error:
                raise Unavailable(f"{self.shown}/{path} cannot be written ({error})") from error

    @contextmanager
    def _reaching(self, path: str) -> Iterator[tuple[Any, str]]:
        fs, root = self._opened
        try:
            yield fs, f"{root}/{path}"
        except (PipelineError, FileNotFoundError):
            raise
        except Exception as error:  # each protocol has errors of its own
            if getattr(error, "errno", None) in LOCAL_FAULTS:
                raise
            reason = f"{type(error).__name__}: {error}"
            raise Unavailable(f"{self.shown}/{path} cannot be reached ({reason})") from error


def _refused(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
