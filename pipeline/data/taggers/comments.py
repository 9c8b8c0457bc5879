"""How much of a program is comment."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from pipeline.core.errors import MissingDependency
from pipeline.data.taggers import DECIMALS, Value, package_version
from pipeline.data.text import paragraphs

MAX_PARSED = 1 << 21  # characters
# from each word, some lexers look on to the end of all that no other sign divides
LONG_RUN = re.compile(r"([\w\s.\[\]$<>?]{255})[\w.\[\]$<>?]")
MAX_UNCLOSED = (
    20  # comments that begin and do not end, of which each is looked for to the text's end
)


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
        Pygments takes time by the square of words without punctuation, and of `/*` without an end.
        So each 256th character of such words is read as a comma, and so is the star of every `/*`
        after the last `*/` but the first 20; only a comment that begins with it would be missed.
    """

    language: str

    name: ClassVar[str] = "comments"
    VERSION: ClassVar[str] = "003"
    COLUMNS: ClassVar[dict[str, str]] = {"comment_ratio": "number"}

    def __post_init__(self) -> None:
        if not self.language.strip():
            raise ValueError("language is empty; it must be python or a lexer of Pygments")
        if self.language != "python":
            with suppress(MissingDependency):  # a graph is built without it, too
                _lexer(self.language)

    def fingerprint(self) -> str:
        """What reads the language: a minor version of Python, whose grammar it is, or Pygments."""
        if self.language == "python":
            return f"Python {sys.version_info.major}.{sys.version_info.minor}"
        return package_version("pygments")

    def measure(self, text: str) -> dict[str, Value]:
        size = _python(text) if self.language == "python" else _lexed(self.language, text)
        return {"comment_ratio": round(size / len(text), DECIMALS) if text else 0.0}


@cache
def _lexer(language: str) -> Any:
    """The class of a lexer of Pygments."""
    try:
        from pygments.lexers import find_lexer_class_by_name
        from pygments.util import ClassNotFound
    except ImportError as error:
        raise MissingDependency("pygments", "the tagger 'comments'") from error
    try:
        return find_lexer_class_by_name(language)
    except ClassNotFound:
        raise ValueError(f"language is {language!r}, of which Pygments has no lexer") from None


def _lexed(language: str, text: str) -> int:
    lexer = _lexer(language)()
    from pygments.token import Comment

    tokens = lexer.get_tokens(_divided(text))
    return sum(len(part) for kind, part in tokens if kind in (Comment.Multiline, Comment.Single))


def _divided(text: str) -> str:
    """A text of the same length and with the same comments, which a lexer reads in time."""
    text = LONG_RUN.sub(r"\1,", text)
    closed = text.rfind("*/") + 2 if "*/" in text else 0
    *parts, rest = text[closed:].split("/*", MAX_UNCLOSED)
    if len(parts) == MAX_UNCLOSED:
        rest = rest.replace("/*", "/,")
    return text[:closed] + "/*".join([*parts, rest])


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
