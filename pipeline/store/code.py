"""The code that made a result: digests of the syntax of all of ours that it reaches.

A part is a function, a method, a class without its methods, or a constant of a module or class. The
names that it uses lead to further parts, through imports (those inside functions too) and into
other modules, which are read and never imported. What only says how a result is made (`HOW`) is
left out. Not seen are names found at run time (by `getattr`, in a registry), data files, and other
people's packages beyond which of their names are used; so whoever gives a component hands in its
class. The fingerprint stands beside a result and is in no key: `VERSION` is what people change.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.store import syntax
from pipeline.store.syntax import Import, Use

OURS = ("pipeline", "steps")
HOW = ("pipeline.core.engine", "pipeline.core.errors", "pipeline.store")
_BASE = Path(__file__).resolve().parents[2]  # the folder that holds `pipeline` and `steps`


@dataclass(frozen=True)
class Code:
    """The parts that a result was made by, each with its digest, and the digest of them all."""

    digest: str
    parts: dict[str, str]

    @classmethod
    def of(cls, parts: dict[str, str]) -> Code:
        text = "\n".join(f"{name} {each}" for name, each in sorted(parts.items()))
        return cls(_sha256(text), dict(sorted(parts.items())))

    @classmethod
    def from_json(cls, form: Any) -> Code | None:
        """What `to_json` gave; None for anything else."""
        parts = form.get("parts") if isinstance(form, dict) else None
        if not isinstance(parts, dict) or not isinstance(form.get("digest"), str):
            return None
        return cls(form["digest"], {str(name): str(each) for name, each in parts.items()})

    def to_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "parts": self.parts}

    def changes(self, newer: Code) -> list[str]:
        """The parts that both have and that differ, and those of one alone.

        What only moved is left out: a part of one alone that the other has under any name.
        """
        mine, theirs = set(self.parts.values()), set(newer.parts.values())
        gone = [n for n, e in self.parts.items() if n not in newer.parts and e not in theirs]
        come = [n for n, e in newer.parts.items() if n not in self.parts and e not in mine]
        return sorted([*self.edited(newer), *gone, *come])

    def edited(self, newer: Code) -> list[str]:
        """The parts that both have and that differ: what to tell of two steps with unlike parts."""
        common = self.parts.keys() & newer.parts.keys()
        return sorted(name for name in common if self.parts[name] != newer.parts[name])


def code_of(cls: type, method: str, components: Iterable[type] = ()) -> Code | None:
    """The code of `cls.method`, of the components that it is given, and of what they reach.

    None where there is no source to read, as for a class made in a notebook.
    """
    return _code_of(cls, method, frozenset(components))


@lru_cache(maxsize=4096)
def _code_of(cls: type, method: str, components: frozenset[type]) -> Code | None:
    sources = _sources(_folder_of(cls.__module__))
    todo = sources.method(Place(cls.__module__, cls.__qualname__), method)
    if not todo:
        return None
    for each in components:
        todo += sources.members(Place(each.__module__, each.__qualname__))
    parts: dict[str, str] = {}
    while todo:
        place = todo.pop()
        if str(place) not in parts:
            part = sources.part(place)
            parts[str(place)] = part.digest
            todo += part.reaches
    return Code.of(parts)


class Place(NamedTuple):
    """Where a part stands; `name` is `function`, `CONSTANT`, `Class` or `Class.method`."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Part(NamedTuple):
    """A digest, and where the names that it uses lead."""

    digest: str
    reaches: tuple[Place, ...]


@dataclass
class Module:
    """A source file: the statements that make each of its names, and what its imports bind."""

    name: str
    is_package: bool
    made: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Import] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)

    def nodes(self, name: str) -> list[ast.stmt]:
        """The statements of a part; none where it has no such part."""
        outer, _, inner = name.partition(".")
        found = self.made.get(outer, [])
        whole = found[-1] if found and isinstance(found[-1], ast.ClassDef) else None
        if whole is None or not inner:
            return [syntax.without_methods(whole)] if whole is not None else found
        return [
            each
            for each in whole.body
            if inner in syntax.bound_names(each)
            and not (isinstance(each, ast.AnnAssign) and each.value is None)  # a hint, no value
        ]

    def methods(self, name: str) -> list[str]:
        """The methods of a class, by their full name here."""
        found = self.made.get(name, [])
        body = found[-1].body if found and isinstance(found[-1], ast.ClassDef) else []
        return [f"{name}.{each.name}" for each in body if isinstance(each, syntax.Function)]


