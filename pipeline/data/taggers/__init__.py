"""What a tagger is: a measure of one text, with a name, a version and columns."""

from __future__ import annotations

import importlib.metadata
import os
import unicodedata
from collections.abc import Mapping
from typing import ClassVar, Protocol, TypeAlias

SpanRow: TypeAlias = tuple[int, int, float]  # start, end, score
Value: TypeAlias = float | list[SpanRow] | None
DECIMALS = 5  # Dolma rounds every score to five


class Tagger(Protocol):
    """A frozen dataclass; its fields are its parameters and, with `VERSION`, part of every key.

    `COLUMNS` gives each column's kind, "number" or "spans". Spans are half-open, in code points.
    A tagger whose values depend on more than its code has a method `fingerprint`, whose text is in
    the key: of data, or of what is installed (`unicode_version`, `package_version`).
    """

    name: ClassVar[str]
    VERSION: ClassVar[str]
    COLUMNS: ClassVar[Mapping[str, str]]

    def measure(self, text: str) -> dict[str, Value]:
        """A value for each column; None where the measure is not defined for the text."""
        ...


def unicode_version() -> str:
    """The version of Unicode by which this Python tells letters, digits and white space.

    It changes with Python's minor version, and so does what a few new characters are.
    """
    return f"Unicode {unicodedata.unidata_version}"


def package_version(package: str) -> str:
    """A package with its version: of one that measures by rules of its own, each may differ."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {package}"  # a graph is built without it


State: TypeAlias = tuple[int, int]  # time and size of a file


def state_of(path: str) -> State:
    """What tells a file from what stood there before, for what a process remembers of it."""
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size
