"""Models as others store them: tensor names, folders that `transformers` opens, and back.

Weights move as safetensors only; nothing here reads or writes a pickle.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

from pipeline.core.artifacts import Checkpoint, Checkpoints, HfModel, Tokenizer
from pipeline.core.errors import CorruptShard, MismatchedInputs
from pipeline.core.files import NamedFile, write_json
from pipeline.core.temporary import temporary_for
from pipeline.model.config import OlmoConfig, require_layers, shape_in
from pipeline.model.hf_config import hf_config, read_config, read_index, read_object
from pipeline.model.olmo import Olmo
from pipeline.model.weights import (
    files_digest,
    read_tensors,
    read_weights,
    save_tensors,
    weights_digest,
)
from pipeline.store.tensors import TensorFiles

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
GENERATION = "generation_config.json"
FLOATS = ("F64", "F32", "F16", "BF16")  # others are codes, which mean nothing without a scale


def to_hf_state(state: Mapping[str, Tensor], config: OlmoConfig) -> dict[str, Tensor]:
    """Tensors under the names of `transformers`' OlmoForCausalLM; fused matrices are split.

    Source: allenai/OLMo, `scripts/convert_olmo_to_hf_new.py`.
    """
    hf = {"model.embed_tokens.weight": state["embed.weight"]}
    for layer in range(config.n_layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        for name, part in zip("qkv", state[f"{ours}.att_proj.weight"].chunk(3), strict=True):
            hf[f"{theirs}.self_attn.{name}_proj.weight"] = part
        up, gate = state[f"{ours}.ff_proj.weight"].chunk(2)
        hf[f"{theirs}.mlp.up_proj.weight"] = up
        hf[f"{theirs}.mlp.gate_proj.weight"] = gate
        hf[f"{theirs}.self_attn.o_proj.weight"] = state[f"{ours}.attn_out.weight"]
        hf[f"{theirs}.mlp.down_proj.weight"] = state[f"{ours}.ff_out.weight"]
    if not config.tie_embeddings:
        hf["lm_head.weight"] = state["head.weight"]
    return {name: tensor.contiguous() for name, tensor in hf.items()}


def from_hf_state(hf: Mapping[str, Tensor], config: OlmoConfig) -> dict[str, Tensor]:
    """The inverse of `to_hf_state`."""
    state = {"embed.weight": hf["model.embed_tokens.weight"]}
    for layer in range(config.n_layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        qkv = [hf[f"{theirs}.self_attn.{name}_proj.weight"] for name in "qkv"]
        state[f"{ours}.att_proj.weight"] = torch.cat(qkv)
        state[f"{ours}.attn_out.weight"] = hf[f"{theirs}.self_attn.o_proj.weight"]
        halves = [hf[f"{theirs}.mlp.{name}_proj.weight"] for name in ("up", "gate")]
        state[f"{ours}.ff_proj.weight"] = torch.cat(halves)
        state[f"{ours}.ff_out.weight"] = hf[f"{theirs}.mlp.down_proj.weight"]
    if not config.tie_embeddings:
        state["head.weight"] = hf["lm_head.weight"]
    return state


def load_checkpoint_model(checkpoints: Checkpoints, checkpoint: Checkpoint) -> Olmo:
    """The model of one checkpoint, in float32 on the CPU.

    Raises:
        CorruptShard: a file is no safetensors, or its weights are not those of the manifest.
    """
    folder = checkpoints.folder(checkpoint)
    state = read_weights(folder)
    if (found := weights_digest(state)) != checkpoint.weights:
        reason = f"holds weights {found[:12]}; must hold {checkpoint.weights[:12]}"
        raise CorruptShard(folder, None, reason)
    return _filled(shape_in(checkpoints), state, folder)


def load_hf(model: HfModel) -> Olmo:
    """The model of a Hugging Face folder, in float32 on the CPU.

    Raises:
        CorruptShard: a file differs from the manifest, or the tensors from the model's.
    """
    model.verify()
    config = shape_in(model)
    paths = [model.root / f.path for f in model.model_files if f.path.endswith(".safetensors")]
    hf = read_tensors(paths)
    _require_shapes({name: tuple(each.shape) for name, each in hf.items()}, config, model.root)
    return _filled(config, from_hf_state(hf, config), model.root / WEIGHTS)


def export_hf(checkpoints: Checkpoints, tokenizer: Tokenizer, *, out: Path) -> HfModel:
    """Write a folder that `transformers` opens, of the latest checkpoint.

    Raises:
        MismatchedInputs: the model was trained on ids of another tokenizer.
    """
    if checkpoints.tokenizer != tokenizer.content:
        raise MismatchedInputs(
            f"Checkpoints {checkpoints.content[:12]}",
            f"Tokenizer {tokenizer.content[:12]}",
            f"the model was trained with tokenizer {checkpoints.tokenizer[:12]}",
        )
    tokenizer.file.verify(tokenizer.root)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    config = shape_in(checkpoints)
    hf = to_hf_state(load_checkpoint_model(checkpoints, checkpoints.latest).state_dict(), config)
    temporary = temporary_for(out / WEIGHTS)
    save_tensors(hf, temporary, {"format": "pt"})
    os.replace(temporary, out / WEIGHTS)
    write_json(out / "config.json", hf_config(config, tokenizer))
    write_json(
        out / GENERATION,
        {"eos_token_id": tokenizer.end_id, "pad_token_id": tokenizer.pad_id},
    )
    shutil.copyfile(tokenizer.root / tokenizer.file.path, out / "tokenizer.json")
    write_json(out / "tokenizer_config.json", _tokenizer_config(config, tokenizer))
    names = ["config.json", GENERATION, "tokenizer.json", "tokenizer_config.json"]
    return HfModel.of(
        out,
        weights=checkpoints.latest.weights,
        model=dataclasses.asdict(config),
        tokenizer=tokenizer.content,
        model_files=[
            *(NamedFile.of(out, name) for name in names),
            NamedFile.of(out, WEIGHTS, content=weights_digest(hf)),
        ],
    )


def _tokenizer_config(config: OlmoConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    loaded = tokenizers.Tokenizer.from_file(str(tokenizer.root / tokenizer.file.path))
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": loaded.id_to_token(tokenizer.end_id),
        "pad_token": loaded.id_to_token(tokenizer.pad_id),
        "model_max_length": config.max_sequence_length,
        "clean_up_tokenization_spaces": False,
    }


def import_hf(path: Path | str, *, out: Path, tokenizer: Tokenizer | None = None) -> HfModel:
    """Take a released OLMo folder: its config is checked, its safetensors are copied.

    Args:
        tokenizer: the tokenizer it goes with; without one, any may be used to score it.

    Raises:
        CorruptShard: the config is not of an OLMo 1, there are no safetensors, or a tensor is
            missing, unknown, of another shape, or of no floats.
    """
    source, out = Path(path), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    config = read_config(source / "config.json")
    files = _weight_files(source)
    with TensorFiles(source / name for name in files) as tensors:
        _require_shapes({each: tensors.shape(each) for each in tensors.names}, config, source)
        for each in tensors.names:
            if (kind := tensors.kind(each)) not in FLOATS:
                raise CorruptShard(source, each, f"is of type {kind}; it must be one of {FLOATS}")
    copied = [*files, "config.json"]
    if (source / GENERATION).is_file():
        read_object(source / GENERATION)  # a link in a stranger's folder may lead anywhere
        copied.append(GENERATION)
    copied += [INDEX] if (source / INDEX).is_file() else []
    for name in copied:
        temporary = temporary_for(out / name)
        shutil.copyfile(source / name, temporary)
        os.replace(temporary, out / name)
    return HfModel.of(
        out,
        weights=files_digest(out / name for name in files),
        model=dataclasses.asdict(config),
        tokenizer=tokenizer.content if tokenizer else "",
        model_files=[NamedFile.of(out, name) for name in sorted(copied)],
    )


# ---------------------------------------------------------------------------- tensors


def _filled(config: OlmoConfig, state: Mapping[str, Tensor], path: Path) -> Olmo:
    model = _without_values(config, len(state), path)
    wanted = {name: tuple(each.shape) for name, each in model.state_dict().items()}
    _require({name: tuple(each.shape) for name, each in state.items()}, wanted, path)
    wide = {name: each.to(torch.float32) for name, each in state.items()}
    model.load_state_dict(wide, assign=True)
    return model


def _require_shapes(shapes: dict[str, tuple[int, ...]], config: OlmoConfig, path: Path) -> None:
    wanted = to_hf_state(_without_values(config, len(shapes), path).state_dict(), config)
    _require(shapes, {name: tuple(each.shape) for name, each in wanted.items()}, path)


def _without_values(config: OlmoConfig, num_tensors: int, path: Path) -> Olmo:
    """A model that takes no memory but for its layers, of which each has a tensor at least."""
    require_layers(config, num_tensors, path, "num_hidden_layers")
    with torch.device("meta"):
        return Olmo(config)


def _require(
    found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], path: Path
) -> None:
    if missing := sorted(wanted.keys() - found.keys()):
        raise CorruptShard(path, missing[0], f"missing, and {len(missing) - 1} other tensors")
    if extra := sorted(found.keys() - wanted.keys()):
        raise CorruptShard(path, extra[0], f"unknown, and {len(extra) - 1} other tensors")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise CorruptShard(path, name, f"has shape {found[name]}; must have {shape}")


def _weight_files(source: Path) -> list[str]:
    if (source / WEIGHTS).is_file():
        return [WEIGHTS]
    if not (source / INDEX).is_file():
        raise CorruptShard(source, None, f"has neither {WEIGHTS} nor {INDEX}")
    return read_index(source / INDEX, ".safetensors")
