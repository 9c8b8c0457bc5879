"""A tagger of one's own: a Python file that the experiment names."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pipeline.core.files import file_sha256
from pipeline.data.taggers import State, Value, state_of
from pipeline.data.taggers.imports import imported

KINDS = ("number", "spans")


@dataclass(frozen=True)
class PythonFile:
    """What the function `measure` of a Python file says of a text.

    The file has `COLUMNS = {'shouting': 'number', 'links': 'spans'}`, written out, and
    `def measure(text, **parameters)`, which gives a value for each column: a number or None, or a
    list of (start, end, score). The table has the name of the file. A graph is built without
    running it; in the key are its name and bytes, and what it imports: packages with their version,
    modules of one's own with their bytes. What those import, or it at run time, is not seen.

    Args:
        path: of the file.
        parameters: what `measure` gets beside the text.

    Raises:
        ValueError: the file has no such `COLUMNS`, or a value is none of a column's kind.
    """

    path: str
    parameters: dict[str, Any] = field(default_factory=dict)

    VERSION: ClassVar[str] = "001"
    UNKEYED: ClassVar[tuple[str, ...]] = ("path",)

    def __post_init__(self) -> None:
        if not Path(self.path).is_file():
            raise ValueError(f"path is {self.path!r}, which is no file")
        if not self.name.isidentifier():
            raise ValueError(f"path is {self.path!r}; the file's name must be that of a table")
        assert self.COLUMNS

    @property
    def name(self) -> str:
        """The file's name without `.py`."""
        return Path(self.path).stem

    @property
    def COLUMNS(self) -> Mapping[str, str]:
        """Column -> kind."""
        return _columns(self.path, state_of(self.path))

    def fingerprint(self) -> str:
        """Its name, which is the table's, its digest, and what it imports."""
        path = Path(self.path)
        return ", ".join([path.name, file_sha256(path), *imported(path)])

    def measure(self, text: str) -> dict[str, Value]:
        made = _measure(self.path, state_of(self.path))(text, **self.parameters)
        if not isinstance(made, dict) or made.keys() != self.COLUMNS.keys():
            told = sorted(made) if isinstance(made, dict) else type(made).__name__
            raise ValueError(f"measure gives {told}; it must give {sorted(self.COLUMNS)}")
        return {name: _value(name, kind, made[name]) for name, kind in self.COLUMNS.items()}


def _value(name: str, kind: str, value: Any) -> Value:
    if kind == "number":
        if value is None or isinstance(value, (int, float)):
            return value
        raise ValueError(f"{name} is {value!r}; it must be a number or None")
    try:
        return [(int(start), int(end), float(score)) for start, end, score in value]
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}; it must be a list of (start, end, score)") from None


@cache
def _columns(path: str, state: State) -> Mapping[str, str]:
    try:
        tree = ast.parse(Path(path).read_bytes(), path)
        found = [ast.literal_eval(value) for value in map(_said, tree.body) if value is not None]
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"path is {path!r}, where COLUMNS cannot be read ({error})") from error
    columns = found[-1] if found else None
    if not isinstance(columns, dict) or not columns:
        raise ValueError(
            f"path is {path!r}, which has no COLUMNS = {{'name': 'number' or 'spans', …}}"
        )
    for name, kind in columns.items():
        if not isinstance(name, str) or not name.isidentifier():
            must = "a column's name must be letters, digits and underscores"
            raise ValueError(f"path is {path!r}, whose COLUMNS has {name!r}; {must}")
        if kind not in KINDS:
            must = "it must be 'number' or 'spans'"
            raise ValueError(f"path is {path!r}, whose COLUMNS has {name!r}: {kind!r}; {must}")
    return columns


def _said(statement: ast.stmt) -> ast.expr | None:
    """What a statement, annotated or not, says that COLUMNS is."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign):
        target = statement.target
    else:
        return None
    return statement.value if isinstance(target, ast.Name) and target.id == "COLUMNS" else None


@cache
def _measure(path: str, state: State) -> Callable[..., Any]:
    # its dataclasses look for their module there; the name is nobody else's
    name = f"python_file {Path(path).resolve()}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    measure = getattr(module, "measure", None)
    if not callable(measure):
        raise ValueError(f"{path} has no function measure")
    made: Callable[..., Any] = measure
    return made
