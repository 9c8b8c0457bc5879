"""Tensors in safetensors files: whole in one, or rows of each in several; read without torch.

A checkpoint of one rank has `model.safetensors`; one of two has `model-00001-of-00002.safetensors`
and `model-00002-of-00002.safetensors`. The header of a file says where in the whole its tensors
begin, in the form of torch.distributed.checkpoint's Hugging Face storage, which reads such files:

    {"DCP_SHARDING_INFO": {"embed.weight": {"saved_offsets": [64, 0]}, …}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from safetensors import SafetensorError, safe_open

from pipeline.core.errors import CorruptShard, damage
from pipeline.core.untrusted import built, parsed

SHARDING, OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"
KINDS = ("model", "optimizer")
_NAME = re.compile(r"(model|optimizer)(?:-(\d{5})-of-(\d{5}))?\.safetensors")


def file_name(kind: str, rank: int = 0, num_ranks: int = 1) -> str:
    """What a rank's file of `kind`, "model" or "optimizer", is called."""
    part = "" if num_ranks == 1 else f"-{rank + 1:05d}-of-{num_ranks:05d}"
    return f"{kind}{part}.safetensors"


def kind_of(name: str) -> str | None:
    """The kind of a file in a checkpoint; None for what is no tensors."""
    found = _NAME.fullmatch(name)
    return found.group(1) if found else None


def are_complete(names: Collection[str]) -> bool:
    """Whether these are the files of a checkpoint, one of each kind a rank, and no others."""
    num_ranks = sum(kind_of(name) == "model" for name in names)
    return num_ranks > 0 and set(names) == {
        file_name(kind, rank, num_ranks) for kind in KINDS for rank in range(num_ranks)
    }


def tensor_files(folder: Path, kind: str) -> list[Path]:
    """The files of a kind in a checkpoint, by rank.

    Raises:
        CorruptShard: there is none, or not one of each rank.
    """
    found = sorted(p for p in Path(folder).glob(f"{kind}*.safetensors") if kind_of(p.name) == kind)
    wanted = [file_name(kind, rank, len(found)) for rank in range(len(found))]
    if not found or [each.name for each in found] != wanted:
        there = ", ".join(each.name for each in found) or "none"
        raise CorruptShard(folder, None, f"lacks {kind} files; there is {there}")
    return found


def sharding_note(offsets: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """The metadata of a file whose tensors begin at these places of the whole ones."""
    return {SHARDING: json.dumps({name: {OFFSETS: list(at)} for name, at in offsets.items()})}


def require_open(path: Path) -> None:
    """Raises OSError where a file may not be opened; safetensors calls every such one missing."""
    with open(path, "rb"):
        pass


class _Part(NamedTuple):
    """Rows of a tensor in one of the files."""

    first_row: int
    shape: list[int]
    path: Path
    file: Any


class TensorFiles:
    """Tensors by name, wherever their rows stand.

    Args:
        framework: "pt" or "np": as what tensors are read.

    Raises:
        CorruptShard: a file is no safetensors, or rows of a tensor are missing.
    """

    def __init__(self, paths: Iterable[Path], framework: str = "pt") -> None:
        self._open = ExitStack()
        self._parts: dict[str, list[_Part]] = {}
        try:
            for path in paths:
                self._add(Path(path), framework)
            for name, parts in self._parts.items():
                parts.sort(key=lambda part: part.first_row)
                _require_joined(name, parts)
        except BaseException:
            self._open.close()
            raise

    def _add(self, path: Path, framework: str) -> None:
        try:
            if path.exists() and not path.is_file():
                raise ValueError("it is no plain file")
            require_open(path)
            file = self._open.enter_context(safe_open(path, framework=framework))
            note = (file.metadata() or {}).get(SHARDING)
            places = parsed(note.encode()) if note else {}
            for name in file.keys():
                shape = list(file.get_slice(name).get_shape())
                offsets = [0] * len(shape)
                if note:
                    offsets = built(list[int], places[name][OFFSETS], f"{OFFSETS} of {name}")
                if len(offsets) != len(shape) or any(offsets[1:]):
                    raise ValueError(f"{name} is cut along another dimension than its first")
                first = offsets[0] if offsets else 0
                self._parts.setdefault(name, []).append(_Part(first, shape, path, file))
        except (OSError, SafetensorError, LookupError, ValueError, TypeError) as error:
            raise damage(path, error, "not readable safetensors") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    @property
    def names(self) -> list[str]:
        return sorted(self._parts)

    def shape(self, name: str) -> tuple[int, ...]:
        parts = self._parts[name]
        return tuple(parts[-1].shape) if len(parts) == 1 else _joined_shape(parts)

    def path(self, name: str) -> Path:
        """The file that has the first rows of a tensor."""
        return self._parts[name][0].path

    def kind(self, name: str) -> str:
        """The type of a tensor, as safetensors calls it: "F32"."""
        return str(self._parts[name][0].file.get_slice(name).get_dtype())

    def parts(self, name: str) -> Iterator[Any]:
        """The rows of a tensor, a part a file, each read when it is asked for."""
        for part in self._parts[name]:
            try:
                yield part.file.get_tensor(name)
            except SafetensorError as error:
                raise CorruptShard(part.path, name, f"not readable ({error})") from error


def _joined_shape(parts: Sequence[_Part]) -> tuple[int, ...]:
    return (sum(part.shape[0] for part in parts), *parts[0].shape[1:])


def _require_joined(name: str, parts: Sequence[_Part]) -> None:
    """Raises CorruptShard unless the parts of a tensor follow on each other."""
    row = 0
    for part in parts:
        if part.first_row != row or part.shape[1:] != parts[0].shape[1:]:
            raise CorruptShard(part.path, name, f"begins at row {part.first_row}, not at {row}")
        row += part.shape[0] if part.shape else 1
