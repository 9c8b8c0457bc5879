"""The `config.json` of released models, as they stand, and what is refused in one."""

import json

import pytest
import torch

from pipeline.core.errors import CorruptShard
from pipeline.model.config import OLMO_1B, OLMO_7B
from pipeline.model.hf import hf_config, import_hf, load_hf, read_config
from pipeline.model.olmo import Olmo
from tests.model.fakes import tiny_model

# allenai/OLMo-7B-hf; what OLMo-1B-hf has in their place
RELEASED_7B = {
    "architectures": ["OlmoForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "clip_qkv": None,
    "eos_token_id": 50279,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 2048,
    "model_type": "olmo",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pad_token_id": 1,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.40.0.dev0",
    "use_cache": True,
    "vocab_size": 50304,
}
RELEASED_1B = RELEASED_7B | {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 16,
    "num_hidden_layers": 16,
    "num_key_value_heads": 16,
    "tie_word_embeddings": True,
}


def newer(form):
    """As `transformers` 5 writes it."""
    theta = {"rope_type": "default", "rope_theta": form["rope_theta"]}
    old = ("rope_theta", "rope_scaling", "torch_dtype")
    kept = {name: value for name, value in form.items() if name not in old}
    return {**kept, "rope_parameters": theta, "dtype": "float32", "bos_token_id": None}


def read(folder, form):
    path = folder / "config.json"
    path.write_text(json.dumps(form), encoding="utf-8")
    return read_config(path)


@pytest.mark.parametrize("named", [dict, newer], ids=["version 4", "version 5"])
@pytest.mark.parametrize(
    ("form", "shape", "count"),
    [(RELEASED_7B, OLMO_7B, 6_888_095_744), (RELEASED_1B, OLMO_1B, 1_176_764_416)],
    ids=["7B", "1B"],
)
def test_a_released_config_gives_the_published_model(tmp_path, named, form, shape, count):
    config = read(tmp_path, named(form))
    assert config == shape
    with torch.device("meta"):
        model = Olmo(config)
    assert sum(each.numel() for each in model.parameters()) == count


@pytest.mark.parametrize("shape", [OLMO_7B, OLMO_1B], ids=["7B", "1B"])
def test_transformers_reads_the_config_that_is_written_as_the_same_model(tmp_path, shape):
    transformers = pytest.importorskip("transformers")
    assert read(tmp_path, hf_config(shape)) == shape
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(theirs)
    assert model.num_parameters() == shape.num_parameters()
    theirs.save_pretrained(tmp_path / "again")
    assert read_config(tmp_path / "again" / "config.json") == shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "olmo2"}, "model_type.*is 'olmo2'; an OLMo 1 has 'olmo'"),
        ({"hidden_act": "gelu"}, "hidden_act.*is 'gelu'"),
        ({"attention_bias": True}, "attention_bias.*is True"),
        ({"attention_dropout": 0.1}, "attention_dropout.*is 0.1"),
        ({"num_key_value_heads": 8}, "num_key_value_heads.*is 8; it must be .*, 32"),
        ({"hidden_size": 4096.0}, "hidden_size.*is 4096.0; it must be a whole number"),
        ({"vocab_size": None}, "vocab_size.*is None"),
        ({"intermediate_size": 0}, "mlp_hidden_size is 0"),
        ({"clip_qkv": -1.0}, "clip_qkv is -1.0"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.*'factor': 2.0"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.rope_type.*is 'yarn'"),
        ({"rope_parameters": {"factor": 2.0}}, "rope_parameters.factor.*is 2.0"),
        ({"rope_parameters": {"rope_theta": 5e5}}, r"rope_theta.*is \[10000.0, 500000.0\]"),
        ({"rope_theta": "10000"}, "rope_theta.*is .*'10000'"),
    ],
)
def test_a_field_that_no_olmo_1_has_is_named(tmp_path, changes, message):
    with pytest.raises(CorruptShard, match=message):
        read(tmp_path, RELEASED_7B | changes)


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_in_several_files_with_an_index_is_read(tmp_path, tied):
    transformers = pytest.importorskip("transformers")
    model = tiny_model(1, tie_embeddings=tied)
    theirs = transformers.OlmoForCausalLM(transformers.OlmoConfig(**hf_config(model.config))).eval()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    again = load_hf(import_hf(tmp_path / "theirs", out=tmp_path / "imported"))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(again.logits(again(ids)), theirs(ids).logits, rtol=0, atol=1e-5)
