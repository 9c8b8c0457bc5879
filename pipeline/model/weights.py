"""The weights of a checkpoint: written, read from files of any number of ranks, and digested."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.store.tensors import TensorFiles, tensor_files


def save_tensors(state: Mapping[str, Tensor], path: Path, note: dict[str, str] | None) -> None:
    """Write a safetensors file that whoever may read its folder's other files can read.

    The library makes it one that its owner alone reads, whatever the umask.

    Args:
        note: the metadata of the file.
    """
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file(dict(state), path, metadata=note)
    with suppress(PermissionError):  # of a file system that has no modes
        path.chmod(mode)


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Content digest of tensors: names, types, shapes and values, whatever file holds them."""
    whole = hashlib.sha256()
    for name in sorted(state):
        _feed(whole, name, tuple(state[name].shape), [state[name]])
    return whole.hexdigest()


def files_digest(paths: Iterable[Path]) -> str:
    """`weights_digest` of the tensors in some files, a part of a tensor in memory at a time."""
    whole = hashlib.sha256()
    with TensorFiles(paths) as files:
        for name in files.names:
            _feed(whole, name, files.shape(name), files.parts(name))
    return whole.hexdigest()


def read_tensors(paths: Iterable[Path]) -> dict[str, Tensor]:
    """All tensors in some files, whole.

    Raises:
        CorruptShard: a file is no safetensors, or rows of a tensor are missing.
    """
    with TensorFiles(paths) as files:
        return {name: _joined(list(files.parts(name))) for name in files.names}


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, whole; raises CorruptShard as `read_tensors` does."""
    return read_tensors(tensor_files(folder, "model"))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _feed(whole: Any, name: str, shape: tuple[int, ...], parts: Iterable[Tensor]) -> None:
    """Add a tensor, which may come in several parts of its rows, to a digest."""
    for place, part in enumerate(parts):
        if place == 0:
            kind = str(part.dtype).removeprefix("torch.")
            whole.update(f"{name}\0{kind}\0{list(shape)}\n".encode())
        flat = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        for block in torch.split(flat, 1 << 26):
            whole.update(block.numpy())
