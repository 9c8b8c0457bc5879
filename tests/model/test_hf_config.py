"""The `config.json` of released models, as they stand, and what is refused in one."""

import json
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pipeline.core.errors import CorruptShard
from pipeline.model.config import OLMO_1B, OLMO_7B, shape_in
from pipeline.model.hf import import_hf, load_hf
from pipeline.model.hf_config import hf_config, read_config
from pipeline.model.made_up import write_made_up_model
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
        ({"intermediate_size": 0}, "intermediate_size.*is 0; it must be .* from 1 to"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers.*is 1000000000; it must be .* from 1 to"),
        ({"hidden_size": 4098}, "hidden_size is 4098; it must be num_attention_heads, 32, times"),
        ({"clip_qkv": -1.0}, "clip_qkv.*is -1.0"),
        ({"clip_qkv": True}, "clip_qkv.*is True; it must be positive and finite"),
        ({"clip_qkv": 10**400}, "clip_qkv.*is 1000.*; it must be positive and finite"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings.*is 'false'; it must be true or"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings.*is None"),
        ({"rope_scaling": []}, r"rope_scaling.*is \[\]; it must be null"),
        ({"rope_parameters": "default"}, "rope_parameters.*is 'default'; it must be an object"),
        ({"rope_parameters": {"rope_theta": {}}}, r"rope_parameters.rope_theta.*is \{\}"),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"clip_qkv": ' + '{"a":' * 900 + "1" + "}" * 901, "model_type.*is None"),
        ('{"rope_theta": NaN}', "NaN, which is no number of JSON"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "not readable JSON"),
        ("[]", "is a JSON list; it must be an object"),
        ("\udc80", "not readable JSON"),
    ],
)
def test_json_that_no_config_is_made_of_is_refused(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(CorruptShard, match=message):
        read_config(path)


def test_a_number_beyond_all_floats_is_refused_by_name(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(RELEASED_7B).replace("10000.0", "1e400"))
    with pytest.raises(CorruptShard, match="rope_theta.*is inf; it must be positive and finite"):
        read_config(path)


# ---------------------------------------------------------------------------- hostile folders

FORM = hf_config(tiny_model().config)
HOSTILE = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, -1, 1, 2, 3, 48, 10**6, 10**9, 2**63, 10**400, 1e308, -0.0, 1e-320])
    | st.sampled_from(["", "false", "olmo", "default", "..", "../x.safetensors", "/x.safetensors"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model in two files with an index, to be written over."""
    root = tmp_path_factory.mktemp("hostile") / "hf"
    write_made_up_model(root, tiny_model().config)
    tensors = load_file(root / "model.safetensors")
    (root / "model.safetensors").unlink()
    for number, names in enumerate((sorted(tensors)[:5], sorted(tensors)[5:])):
        save_file({name: tensors[name] for name in names}, root / f"m{number}.safetensors")
    return root


def index_of(folder):
    names = {path.name: load_file(path) for path in folder.glob("m?.safetensors")}
    return {tensor: name for name, tensors in names.items() for tensor in tensors}


def is_imported_or_refused(folder, form, index):
    (folder / "config.json").write_text(json.dumps(form))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    try:
        return import_hf(folder, out=folder.parent / "imported")
    except CorruptShard as error:
        assert str(folder) in str(error) and len(str(error)) < 600 and "\n" not in str(error)
        return None


def test_the_folder_that_is_made_hostile_is_good(folder):
    assert is_imported_or_refused(folder, FORM, {"weight_map": index_of(folder)})


@settings(max_examples=150)
@given(changes=st.dictionaries(st.sampled_from(sorted(FORM)), HOSTILE, min_size=1, max_size=2))
def test_no_config_of_a_stranger_ends_in_anything_but_its_name_and_field(folder, changes):
    made = is_imported_or_refused(folder, FORM | changes, {"weight_map": index_of(folder)})
    assert made is None or load_hf(made).config.n_layers == 2


@settings(max_examples=100)
@given(
    names=st.dictionaries(st.text(max_size=5) | st.sampled_from(sorted(FORM)), HOSTILE),
    whole=HOSTILE,
    replaced=st.booleans(),
)
def test_no_index_of_a_stranger_ends_in_anything_but_its_name(folder, names, whole, replaced):
    index = {"weight_map": whole if replaced else index_of(folder) | names}
    made = is_imported_or_refused(folder, FORM, index)
    assert made is None or (not replaced and not names)


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.float8_e4m3fn, torch.complex64])
def test_weights_that_are_no_floats_are_refused(tmp_path, kind):
    write_made_up_model(tmp_path / "hf", tiny_model().config)
    path = tmp_path / "hf" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(kind)
    save_file(tensors, path)
    with pytest.raises(CorruptShard, match="lm_head.weight: is of type .*; it must be one of"):
        import_hf(tmp_path / "hf", out=tmp_path / "imported")


def test_a_link_to_what_is_no_configuration_is_not_copied(tmp_path):
    write_made_up_model(tmp_path / "hf", tiny_model().config)
    (tmp_path / "private").write_text("-----BEGIN PRIVATE KEY-----")
    (tmp_path / "hf" / "generation_config.json").unlink(missing_ok=True)
    (tmp_path / "hf" / "generation_config.json").symlink_to(tmp_path / "private")
    with pytest.raises(CorruptShard, match=r"generation_config\.json"):
        import_hf(tmp_path / "hf", out=tmp_path / "imported")


def test_a_shape_that_no_model_has_is_refused_by_the_manifest_that_holds_it(tmp_path):
    write_made_up_model(tmp_path / "hf", tiny_model().config)
    model = import_hf(tmp_path / "hf", out=tmp_path / "imported")
    assert shape_in(model) == tiny_model().config
    for fault in ({"d_model": 128}, model.model | {"n_layers": "2"}, model.model | {"depth": 2}):
        with pytest.raises(CorruptShard, match=r"manifest\.json: is of no model"):
            shape_in(replace(model, model=fault))


@pytest.mark.parametrize("layers", [3, 10**7])
def test_layers_that_the_files_do_not_hold_are_refused_before_any_is_made(folder, layers):
    form = FORM | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(form))
    index = {"weight_map": index_of(folder)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    started = time.perf_counter()
    said = (
        "num_hidden_layers: is 10000000; its files hold 16" if layers > 3 else "layers.2.*missing"
    )
    with pytest.raises(CorruptShard, match=said):
        import_hf(folder, out=folder.parent / "imported")
    assert time.perf_counter() - started < 5


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
