"""The Python installation as a corpus: real text that every machine has, read from its own files.

Never site-packages, which change with what is installed, and no tests. Code is parsed, never run.
"""

from __future__ import annotations

import ast
import inspect
import io
import os
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pipeline.core.errors import Unavailable
from pipeline.core.fingerprints import file_digests
from pipeline.core.keys import digest
from pipeline.data.document import Document, json_text
from pipeline.data.sources.rows import Malformed, Piece

Part = Literal["documentation", "code", "functions", "preferences"]
PARTS = ("documentation", "code", "functions", "preferences")
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
TOPICS = "pydoc_data/topics.py"
QUESTION = "What does this do?"
MIN_ANSWER, MAX_ANSWER = 20, 300  # characters
MAX_SOURCE = 400  # characters of a function that are shown
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Function(NamedTuple):
    """A function or class with a docstring: its code without it, and its first paragraph."""

    name: str
    code: str
    answer: str


@dataclass(frozen=True)
class PythonInstall:
    """One part of the standard library of the Python that runs this.

    `metadata.module` of every document is the top-level module or package that it is from, so that
    a hash of it holds the same modules out of every part; a topic of the manual is one of its own.

    Args:
        part: `documentation`: the topics of `pydoc_data`, and a module's docstrings as one text;
            `code`: a file a document; `functions`: conversations, in `metadata.messages`, that ask
            what a function does and are answered by its docstring's first paragraph; `preferences`:
            the answer as `metadata.chosen`, and cut off in mid-sentence as `metadata.rejected`.
        source: the name its documents carry.
        root: folder of a standard library; by default the one in use.
    """

    part: Part
    source: str
    root: str | None = None
    licence: str = "PSF-2.0"
    provenance: str = "the Python installation this ran on"

    VERSION: ClassVar[str] = "001"
    UNKEYED: ClassVar[tuple[str, ...]] = ("root",)

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ValueError(f"part is {self.part!r}; it must be one of {', '.join(PARTS)}")
        if not self.source:
            raise ValueError("source is ''; it must be a name")
        if self.root is not None and not Path(self.root).is_dir():
            raise ValueError(f"root is {self.root!r}, which is no folder")

    def fingerprint(self) -> str:
        return self.pieces()[0].digest

    def pieces(self) -> list[Piece]:
        root = self._root()
        names = self._files()
        digests = file_digests([root / name for name in names])
        whole = digest([[name, each] for name, each in zip(names, digests, strict=True)])
        return [Piece(str(root), self.part, whole)]

    def read(self, piece: Piece) -> Iterator[Document | Malformed]:
        for name in self._files():
            try:
                with tokenize.open(self._root() / name) as file:
                    text = file.read()
                if name == TOPICS and self.part == "documentation":
                    yield from self._topics(text)
                else:
                    yield from self._documents(name, text)
            except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError) as error:
                yield Malformed(name, 1, f"is no Python file of this Python ({error})")

    def digest_now(self, piece: Piece) -> str:
        return self.fingerprint()

    def _root(self) -> Path:
        return Path(self.root or sysconfig.get_paths()["stdlib"])

    def _files(self) -> list[str]:
        """Paths of the sources below the root, sorted, with forward slashes."""
        root, found = self._root(), []
        for folder, below, files in os.walk(root):
            below[:] = [name for name in below if name not in LEFT_OUT]
            inside = Path(folder).relative_to(root)
            # _sysconfigdata holds the paths of the machine that Python was built on
            names = (n for n in files if n.endswith(".py") and not n.startswith("_sysconfigdata"))
            found += [(inside / name).as_posix() for name in names]
        if not found or (self.part == "documentation" and TOPICS not in found):
            missing = TOPICS if found else "Python sources"
            raise Unavailable(
                f"the Python installation in {root} has no {missing}; install the standard "
                "library's sources or take another source"
            )
        return sorted(found)

    def _topics(self, text: str) -> Iterator[Document]:
        tree = ast.parse(text)
        values = [node.value for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign))]
        for value in values:
            topics = ast.literal_eval(value) if value is not None else None
            if isinstance(topics, dict):
                for name, topic in sorted(topics.items()):
                    module = {"module": f"pydoc_data.topics.{name}"}
                    yield self._document(f"topics/{name}", topic.strip() + "\n", module)

    def _documents(self, name: str, text: str) -> Iterator[Document]:
        module = name.split("/")[0].removesuffix(".py")
        if self.part == "code":
            if text.strip() and name != TOPICS:  # the documentation's text, split otherwise there
                yield self._document(name, text, {"module": module})
            return
        tree = ast.parse(text)
        if self.part == "documentation":
            docs = [f"{place}\n\n{doc}" for place, doc in _docstrings(tree, name) if doc]
            if docs:
                yield self._document(name, "\n\n\n".join(docs) + "\n", {"module": module})
            return
        for function in functions_in(tree, text):
            prompt = f"{QUESTION}\n\n{function.code}"
            asked = {"role": "user", "content": prompt}
            about: dict[str, Any] = {"module": module}
            if self.part == "functions":
                about["messages"] = [asked, {"role": "assistant", "content": function.answer}]
            else:
                about["prompt"], about["chosen"] = [asked], function.answer
                about["rejected"] = cut_off(function.answer)
            whole = f"{prompt}\n\n{function.answer}\n"
            yield self._document(f"{name}:{function.name}", whole, about)

    def _document(self, name: str, text: str, metadata: dict[str, Any]) -> Document:
        return Document(name, text, self.source, metadata=json_text(metadata))


def functions_in(tree: ast.Module, text: str) -> Iterator[Function]:
    """Functions and classes, methods too, whose docstring begins with a short paragraph."""
    lines = text.splitlines()
    taken: dict[str, int] = {}
    for name, node in _definitions(tree, ""):
        answer = " ".join((ast.get_docstring(node) or "").strip().split("\n\n")[0].split())
        if not MIN_ANSWER <= len(answer) <= MAX_ANSWER or answer.startswith(">>>"):
            continue
        taken[name] = taken.get(name, 0) + 1
        again = f"#{taken[name]}" if taken[name] > 1 else ""
        yield Function(name + again, _code_without_docstring(node, lines), answer)


def cut_off(answer: str) -> str:
    """The first half of an answer's words, ended in mid-sentence."""
    words = answer.split(" ")
    return " ".join(words[: max(1, len(words) // 2)]).rstrip(".,;:!?")


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = f"{prefix}{child.name}"
            yield name, child
            if isinstance(child, ast.ClassDef):
                yield from _definitions(child, f"{name}.")
        elif isinstance(child, (ast.If, ast.Try, ast.With)):
            yield from _definitions(child, prefix)


def _docstrings(tree: ast.Module, name: str) -> Iterator[tuple[str, str]]:
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    yield module, ast.get_docstring(tree) or ""
    for place, node in _definitions(tree, ""):
        yield f"{module}.{place}", ast.get_docstring(node) or ""


def _code_without_docstring(node: Definition, lines: list[str]) -> str:
    first, doc = node.lineno - 1, node.body[0]
    head = lines[first : doc.lineno - 1]
    rest = lines[(doc.end_lineno or doc.lineno) : node.end_lineno]
    if not head:  # all on one line
        head = [inspect.cleandoc(lines[first]).split('"')[0].split("'")[0].rstrip()]
    code = textwrap.dedent("\n".join([*head, *rest])).strip()
    kept = io.StringIO()
    for line in code.splitlines():
        if kept.tell() + len(line) > MAX_SOURCE and kept.tell():
            break
        kept.write(line.rstrip() + "\n")
    return kept.getvalue().strip()[:MAX_SOURCE]
