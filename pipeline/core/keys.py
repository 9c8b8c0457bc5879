"""Canonical form of a value, its digest, and the changes between two keys.

Equal values have equal keys however they were built, on every Python and in every process:
`1` and `1.0` agree, the order of a dict does not matter, lists and tuples agree. What has no
single form (sets, callables, bytes, NaN) is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

Json = Any  # None, bool, int, float, str, list[Json] or dict[str, Json]


def canonical(value: object) -> Json:
    """The JSON form that stands for `value` in a key.

    A frozen dataclass becomes its class name (not its module), its `VERSION` if it has one, and
    its fields, but for those it names in `UNKEYED`. An object with a method `fingerprint()`
    (outside data) has that text in its form. An object with a method `canonical()` says its own.

    Raises:
        ValueError: the value, or one inside it, has no canonical form; the message has its path.
    """
    return _canonical(value, "value")


def digest(value: object) -> str:
    """SHA-256 of the canonical form, 64 hexadecimal digits."""
    text = json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: object, path: str) -> Json:
    if value is None or isinstance(value, (bool, str)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{path} is {value}; a key takes finite numbers only")
        return int(value) if value.is_integer() and abs(value) < 2**53 else float(value)
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, Mapping):
        form = {}
        for name, item in value.items():
            if not isinstance(name, str):
                raise ValueError(f"{path} has the key {name!r}; keys of a dict must be text")
            form[name] = _canonical(item, f"{path}.{name}")
        return form
    if isinstance(value, (list, tuple)):
        return [_canonical(item, f"{path}[{i}]") for i, item in enumerate(value)]
    own = getattr(value, "canonical", None)
    if callable(own) and not isinstance(value, type):
        return own()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _component(value, path)
    raise ValueError(f"{path} is a {type(value).__name__}, which has no canonical form: {value!r}")


def _component(value: Any, path: str) -> Json:
    form: dict[str, Json] = {"is": type(value).__name__}
    if hasattr(value, "VERSION"):
        form["version"] = value.VERSION
    unkeyed = getattr(value, "UNKEYED", ())
    for field in dataclasses.fields(value):
        if field.name not in unkeyed:
            form[field.name] = _canonical(getattr(value, field.name), f"{path}.{field.name}")
    if callable(getattr(value, "fingerprint", None)):
        form["fingerprint"] = value.fingerprint()
    return form


class Change(NamedTuple):
    """One place where two keys differ; `MISSING` stands for a side that lacks it."""

    path: str
    old: Json
    new: Json

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.old)} -> {_shown(self.new)}"


MISSING = "(missing)"


def changes(old: Json, new: Json, path: str = "") -> list[Change]:
    """Where two canonical forms differ, in order of path; lists are compared by place."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for name in sorted(old.keys() | new.keys()):
            below = f"{path}.{name}" if path else name
            found += changes(old.get(name, MISSING), new.get(name, MISSING), below)
        return found
    if isinstance(old, list) and isinstance(new, list):
        found = []
        for place in range(max(len(old), len(new))):
            left = old[place] if place < len(old) else MISSING
            right = new[place] if place < len(new) else MISSING
            found += changes(left, right, f"{path}[{place}]")
        return found
    same = type(old) is type(new) and old == new
    return [] if same else [Change(path, old, new)]


def _shown(value: Json) -> str:
    return value if value == MISSING else json.dumps(value)
