"""A manifest: a small JSON file that says what the files of a result are.

An artifact is a frozen dataclass; `root` is the folder of its files and is not part of it, so a
result can be moved. Its `content` is the digest of its logical content: every field, with each
file standing by its own content digest and not by its encoding, size or SHA-256.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pipeline.core.errors import CorruptShard, damage, nearest
from pipeline.core.files import StoredFile, write_json
from pipeline.core.keys import digest
from pipeline.core.untrusted import Remembered, built, parsed, read_plain_file

MANIFEST = "manifest.json"
A = TypeVar("A", bound="Artifact")


@dataclass(frozen=True)
class Artifact:
    """Base of all manifests."""

    root: Path = field(compare=False, repr=False)
    content: str

    KINDS: ClassVar[dict[str, type[Artifact]]] = {}
    DERIVED: ClassVar[tuple[str, ...]] = ()  # fields that say where, not what

    def __init_subclass__(cls) -> None:
        Artifact.KINDS[cls.__name__] = cls

    @classmethod
    def of(cls: type[A], root: Path, **values: Any) -> A:
        """Build the manifest from its fields, compute `content`, write `manifest.json`."""
        draft = cls(root=Path(root), content="", **values)
        made = dataclasses.replace(draft, content=draft.logical_digest())
        write_json(Path(root) / MANIFEST, made.to_json())
        return made

    def logical_digest(self) -> str:
        """Digest of what the artifact means, whatever the encoding of its files."""
        form = {"artifact": type(self).__name__}
        for each in dataclasses.fields(self):
            if each.name not in ("root", "content", *self.DERIVED):
                form[each.name] = _logical(getattr(self, each.name))
        return digest(form)

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values, `artifact` and `content` first."""
        form: dict[str, Any] = {"artifact": type(self).__name__, "content": self.content}
        for each in dataclasses.fields(self):
            if each.name not in ("root", "content"):
                form[each.name] = _plain(getattr(self, each.name))
        return form

    @staticmethod
    def load(root: Path) -> Artifact:
        """Read the manifest in `root`; nothing it names is opened.

        Raises:
            CorruptShard: it is not a manifest, or its `content` is not the digest of its fields.
        """
        path = Path(root) / MANIFEST
        try:
            return _known.get(str(root), read_plain_file(path), lambda text: _loaded(path, text))
        except (OSError, ValueError) as error:
            raise damage(path, error, "not a manifest") from error

    def check(self) -> None:
        """Raises ValueError where fields contradict each other; called when a manifest is read."""

    def files(self) -> Iterator[StoredFile]:
        """Every file the manifest names."""
        for each in dataclasses.fields(self):
            for record in _files(getattr(self, each.name)):
                yield from record.parts()

    def verify(self) -> None:
        """Check every file against the manifest; raises CorruptShard for the first that differs."""
        for each in self.files():
            each.verify(self.root)

    def canonical(self) -> dict[str, str]:
        """An artifact stands in a content key by its content."""
        return {"artifact": type(self).__name__, "content": self.content}


def _loaded(path: Path, text: bytes) -> Artifact:
    try:
        form = parsed(text)
        if not isinstance(form, dict):
            raise ValueError(f"it is a {type(form).__name__}; it must be an object")
        name = form.pop("artifact", None)
        if name not in Artifact.KINDS:
            raise ValueError(f"its artifact is {name!r}{nearest(name, Artifact.KINDS)}")
        kind = Artifact.KINDS[name]
        content = form.pop("content")
        hints = typing.get_type_hints(kind)
        names = {each.name for each in dataclasses.fields(kind)} - {"root", "content"}
        if names != form.keys():
            raise ValueError(f"its fields are {sorted(form)}; they must be {sorted(names)}")
        values = {name: built(hints[name], form[name], name) for name in names}
        made = kind(root=path.parent, content=content, **values)
        made.check()
        matches = made.logical_digest() == content
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise damage(path, error, "not a manifest") from error
    except RecursionError:
        raise CorruptShard(path, None, "not a manifest (it is nested too deeply)") from None
    if not matches:
        raise CorruptShard(path, None, "its content digest is not that of its fields")
    return made


_known: Remembered[Artifact] = Remembered()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _logical(value: Any) -> Any:
    if isinstance(value, StoredFile):
        return value.logical()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _logical(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_logical(item) for item in value]
    if isinstance(value, dict):
        return {name: _logical(item) for name, item in value.items()}
    return value


def _files(value: Any) -> Iterator[StoredFile]:
    if isinstance(value, StoredFile):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for each in dataclasses.fields(value):
            yield from _files(getattr(value, each.name))
    elif isinstance(value, list):
        for item in value:
            yield from _files(item)
