"""What a piece of Python says and which names it uses, read from its syntax tree.

`text_of` is the same for code that differs in comments, docstrings, type hints and formatting, and
on every version of Python: fields that are empty, positions, and what one version has and another
has not, are left out.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

Function = (ast.FunctionDef, ast.AsyncFunctionDef)
_Comprehension = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SKIPPED = {"ctx", "kind", "type_comment", "annotation", "returns", "type_ignores", "type_params"}


class Import(NamedTuple):
    """What an import statement binds a name to: a module, or an attribute of one."""

    module: str
    attribute: str = ""


class Use(NamedTuple):
    """A dotted name that code reads; `imported` where an import in the same function binds it."""

    chain: tuple[str, ...]
    imported: Import | None = None


def text_of(nodes: Iterable[ast.AST]) -> str:
    """The form of some statements, as JSON."""
    return json.dumps([_form(each, False) for each in nodes], separators=(",", ":"))


def uses_of(nodes: Iterable[ast.AST], module: str, is_package: bool) -> set[Use]:
    """The names from outside that statements of a module read, type hints included."""
    reader = _Uses(module, is_package)
    for each in nodes:
        reader.visit(each)
    return reader.found


def without_methods(node: ast.ClassDef) -> ast.ClassDef:
    """A class as its name, bases, decorators and fields."""
    body = [each for each in node.body if not isinstance(each, Function)]
    return ast.ClassDef(
        name=node.name,
        bases=node.bases,
        keywords=node.keywords,
        body=body,
        decorator_list=node.decorator_list,
    )


def imports_of(
    node: ast.Import | ast.ImportFrom, module: str, is_package: bool
) -> dict[str, Import]:
    """Name -> what it is bound to; `from x import *` is the name `*`."""
    if isinstance(node, ast.Import):
        return {
            each.asname or each.name.split(".")[0]: Import(
                each.name if each.asname else each.name.split(".")[0]
            )
            for each in node.names
        }
    source = node.module or ""
    if node.level:
        parts = module.split(".")
        kept = parts[: len(parts) - node.level + is_package]
        source = ".".join([*kept, source] if source else kept)
    return {each.asname or each.name: Import(source, each.name) for each in node.names}


def bound_names(statement: ast.stmt) -> Iterator[str]:
    """The names of a module or class that a statement makes or changes."""
    if isinstance(statement, (*Function, ast.ClassDef)):
        yield statement.name
        return
    targets: Sequence[ast.AST] = getattr(statement, "targets", [])
    for each in [*targets, getattr(statement, "target", None), getattr(statement, "name", None)]:
        while isinstance(each, (ast.Subscript, ast.Attribute)):  # TABLE['x'] = … changes TABLE
            each = each.value
        if isinstance(each, ast.AST):
            yield from (e.id for e in ast.walk(each) if isinstance(e, ast.Name))


def flattened(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements, those inside `if`, `try`, `with` and loops too."""
    for each in body:
        yield each
        if not isinstance(each, (*Function, ast.ClassDef)):
            for name in ("body", "orelse", "finalbody"):
                yield from flattened(getattr(each, name, []))
            for handler in getattr(each, "handlers", []):
                yield from flattened(handler.body)


def names_on_self(function: ast.AST) -> set[str]:
    """The attributes that a method reads of its first argument."""
    arguments = getattr(function, "args", None)
    if arguments is None or not (named := [*arguments.posonlyargs, *arguments.args]):
        return set()
    return {
        each.attr
        for each in ast.walk(function)
        if isinstance(each, ast.Attribute)
        and isinstance(each.value, ast.Name)
        and each.value.id == named[0].arg
    }


def _form(node: object, in_class: bool) -> Any:
    if isinstance(node, list):
        return [_form(each, in_class) for each in node]
    if isinstance(node, ast.Constant):
        said = node.value
        shown = hex(said) if type(said) is int else repr(said)  # repr refuses huge ones
        return ["Constant", type(said).__name__, shown]
    if not isinstance(node, ast.AST):
        return node if isinstance(node, (str, int)) else repr(node)
    form: list[Any] = [type(node).__name__]
    inner = isinstance(node, ast.ClassDef)
    value: Any
    for name in sorted(node._fields):
        value = getattr(node, name, None)
        if name in ("body", "values") and isinstance(value, list):
            value = _joined(value) if isinstance(node, ast.JoinedStr) else _said(node, value)
        if name == "annotation" and in_class and isinstance(node, ast.AnnAssign):
            form.append([name, _form(value, False)])  # a field of a dataclass
        elif name not in _SKIPPED and value not in (None, []):
            form.append([name, _form(value, inner)])
    return form


