"""Checkpoints of a series: complete under their name or not there; no pickle, any number of ranks.

<series>/step000400/model.safetensors       parameters, float32
                    optimizer.safetensors   the two moments of each, by its name
                    state.json              step, tokens read and learned, digests
<series>/.stopped/                          the same of a run that was asked to stop; in no view
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.core.artifacts import Checkpoint, checkpoint_name
from pipeline.core.errors import CorruptShard
from pipeline.core.files import file_sha256
from pipeline.model.hf import WEIGHTS, weights_digest
from pipeline.model.olmo import Olmo
from pipeline.store.series import CheckpointRecord, read_record, write_record
from pipeline.train.distributed import Ranks, fill, whole
from pipeline.train.optimizer import STATE

OPTIMIZER = "optimizer.safetensors"
logger = logging.getLogger(__name__)


def folder_of(series: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return Path(series) / checkpoint_name(step)


def stopped_folder(series: Path) -> Path:
    """Where the state of a run that was asked to stop stands until it has gone on."""
    return Path(series) / ".stopped"


def save_checkpoint(
    model: Olmo,
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
    num_tokens_read: int,
    num_tokens_learned: int,
    folder: Path,
    ranks: Ranks,
) -> None:
    """Write the state after `step` updates; all ranks call it, the first one writes."""
    weights, moments = {}, {}
    for name, parameter in sorted(model.named_parameters()):
        tensor = whole(parameter)
        weights[name] = _at_rest(tensor) if ranks.rank == 0 else tensor[:0]
        for each in STATE:
            held = optimizer.state.get(parameter, {}).get(each)
            if held is not None:
                tensor = whole(held)
                moments[f"{name}.{each}"] = _at_rest(tensor) if ranks.rank == 0 else tensor[:0]
    if ranks.rank == 0:
        final = Path(folder)
        temporary = final.with_name(f".{final.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(weights, temporary / WEIGHTS)
        save_file(moments, temporary / OPTIMIZER)
        sha256 = {name: file_sha256(temporary / name) for name in (WEIGHTS, OPTIMIZER)}
        record = CheckpointRecord(
            step, num_tokens_read, num_tokens_learned, weights_digest(weights), sha256
        )
        write_record(temporary, record)
        for name in (WEIGHTS, OPTIMIZER):
            _sync(temporary / name)
        _sync(temporary)
        if final == stopped_folder(final.parent):
            shutil.rmtree(final, ignore_errors=True)
        elif final.exists():
            _set_aside(final, "it is written anew")
        os.replace(temporary, final)
        _sync(final.parent)
    ranks.wait()


def load_checkpoint(
    model: Olmo, optimizer: torch.optim.Optimizer, folder: Path
) -> CheckpointRecord:
    """Set parameters and optimizer state from a checkpoint; gives its record."""
    record = read_record(folder)
    load_weights(model, folder / WEIGHTS)
    with safe_open(folder / OPTIMIZER, framework="pt") as file:
        held = set(file.keys())
        for name, parameter in model.named_parameters():
            if f"{name}.{STATE[0]}" not in held:
                continue
            step = torch.tensor(float(record.step), device=parameter.device)
            state: dict[str, Any] = {"step": step}
            for each in STATE:
                state[each] = torch.zeros_like(parameter)
                fill(state[each], file.get_tensor(f"{name}.{each}"))
            optimizer.state[parameter] = state
    return record


def load_weights(model: Olmo, path: Path) -> None:
    """Set the parameters from a file; raises CorruptShard where it holds other tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            names = dict(model.named_parameters())
            if set(file.keys()) != set(names):
                raise CorruptShard(path, None, "its tensors are not those of the model")
            for name, parameter in names.items():
                tensor = file.get_tensor(name)
                if tensor.shape != parameter.shape:
                    reason = f"is {list(tensor.shape)}; must be {list(parameter.shape)}"
                    raise CorruptShard(path, name, reason)
                fill(parameter, tensor)
    except (OSError, SafetensorError) as error:
        raise CorruptShard(path, None, f"not readable ({error})") from error


def find_checkpoints(series: Path, *, thorough: bool = True) -> list[int]:
    """Steps whose checkpoints are whole; a damaged one is set aside.

    Args:
        thorough: check every digest; else the records, and that no file is missing or cut off.
    """
    found = []
    for folder in sorted(Path(series).glob("step[0-9]*")):
        try:
            step = _checked(folder) if thorough else _looked_at(folder)
            if folder != folder_of(series, step):
                raise CorruptShard(folder, None, f"says that it is of step {step}")
        except (CorruptShard, OSError) as error:
            _set_aside(folder, str(error))
            continue
        found.append(step)
    return sorted(found)


def is_whole(folder: Path) -> bool:
    """Whether the digests of a checkpoint are right; if not, it is set aside."""
    try:
        _checked(folder)
    except (CorruptShard, OSError) as error:
        _set_aside(folder, str(error))
        return False
    return True


def find_stopped(series: Path) -> int | None:
    """The step at which a run was stopped, if its state is there and whole."""
    folder = stopped_folder(series)
    if not folder.exists():
        return None
    try:
        return _checked(folder)
    except (CorruptShard, OSError) as error:
        _set_aside(folder, str(error))
        return None


def _checked(folder: Path) -> int:
    """The step of a checkpoint whose digests are right."""
    record = read_record(folder)
    for name in (WEIGHTS, OPTIMIZER):
        if file_sha256(folder / name) != record.sha256.get(name):
            raise CorruptShard(folder / name, None, "its SHA-256 is not the recorded one")
    return record.step


def _looked_at(folder: Path) -> int:
    """The step of a checkpoint whose files are as long as their headers say."""
    record = read_record(folder)
    for name in (WEIGHTS, OPTIMIZER):
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except SafetensorError as error:
            raise CorruptShard(folder / name, None, f"not readable ({error})") from error
    return record.step


def as_checkpoint(series: Path, step: int) -> Checkpoint:
    """What a manifest says of a checkpoint."""
    record = read_record(folder_of(series, step))
    return Checkpoint(
        checkpoint_name(step),
        step,
        record.num_tokens_read,
        record.num_tokens_learned,
        record.weights,
    )


def _set_aside(folder: Path, reason: str) -> None:
    aside = folder.with_name(f".damaged-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(folder, aside)
    logger.warning("%s is not used and stands in %s: %s", folder.name, aside, reason)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _at_rest(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", torch.float32).contiguous()
