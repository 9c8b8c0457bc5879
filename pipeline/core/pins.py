"""What is known of outside data before it is fetched, and the lock file that holds it.

A pin is only ever compared: nothing in it names a place on this machine, and a locator that no
component asks for is never looked at. So a lock from a stranger can make a run fail, and no more.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pipeline.core.errors import CorruptShard
from pipeline.core.files import write_json

LOCK_VERSION = 1
MAX_LOCK_BYTES = 64 << 20
_SHA256, _COMMIT = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{40}([0-9a-f]{24})?")
_ETAG = re.compile(r"[\x20-\x7e]{0,300}")
T = TypeVar("T")


@dataclass(frozen=True)
class Pin:
    """What a piece of outside data is: as much of it as could be learned.

    Args:
        etag: what the server calls this state of a file; where it says none, its date.
        revision: a commit, for data that stands in a repository.
    """

    num_bytes: int | None = None
    etag: str = ""
    revision: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.num_bytes is not None and not 0 <= self.num_bytes < 2**63:
            raise ValueError(f"num_bytes is {self.num_bytes}; it must be the size of a file")
        if not _ETAG.fullmatch(self.etag):
            raise ValueError(f"etag is {self.etag[:50]!r}; it must be one line of ASCII")
        if self.revision and not is_commit(self.revision):
            raise ValueError(f"revision is {self.revision[:50]!r}; it must be a commit")
        if self.sha256 and not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 is {self.sha256[:80]!r}; it must be 64 hexadecimal digits")

    def __str__(self) -> str:
        """What stands for the data in a key: the strongest that is known, or ""."""
        if self.sha256:
            return f"sha256 {self.sha256}"
        if self.revision:
            return f"commit {self.revision}"
        told = [] if self.num_bytes is None else [f"{self.num_bytes} bytes"]
        return ", ".join(told + [f"etag {self.etag}"] * bool(self.etag))

    def joined(self, other: Pin) -> Pin:
        """This pin with what only `other` knows; raises ValueError where the two contradict."""
        mine, theirs = asdict(self), asdict(other)
        for name, each in theirs.items():
            if each in (None, ""):
                continue
            if mine[name] not in (None, "", each):
                raise ValueError(f"{name} is {mine[name]!r} and {each!r}")
            mine[name] = each
        return Pin(**mine)

    def require(self, place: str, num_bytes: int, sha256: str) -> None:
        """Raises CorruptShard for data that is not what is pinned."""
        if self.sha256 and sha256 != self.sha256:
            raise CorruptShard(place, None, f"its SHA-256 is {sha256}; it must be {self.sha256}")
        if self.num_bytes not in (None, num_bytes):
            raise CorruptShard(place, None, f"has {num_bytes} bytes; it must have {self.num_bytes}")


class Outside(Protocol):
    """A component that reads outside data: a frozen dataclass."""

    def outside(self) -> Mapping[str, Pin]:
        """Locator -> what the component knows of it; empty for what is on this machine.

        A locator is a URL, `hf://datasets/<name>@<revision>` or `pypi:<name>==<version>`.
        """
        ...

    def pinned(self: T, pins: Mapping[str, Pin]) -> T:
        """The same with what a lock knows of its data; raises ValueError where they contradict."""
        ...


def outside_in(value: Any) -> Iterator[Any]:
    """The components in a value that may read outside data (`Outside`), those inside others too."""
    for each in _inside(value):
        if callable(getattr(each, "outside", None)):
            yield each
        else:
            yield from outside_in(each)


def with_pins(value: Any, pins: Mapping[str, Pin]) -> Any:
    """A value in which every component knows what a lock says of its data.

    Raises:
        ValueError: the lock contradicts what a component says itself.
    """
    if isinstance(value, (list, tuple)):
        return type(value)(with_pins(each, pins) for each in value)
    if isinstance(value, dict):
        return {name: with_pins(each, pins) for name, each in value.items()}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    pinned = getattr(value, "pinned", None)
    if callable(pinned):
        return pinned(pins)
    fields = [each.name for each in dataclasses.fields(value) if each.init]
    old = {name: getattr(value, name) for name in fields}
    new = {name: with_pins(each, pins) for name, each in old.items()}
    return value if new == old else dataclasses.replace(value, **new)


def pins_used(value: Any, pins: Mapping[str, Pin]) -> dict[str, dict[str, Any]]:
    """What of a lock the components in a value read, as JSON values."""
    found = {each: None for part in outside_in(value) for each in part.outside()}
    return {each: _form(pins[each]) for each in found if each in pins}


def _form(pin: Pin) -> dict[str, Any]:
    return {name: each for name, each in asdict(pin).items() if each not in (None, "")}


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple)):
        yield from value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from (getattr(value, each.name) for each in dataclasses.fields(value))


def is_commit(revision: str) -> bool:
    """Whether a revision is one commit, and not a name that moves."""
    return _COMMIT.fullmatch(revision) is not None


def read_lock(path: Path) -> dict[str, Pin]:
    """The pins in a lock file; none where there is no file.

    Raises:
        ValueError: it is not a lock.
    """
    path = Path(path)
    if not path.exists():
        return {}
    try:
        if not path.is_file() or path.stat().st_size > MAX_LOCK_BYTES:
            raise ValueError("it must be a file of less than 64 MiB")
        form = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(form, dict) or form.get("lock") != LOCK_VERSION:
            raise ValueError(f"lock must be {LOCK_VERSION}")
        if not isinstance(form.get("outside"), dict):
            raise ValueError("outside must be an object")
        return {name: _pin(name, each) for name, each in form["outside"].items()}
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no lock: {error or 'it is nested too deep'}") from error


def write_lock(path: Path, pins: Mapping[str, Pin]) -> None:
    """Write a lock file, in an order that makes its changes readable."""
    form = {name: _form(pin) for name, pin in sorted(pins.items())}
    write_json(Path(path), {"lock": LOCK_VERSION, "outside": form})


def _pin(name: str, form: Any) -> Pin:
    kinds: dict[str, type] = {"num_bytes": int, "etag": str, "revision": str, "sha256": str}
    if not isinstance(form, dict):
        raise ValueError(f"{name!r} must be an object")
    for field, each in form.items():
        if field not in kinds or type(each) is not kinds[field]:
            raise ValueError(f"{name!r} has {str(field)[:50]!r}, which is not a field of a pin")
    try:
        return Pin(**form)
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from error


class Counted(io.RawIOBase):
    """A stream of bytes that knows how many went through it, and their SHA-256."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._state = stream, hashlib.sha256()
        self.num_bytes = 0

    @property
    def sha256(self) -> str:
        return self._state.hexdigest()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._stream.read(len(buffer))
        buffer[: len(block)] = block
        self._state.update(block)
        self.num_bytes += len(block)
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