def _said(node: ast.AST, body: list[Any]) -> list[Any]:
    """A body without its docstring and imports; which names imports bind is said elsewhere."""
    if isinstance(node, (*Function, ast.ClassDef)) and body and isinstance(body[0], ast.Expr):
        first = body[0].value
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            body = body[1:]
    return [each for each in body if not isinstance(each, (ast.Import, ast.ImportFrom))]


def _joined(values: list[Any]) -> list[Any]:
    """The parts of an f-string with neighbouring texts as one."""
    merged: list[Any] = []
    for each in values:
        if isinstance(each, ast.Constant) and merged and isinstance(merged[-1], ast.Constant):
            merged[-1] = ast.Constant(str(merged[-1].value) + str(each.value))
        elif not (isinstance(each, ast.Constant) and each.value == ""):
            merged.append(each)
    return merged


class _Uses(ast.NodeVisitor):
    """Collects names that are bound neither in the code itself nor in a scope around it."""

    def __init__(self, module: str, is_package: bool) -> None:
        self.module, self.is_package = module, is_package
        self.scopes: list[dict[str, Import | None]] = []
        self.found: set[Use] = set()

    def visit_Name(self, node: ast.Name) -> None:
        self._use((node.id,))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain, inner = [node.attr], node.value
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            self._use((inner.id, *reversed(chain)))
        else:
            self.visit(inner)

    def _use(self, chain: tuple[str, ...]) -> None:
        for scope in reversed(self.scopes):
            if chain[0] in scope:
                imported = scope[chain[0]]
                if imported is not None:
                    self.found.add(Use(chain, imported))
                return
        self.found.add(Use(chain))

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for each in [*node.decorator_list, node.returns]:
            if each is not None:
                self.visit(each)
        self._function(node.args, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node.args, [node.body])

    def _function(self, arguments: ast.arguments, body: Sequence[ast.AST]) -> None:
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        named += [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
        for each in [*arguments.defaults, *arguments.kw_defaults, *(a.annotation for a in named)]:
            if each is not None:
                self.visit(each)
        self._within({**self._bound(body), **{each.arg: None for each in named}}, body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for each in [*node.decorator_list, *node.bases, *node.keywords]:
            self.visit(each)
        fields = [each for each in node.body if not isinstance(each, Function)]
        self._within(self._bound(node.body), fields)
        for method in node.body:  # the names of a class are not seen from its methods
            if isinstance(method, Function):
                self.visit(method)

    def _comprehension(self, node: Any) -> None:
        first, *others = node.generators
        self.visit(first.iter)
        targets = [each.target for each in node.generators]
        parts = [*first.ifs, *others]
        for name in ("elt", "key", "value"):
            if getattr(node, name, None) is not None:
                parts.append(getattr(node, name))
        names: dict[str, Import | None] = {}
        for each in targets:
            names |= {e.id: None for e in ast.walk(each) if isinstance(e, ast.Name)}
        self._within(names, parts)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def _within(self, scope: dict[str, Import | None], nodes: Iterable[ast.AST]) -> None:
        self.scopes.append(scope)
        for each in nodes:
            self.visit(each)
        self.scopes.pop()

    def _bound(self, body: Sequence[ast.AST]) -> dict[str, Import | None]:
        """What the statements of one scope bind; what an import binds keeps where it leads."""
        bound: dict[str, Import | None] = {}
        elsewhere: set[str] = set()
        todo = list(body)
        while todo:
            node = todo.pop()
            if isinstance(node, (*Function, ast.ClassDef)):
                bound.setdefault(node.name, None)
                continue
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                bound.update(imports_of(node, self.module, self.is_package))
            elif isinstance(node, (ast.Global, ast.Nonlocal)):
                elsewhere.update(node.names)
            elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                bound.setdefault(node.id, None)
            elif isinstance(node, _Comprehension):
                walked = (e.target for e in ast.walk(node) if isinstance(e, ast.NamedExpr))
                todo += walked
                continue
            elif isinstance(node, ast.Lambda):
                continue
            else:
                for name in ("name", "rest"):  # `except … as e`, patterns of `match`
                    if isinstance(getattr(node, name, None), str):
                        bound.setdefault(getattr(node, name), None)
            todo += ast.iter_child_nodes(node)
        return {name: to for name, to in bound.items() if name not in elsewhere}