class Sources:
    """The source files of ours and those in a folder of a user's, each read once.

    A file that is edited while a process runs does not change what the process runs.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._modules: dict[str, Module | None] = {}
        self._parts: dict[Place, Part] = {}

    def module(self, name: str) -> Module | None:
        """A module of ours by its name; None for other people's."""
        if name not in self._modules:
            self._modules[name] = self._read(name)
        return self._modules[name]

    def part(self, place: Place) -> Part:
        """The digest of a part, and the places that it leads to."""
        if place not in self._parts:
            module = self.module(place.module)
            nodes = module.nodes(place.name) if module is not None else []
            self._parts[place] = self._part(module, nodes) if module is not None else Part("", ())
        return self._parts[place]

    def members(self, place: Place) -> list[Place]:
        """The parts of what stands at a place: of a class, itself and its methods."""
        module = self.module(place.module)
        if module is None or _is_how(place.module) or not module.nodes(place.name):
            return []
        return [place, *(Place(place.module, each) for each in module.methods(place.name))]

    def method(self, place: Place, name: str) -> list[Place]:
        """A method that a class has or inherits, and what of the class it reaches through self."""
        found: list[Place] = []
        todo = [name]
        classes = list(self._with_bases(place))
        while todo:
            wanted = todo.pop()
            for each in classes:
                module = self.module(each.module)
                nodes = module.nodes(f"{each.name}.{wanted}") if module is not None else []
                if nodes:
                    part = Place(each.module, f"{each.name}.{wanted}")
                    if part not in found:
                        found.append(part)
                        todo += sorted(set().union(*map(syntax.names_on_self, nodes)))
                    break
            else:
                if wanted == name:
                    return []
        return found

    def _with_bases(self, place: Place) -> Iterator[Place]:
        module = self.module(place.module)
        if module is None or not module.nodes(place.name):
            return
        yield place
        for node in module.nodes(place.name):
            for base in getattr(node, "bases", []):
                for use in syntax.uses_of([base], module.name, module.is_package):
                    for each in self._leads_to(module, use):
                        yield from self._with_bases(each)

    def _part(self, module: Module, nodes: list[ast.stmt]) -> Part:
        foreign: list[str] = []
        reaches: set[Place] = set()
        for use in syntax.uses_of(nodes, module.name, module.is_package):
            bound = use.imported or module.imports.get(use.chain[0])
            if bound is not None and not self._is_ours(bound.module):
                foreign.append(f"{use.chain[0]}={bound.module}.{bound.attribute}")
                continue
            for place in self._leads_to(module, use):
                reaches.update(self.members(place))
        text = "\n".join([syntax.text_of(nodes), *sorted(set(foreign))])
        return Part(_sha256(text)[:16], tuple(sorted(reaches)))

    def _leads_to(self, module: Module, use: Use, seen: tuple[str, ...] = ()) -> list[Place]:
        """Where a name stands that a module uses: one place, or none for what is not ours."""
        head, *rest = use.chain
        if use.imported is not None:
            return self._within(use.imported, rest)
        if head in module.made:
            return [Place(module.name, head)]
        if head in module.imports:
            return self._within(module.imports[head], rest)
        for star in module.stars:
            source = self.module(star)
            if source is not None and star not in seen:
                found = self._leads_to(source, use, (*seen, star))
                if found:
                    return found
        return []

    def _within(self, bound: Import, rest: list[str]) -> list[Place]:
        chain = [bound.attribute, *rest] if bound.attribute else rest
        name = bound.module
        while True:
            module = self.module(name)
            if module is None or not chain:
                return []
            if chain[0] in module.made or chain[0] in module.imports or module.stars:
                found = self._leads_to(module, Use(tuple(chain)))
                if found:
                    return found
            name, chain = f"{name}.{chain[0]}", chain[1:]

    def _is_ours(self, name: str) -> bool:
        return self.module(name) is not None

    def _read(self, name: str) -> Module | None:
        path = self._find(name)
        if path is None:
            return None
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            return None
        module = Module(name, path.name == "__init__.py")
        for each in syntax.flattened(tree.body):
            if isinstance(each, (ast.Import, ast.ImportFrom)):
                for bound, to in syntax.imports_of(each, name, module.is_package).items():
                    if bound == "*":
                        module.stars.append(to.module)
                    else:
                        module.imports[bound] = to
            else:
                for made in syntax.bound_names(each):
                    module.made.setdefault(made, []).append(each)
        return module

    def _find(self, name: str) -> Path | None:
        if name == "__main__":
            file = getattr(sys.modules["__main__"], "__file__", None)
            return Path(file) if file else None
        top, *below = name.split(".")
        base = _BASE if top in OURS else self.folder
        if base is None:
            return None
        for path in (base.joinpath(top, *below, "__init__.py"), base.joinpath(top, *below)):
            path = path if path.name == "__init__.py" else path.with_name(f"{path.name}.py")
            if path.is_file():
                return path
        return None


@lru_cache(maxsize=64)
def _sources(folder: Path | None) -> Sources:
    return Sources(folder)


def _folder_of(module: str) -> Path | None:
    """The folder that a user's top-level module is found in; None for ours and for installed ones.

    What lies beside it there is the user's as well.
    """
    top = module.split(".")[0]
    file = getattr(sys.modules.get(module), "__file__", None)
    if top in OURS or file is None:
        return None
    below = 0 if module == "__main__" else module.count(".")
    path = Path(file).resolve()
    folder = path.parents[below + (path.name == "__init__.py")]
    installed = {Path(sysconfig.get_path(each)) for each in ("stdlib", "purelib", "platlib")}
    return None if any(each in (folder, *folder.parents) for each in installed) else folder


def _is_how(module: str) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in HOW)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()
