"""The files of a checkpoint: each rank writes what it holds, and any number of ranks reads it.

<series>/step000400/model.safetensors       parameters, float32
                    optimizer.safetensors   the two moments of each, by its name
                    state.json              step, tokens read and learned, digests

One rank writes these; of two, each writes `model-00001-of-00002.safetensors` and the like with its
rows (pipeline/store/tensors.py). No rank ever holds more than its own part; no file is a pickle.

The files are those of torch.distributed.checkpoint's Hugging Face storage, and its reader and
planner give each rank its rows back, whatever the number of ranks was. Its writer is not used: it
brings nothing for tensors that FSDP2 cuts along their rows, builds every file in memory once more,
and gathers plans and results of all ranks as pickled objects. Its reader would do that with plans
too: here each rank plans and reads for itself (`no_dist`), so nothing is pickled between ranks.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.core.artifacts import checkpoint_name
from pipeline.core.errors import CorruptShard
from pipeline.core.files import file_sha256, sync
from pipeline.model.olmo import Olmo
from pipeline.model.weights import files_digest, save_tensors
from pipeline.store.checkpoints import (
    CheckpointRecord,
    read_record,
    stopped_folder,
    write_record,
)
from pipeline.store.tensors import KINDS, TensorFiles, file_name, sharding_note, tensor_files
from pipeline.train.optimizer import STATE

logger = logging.getLogger(__name__)


def folder_of(series: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return Path(series) / checkpoint_name(step)


def temporary_folder(folder: Path) -> Path:
    """Where a checkpoint is written until it is complete."""
    return folder.with_name(f".{folder.name}.tmp")


class Held(NamedTuple):
    """The rows of a tensor that a rank holds, on the CPU, and where in the whole they begin."""

    rows: Tensor
    offsets: tuple[int, ...]


Snapshot = dict[str, dict[str, Held]]  # kind of file -> name -> what goes there


def take_snapshot(model: Olmo, optimizer: torch.optim.Optimizer) -> Snapshot:
    """A copy of what this rank holds of parameters and optimizer state, in float32."""
    live = zip(KINDS, _tensors(model, optimizer), strict=True)
    return {
        kind: {name: part for name, each in tensors.items() if (part := _held(each)) is not None}
        for kind, tensors in live
    }


def _tensors(
    model: Olmo, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters, and the optimizer's moments, by name."""
    parameters = dict(sorted(model.named_parameters()))
    moments = {}
    for name, parameter in parameters.items():
        for each in STATE:
            if (moment := optimizer.state.get(parameter, {}).get(each)) is not None:
                moments[f"{name}.{each}"] = moment
    return {name: each.detach() for name, each in parameters.items()}, moments


def _held(tensor: Tensor) -> Held | None:
    """The part of a tensor that this rank writes; None where another rank does."""
    offsets: tuple[int, ...] = (0,) * tensor.dim()
    if hasattr(tensor, "device_mesh"):
        from torch.distributed.tensor import DTensor

        assert isinstance(tensor, DTensor)
        places = tensor.device_mesh.get_coordinate() or ()
        copies = zip(places, tensor.placements, strict=True)
        if any(place and placement.is_replicate() for place, placement in copies):
            return None
        (chunk,) = tensor.__create_chunk_list__()  # type: ignore[no-untyped-call]
        tensor, offsets = tensor.to_local(), tuple(chunk.offsets)
        if not tensor.numel():
            return None
    return Held(tensor.to("cpu", torch.float32, copy=True).contiguous(), offsets)


def write_part(held: Snapshot, folder: Path, rank: int, num_ranks: int) -> dict[str, str]:
    """Write the files of a rank and have them on the disk; gives their SHA-256 by name."""
    sha256 = {}
    for kind, tensors in held.items():
        path = folder / file_name(kind, rank, num_ranks)
        note = sharding_note({n: each.offsets for n, each in tensors.items()})
        rows = {name: each.rows for name, each in tensors.items()}
        save_tensors(rows, path, note if num_ranks > 1 else None)
        sync(path)
        sha256[path.name] = file_sha256(path)
    return sha256


def commit(folder: Path, record: CheckpointRecord) -> None:
    """Give a checkpoint whose files are all written its record and its name."""
    temporary = temporary_folder(folder)
    weights = files_digest(tensor_files(temporary, "model"))
    write_record(temporary, record._replace(weights=weights))
    sync(temporary)
    before = make_way(folder)
    os.replace(temporary, folder)
    sync(folder.parent)
    if before is not None:
        shutil.rmtree(before, ignore_errors=True)


def make_way(folder: Path) -> Path | None:
    """Move what stands under the name of a checkpoint that is about to be named so.

    Gives where the state of an earlier stop is then, to be removed once the new one has its name.
    """
    if not os.path.lexists(folder):
        return None
    if folder != stopped_folder(folder.parent):
        set_aside(folder, "it is written anew")
        return None
    if folder.is_symlink():
        folder.unlink()  # whatever it leads to stays as it is
        return None
    before = _before(folder)
    shutil.rmtree(before, ignore_errors=True)
    os.replace(folder, before)
    return before


