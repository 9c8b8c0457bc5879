"""The JSON of a Hugging Face folder, which a stranger may have made: each field is checked.

Nothing here imports torch, so a shape can be read without it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as shown  # a stranger's value may be long and deep
from typing import Any

from pipeline.core.artifacts import Tokenizer
from pipeline.core.errors import CorruptShard
from pipeline.core.untrusted import MAX_BYTES, parsed
from pipeline.model.config import OlmoConfig

FIXED = {  # what every OLMo 1 has in its `config.json`
    "model_type": "olmo",
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
}
SIZES = {  # ours -> theirs; the feed-forward's width, which ours doubles, is apart
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "vocab_size": "vocab_size",
    "max_sequence_length": "max_position_embeddings",
}
MAX_SIZE = 1 << 24  # of each: no matrix then has more elements than 64 bits count
ROPE_THETA = 10000.0  # where a `config.json` has none


def hf_config(config: OlmoConfig, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
    """The `config.json` of a model of this shape."""
    return {
        "architectures": ["OlmoForCausalLM"],
        **FIXED,
        **{theirs: getattr(config, ours) for ours, theirs in SIZES.items()},
        "num_key_value_heads": config.n_heads,
        "intermediate_size": config.mlp_hidden_size // 2,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_embeddings,
        "clip_qkv": config.clip_qkv,
        "bos_token_id": None,
        "eos_token_id": tokenizer.end_id if tokenizer else None,
        "pad_token_id": tokenizer.pad_id if tokenizer else None,
        "torch_dtype": "float32",
        "use_cache": True,
    }


def read_config(path: Path) -> OlmoConfig:
    """The shape in a `config.json`, under the names of any version of `transformers`.

    Raises:
        CorruptShard: it is not an OLMo 1's, and which field says so.
    """
    form = read_object(path)
    for name, value in FIXED.items():
        if form.get(name, value if name != "model_type" else None) != value:
            raise CorruptShard(path, name, f"is {shown(form.get(name))}; an OLMo 1 has {value!r}")
    sizes = {ours: _size(form, theirs, path) for ours, theirs in SIZES.items()}
    heads = sizes["n_heads"]
    if (groups := form.get("num_key_value_heads")) not in (None, heads):
        reason = f"is {shown(groups)}; it must be num_attention_heads, {heads}"
        raise CorruptShard(path, "num_key_value_heads", reason)
    tied = form.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        reason = f"is {shown(tied)}; it must be true or false"
        raise CorruptShard(path, "tie_word_embeddings", reason)
    clip = form.get("clip_qkv")
    try:
        return OlmoConfig(
            **sizes,
            mlp_hidden_size=2 * _size(form, "intermediate_size", path),
            rope_theta=_rope_theta(form, path),
            tie_embeddings=tied,
            clip_qkv=None if clip is None else _positive(clip, "clip_qkv", path),
        )
    except ValueError as error:  # told of our fields
        reason = re.sub(r"\w+", lambda word: SIZES.get(word[0], word[0]), str(error))
        raise CorruptShard(path, None, f"not the config of an OLMo 1 ({reason})") from error


def read_index(path: Path, ending: str) -> list[str]:
    """The names of the files of weights in an index.

    Raises:
        CorruptShard: it is no index, or a name is not of a file beside it that ends so.
    """
    form = read_object(path)
    files = form.get("weight_map")
    if not isinstance(files, dict):
        reason = f"is {shown(files)}; it must be an object from tensors to files"
        raise CorruptShard(path, "weight_map", reason)
    for tensor, name in files.items():
        if not isinstance(name, str) or Path(name).name != name or not name.isprintable():
            reason = f"of {shown(tensor)} names {shown(name)}, which is not in its folder"
            raise CorruptShard(path, "weight_map", reason)
        if not name.endswith(ending):
            reason = f"of {shown(tensor)} names {shown(name)}, which is not {ending[1:]}"
            raise CorruptShard(path, "weight_map", reason)
    return sorted(set(files.values()))


def _size(form: Mapping[str, Any], name: str, path: Path) -> int:
    value = form.get(name)
    if type(value) is not int or not 1 <= value <= MAX_SIZE:
        reason = f"is {shown(value)}; it must be a whole number from 1 to {MAX_SIZE}"
        raise CorruptShard(path, name, reason)
    return value


def _positive(value: Any, name: str, path: Path) -> float:
    if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
        raise CorruptShard(path, name, f"is {shown(value)}; it must be positive and finite")
    return float(value)


def _rope_theta(form: Mapping[str, Any], path: Path) -> float:
    """The base of the rotary angles: a field of its own or, since version 5, an inner one."""
    if (scaling := form.get("rope_scaling")) is not None:
        raise CorruptShard(path, "rope_scaling", f"is {shown(scaling)}; it must be null")
    inner = form.get("rope_parameters")
    inner = {} if inner is None else inner
    if not isinstance(inner, dict):
        reason = f"is {shown(inner)}; it must be an object or null"
        raise CorruptShard(path, "rope_parameters", reason)
    for name, value in inner.items():
        if name != "rope_theta" and (name, value) != ("rope_type", "default"):
            reason = f"is {shown(value)}; an OLMo 1 has rope_theta and the rope_type 'default' only"
            raise CorruptShard(path, f"rope_parameters.{shown(name)[1:-1]}", reason)
    found = [
        _positive(each["rope_theta"], place, path)
        for place, each in (("rope_theta", form), ("rope_parameters.rope_theta", inner))
        if "rope_theta" in each
    ]
    if len(set(found)) > 1:
        raise CorruptShard(path, "rope_theta", f"is {found}; it must be one number")
    return found[0] if found else ROPE_THETA


def read_object(path: Path) -> dict[str, Any]:
    """The object in a file, which may be a link, as in the caches of the hub."""
    try:
        if not path.is_file():
            raise ValueError("it is missing, or no plain file")
        if (num_bytes := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"it has {num_bytes} bytes; at most {MAX_BYTES} are read")
        form = parsed(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptShard(path, None, f"not readable JSON ({error})") from error
    if not isinstance(form, dict):
        raise CorruptShard(path, None, f"is a JSON {type(form).__name__}; it must be an object")
    return form
