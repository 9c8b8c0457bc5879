"""JSON that somebody else may have written: read within bounds, and held against type hints.

A manifest comes with a workspace, and a workspace may come from anywhere. So the file is opened
only if it is one (no link, no pipe), it has a size that a manifest can have, and every value in it
is of its type; whatever else it is, reading it ends in `ValueError` or `OSError`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
import types
import typing
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

MAX_BYTES = 256 << 20  # a manifest of half a million shards
MAX_INT = 1 << 63
REMEMBERED_BYTES = 8 << 20  # of text whose values are kept
T = TypeVar("T")


def read_json(path: Path) -> Any:
    """The JSON value in a plain file.

    Raises:
        OSError: it is missing or not readable.
        ValueError: it is a link or no plain file, too large, not JSON, or nested too deeply.
    """
    return parsed(read_plain_file(path))


def read_plain_file(path: Path) -> bytes:
    """The bytes of a plain file; raises OSError or ValueError as `read_json` does."""
    with open_plain_file(path) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        if num_bytes > MAX_BYTES:
            raise ValueError(f"it has {num_bytes} bytes; at most {MAX_BYTES} are read")
        return file.read(MAX_BYTES + 1)


def open_plain_file(path: Path, *, to_add: bool = False) -> BinaryIO:
    """Open a plain file, of any size.

    Args:
        to_add: open it to read it and to write after its end; it is made where it is missing.

    Raises:
        OSError: it is missing, a link, or not readable.
        ValueError: it is no plain file, or `to_add` and it has another name too (a hard link), so
            that what is written would go there.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT if to_add else os.O_RDONLY
    number = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    found = os.fstat(number)
    fault = "" if stat.S_ISREG(found.st_mode) else "it is no plain file"
    if to_add and found.st_nlink > 1:
        fault = "it has another name too, a hard link; a copy of it can be added to"
    if fault:
        os.close(number)
        raise ValueError(fault)
    return open(number, "r+b" if to_add else "rb")


def parsed(text: bytes) -> Any:
    """The value of a JSON text; raises ValueError where it is none, or nested too deeply."""
    try:
        decoded: Any = _DECODER.decode(text.decode(json.detect_encoding(text), "surrogatepass"))
        return decoded
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class Remembered(Generic[T]):
    """What the bytes of files were parsed to, for those that are read again and are the same.

    A run looks at the same manifests dozens of times, and holding them against their types is what
    costs; the bytes are read each time. Values are shared, so they must not be changed.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, bytes], tuple[int, T]] = OrderedDict()
        self._num_bytes = 0

    def get(self, name: str, text: bytes, make: Callable[[bytes], T]) -> T:
        """`make(text)`, or what that was for the same name and bytes."""
        key = (name, hashlib.sha256(text).digest())
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key][1]
        made = make(text)
        self._known[key] = (len(text), made)
        self._num_bytes += len(text)
        while self._num_bytes > REMEMBERED_BYTES:
            self._num_bytes -= self._known.popitem(last=False)[1][0]
        return made


def _refused(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_refused)  # one for all: `json.loads` makes one a text


def built(hint: Any, value: Any, path: str) -> Any:
    """The value that a type hint and a piece of JSON give; dataclasses have all of their fields.

    An `int` is from 0 to 2**63 - 1: manifests count, and nothing they count is negative.

    Raises:
        ValueError: it is of another type; the message has its path.
    """
    try:
        return _builder(hint)(value)
    except _Fault as fault:
        raise ValueError(f"{path}{''.join(reversed(fault.places))} {fault.reason}") from None


class _Fault(Exception):
    """What is wrong with a value, and where, from the inside out."""

    def __init__(self, reason: str) -> None:
        self.reason, self.places = reason, list[str]()

    def below(self, place: str) -> _Fault:
        self.places.append(place)
        return self


@lru_cache(maxsize=256)
def _builder(hint: Any) -> Callable[[Any], Any]:
    """What holds values against one type: made once, as a manifest has many shards."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda value: value
    if origin in (typing.Union, types.UnionType):
        inner = _builder(next(each for each in args if each is not type(None)))
        optional = type(None) in args
        return lambda value: None if value is None and optional else inner(value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass_builder(hint)
    if origin is list:
        return _list_builder(_builder(args[0]))
    if origin is dict:
        return _dict_builder(_builder(args[1]))
    return _plain_builder(hint)


def _dataclass_builder(kind: type) -> Callable[[Any], Any]:
    hints = typing.get_type_hints(kind)
    builders = {each.name: _builder(hints[each.name]) for each in dataclasses.fields(kind)}
    names = builders.keys()

    def build(value: Any) -> Any:
        _require(value, dict, "an object")
        if names != value.keys():
            raise _Fault(f"has the fields {sorted(value)}; it must have {sorted(names)}")
        made = {}
        for name, builder in builders.items():
            try:
                made[name] = builder(value[name])
            except _Fault as fault:
                raise fault.below(f".{name}") from None
        return kind(**made)

    return build


def _list_builder(builder: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def build(value: Any) -> Any:
        _require(value, list, "a list")
        made = []
        for place, item in enumerate(value):
            try:
                made.append(builder(item))
            except _Fault as fault:
                raise fault.below(f"[{place}]") from None
        return made

    return build


def _dict_builder(builder: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def build(value: Any) -> Any:
        _require(value, dict, "an object")
        made = {}
        for name, item in value.items():
            try:
                made[name] = builder(item)
            except _Fault as fault:
                raise fault.below(f".{name}") from None
        return made

    return build


def _plain_builder(kind: Any) -> Callable[[Any], Any]:
    def build(value: Any) -> Any:
        if kind is float and type(value) is int:
            return float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _Fault(f"is {repr(value)[:80]}; it must be of type {kind.__name__}")
        if kind is int and not 0 <= value < MAX_INT:
            raise _Fault(f"is {str(value)[:80]}; it must be from 0 to 2**63 - 1")
        return value

    return build


def _require(value: Any, kind: type, named: str) -> None:
    if not isinstance(value, kind):
        raise _Fault(f"is a {type(value).__name__}; it must be {named}")