def _before(stopped: Path) -> Path:
    return stopped.with_name(f"{stopped.name}.before.tmp")


def bring_back(series: Path) -> None:
    """Give the state of an earlier stop its name again, which a kill took before the new one's."""
    folder = stopped_folder(series)
    if not os.path.lexists(folder) and _before(folder).is_dir():
        os.replace(_before(folder), folder)


def set_aside(folder: Path, reason: str) -> None:
    """Take a checkpoint out of its series, under a name beside the others that is free."""
    aside = folder.with_name(f".damaged-{folder.name}")
    for number in count(2):
        if not os.path.lexists(aside):
            break
        aside = folder.with_name(f".damaged-{folder.name}-{number}")
    os.replace(folder, aside)
    logger.warning("%s is not used and stands in %s: %s", folder.name, aside, reason)


def load_checkpoint(
    model: Olmo, optimizer: torch.optim.Optimizer, folder: Path
) -> CheckpointRecord:
    """Set parameters and optimizer state from a checkpoint; all ranks call it. Gives its record."""
    record = read_record(folder)
    optimizer.state.clear()
    updates = record.step - record.num_skipped
    for parameter in model.parameters() if updates else ():
        state: dict[str, Any] = {"step": torch.tensor(float(updates), device=parameter.device)}
        optimizer.state[parameter] = state | {each: torch.zeros_like(parameter) for each in STATE}
    weights, moments = _tensors(model, optimizer)
    for kind, tensors in zip(KINDS, (weights, moments), strict=True):
        _require(kind, {name: tuple(each.shape) for name, each in tensors.items()}, folder)
    _read(weights | moments, [path for kind in KINDS for path in tensor_files(folder, kind)])
    return record


def load_weights(model: Olmo, folder: Path) -> None:
    """Set the parameters from a checkpoint's; all ranks call it.

    Raises:
        CorruptShard: its tensors are not those of the model.
    """
    weights = {name: each.detach() for name, each in model.named_parameters()}
    _require("model", {name: tuple(each.shape) for name, each in weights.items()}, folder)
    _read(weights, tensor_files(folder, "model"))


def require_state(folder: Path) -> None:
    """Raises CorruptShard unless the optimizer's state is both moments of each parameter.

    Of a checkpoint that no update was made for, it is empty.
    """
    record = read_record(folder)
    with TensorFiles(tensor_files(folder, "model")) as files:
        shapes = {name: files.shape(name) for name in files.names}
    moments = {f"{name}.{each}": shape for name, shape in shapes.items() for each in STATE}
    _require("optimizer", moments if record.step > record.num_skipped else {}, folder)


def _require(kind: str, wanted: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Raises CorruptShard unless the files of a kind hold float32 of these names and shapes.

    A checkpoint may be whole and of another model: the error names the file, the tensor and both
    shapes, and nothing is set aside, as it is no damage.
    """
    paths = tensor_files(folder, kind)
    with TensorFiles(paths) as files:
        for name in sorted(set(files.names) ^ wanted.keys()):
            if name in wanted:
                reason = f"is missing; it must be there, of shape {list(wanted[name])}"
                raise CorruptShard(paths[0], name, reason)
            reason = f"is none of those wanted; its shape is {list(files.shape(name))}"
            raise CorruptShard(files.path(name), name, reason)
        for name, shape in wanted.items():
            if files.shape(name) != shape:
                reason = f"has the shape {list(files.shape(name))}; it must have {list(shape)}"
                raise CorruptShard(files.path(name), name, reason)
            if (found := files.kind(name)) != "F32":
                raise CorruptShard(files.path(name), name, f"is of type {found}; it must be F32")


def _read(tensors: dict[str, Tensor], paths: Sequence[Path]) -> None:
    """Fill tensors, each rank those rows that it holds, from these files and no other."""
    from torch.distributed.checkpoint.filesystem import FileSystem
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    class Listed(FileSystem):
        """Lists the files that are to be read, whatever stands beside them."""

        def ls(self, path: str | os.PathLike[str]) -> list[str]:
            return [os.fspath(each) for each in paths]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or unin")
        reader = HuggingFaceStorageReader(os.fspath(paths[0].parent))
        reader.fs = Listed()
        load(tensors, storage_reader=reader, no_dist=True)


def clear_temporary(folder: Path) -> None:
    """Make the empty folder that ranks write a checkpoint to; what else has its name is removed."""
    temporary = temporary_folder(folder)
    if temporary.is_symlink() or not temporary.is_dir():
        temporary.unlink(missing_ok=True)  # whatever a link leads to stays as it is
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
