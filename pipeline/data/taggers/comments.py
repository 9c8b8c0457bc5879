"""How much of a program is comment."""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.core.errors import MissingDependency
from pipeline.data.taggers import DECIMALS, Value
from pipeline.data.text import paragraphs

MAX_PARSED = 1 << 21  # characters


@dataclass(frozen=True)
class Comments:
    """`comment_ratio`: characters of comments over characters, in one programming language.

    In Python they are the docstrings, without their indentation, and comments without any `#`; a
    text that does not parse has no docstrings, and one that cannot be cut into tokens no comments.
    Nor has a text of more than 2^21 characters docstrings, as its tree can take 700 times as much.
    What parses depends on the version of Python that runs. In other languages they are the comments
    that Pygments' lexer finds, of one line or of several. No text has a ratio of 0.

    Args:
        language: `python`, or the name of a lexer of Pygments (`java`, `javascript`, `c`, …).

    Source: allenai/dolma 1.2.1, `taggers/code`, `code_starcoder_taggers_v2`; Li et al. 2023,
        "StarCoder", section 3.
    Differs: the language is said here, once for all documents, where Dolma takes it from each one's
        `ext` and says 0.5 of what is none of Python, Java and JavaScript; a tagger sees the text.
    """

    language: str

    name: ClassVar[str] = "comments"
    VERSION: ClassVar[str] = "002"
    COLUMNS: ClassVar[dict[str, str]] = {"comment_ratio": "number"}

    def __post_init__(self) -> None:
        if not self.language.strip():
            raise ValueError("language is empty; it must be python or a lexer of Pygments")

    def measure(self, text: str) -> dict[str, Value]:
        size = _python(text) if self.language == "python" else self._lexed(text)
        return {"comment_ratio": round(size / len(text), DECIMALS) if text else 0.0}

    def _lexed(self, text: str) -> int:
        try:
            from pygments.lexers import get_lexer_by_name
            from pygments.token import Comment
            from pygments.util import ClassNotFound
        except ImportError as error:
            raise MissingDependency("pygments", "the tagger 'comments'") from error
        try:
            tokens = get_lexer_by_name(self.language).get_tokens(text)
        except ClassNotFound:
            raise ValueError(
                f"language is {self.language!r}, of which Pygments has no lexer"
            ) from None
        return sum(
            len(part) for kind, part in tokens if kind in (Comment.Multiline, Comment.Single)
        )


def _python(text: str) -> int:
    return len(f"{_docstrings(text)}\n{_comments(text)}".strip())


def _docstrings(text: str) -> str:
    """All of them: of classes, of functions, then the module's, each by name."""
    if len(text) > MAX_PARSED:
        return ""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.Module)
    try:
        with warnings.catch_warnings():  # of what it thinks of the text
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    nodes: list[Any] = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: (type(node).__name__, getattr(node, "name", "")))
    return "\n".join(found for node in nodes if (found := ast.get_docstring(node)))


def _comments(text: str) -> str:
    every = io.StringIO()
    own_lines = (text[start:end] for start, end in paragraphs(text))
    try:
        for each in tokenize.generate_tokens(own_lines.__next__):
            if each.type == tokenize.COMMENT:
                every.write(each.string.replace("#", ""))
    except (tokenize.TokenError, SyntaxError):
        return ""
    return every.getvalue()
