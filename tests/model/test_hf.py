import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.core.artifacts import Tokenizer
from pipeline.core.errors import CorruptShard, MismatchedInputs
from pipeline.core.files import StoredFile
from pipeline.model.hf import (
    export_hf,
    from_hf_state,
    import_hf,
    load_checkpoint_model,
    load_hf,
    to_hf_state,
)
from tests.model.fakes import tiny_model, write_checkpoints

SHAPES = [{}, {"tie_embeddings": True}, {"clip_qkv": 0.5, "n_layers": 3, "rope_theta": 5000.0}]


@pytest.fixture
def tokenizer(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"<|endoftext|>": 0, "<|padding|>": 1, "a": 2}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="a"))
    made.add_special_tokens(["<|endoftext|>", "<|padding|>"])
    root = tmp_path / "tokenizer"
    root.mkdir()
    made.save(str(root / "tokenizer.json"))
    file = StoredFile.of(root, "tokenizer.json")
    return Tokenizer.of(root, file=file, vocab_size=3, end_id=0, pad_id=1)


@pytest.mark.parametrize("changes", SHAPES)
def test_the_mapping_and_its_inverse_are_the_identity(changes):
    model = tiny_model(1, **changes)
    state = model.state_dict()
    back = from_hf_state(to_hf_state(state, model.config), model.config)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("changes", SHAPES)
def test_export_to_transformers_keeps_logits_and_import_brings_them_back(
    tmp_path, tokenizer, changes
):
    transformers = pytest.importorskip("transformers")
    model = tiny_model(1, **changes)
    checkpoints = write_checkpoints(tmp_path, [tiny_model(0, **changes), model], tokenizer.content)
    exported = export_hf(checkpoints, tokenizer, out=tmp_path / "hf")
    theirs = transformers.OlmoForCausalLM.from_pretrained(exported.root, dtype=torch.float32)
    batch = torch.randint(0, 384, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.eval()(batch).logits
        ours = model.logits(model(batch))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)

    theirs.save_pretrained(tmp_path / "theirs")
    imported = import_hf(tmp_path / "theirs", out=tmp_path / "imported")
    for each in (exported, imported):
        again = load_hf(each)
        assert again.config == model.config
        with torch.no_grad():
            torch.testing.assert_close(again.logits(again(batch)), ours, rtol=0, atol=1e-6)
    loaded = transformers.AutoTokenizer.from_pretrained(exported.root)
    assert (loaded.eos_token_id, loaded.pad_token_id) == (0, 1)


@pytest.mark.parametrize("changes", SHAPES)
def test_in_bf16_logits_are_near_those_of_transformers(tmp_path, tokenizer, changes):
    transformers = pytest.importorskip("transformers")
    model = tiny_model(1, **changes)
    root = export_hf(
        write_checkpoints(tmp_path, [model], tokenizer.content), tokenizer, out=tmp_path / "hf"
    ).root
    theirs = transformers.OlmoForCausalLM.from_pretrained(root, dtype=torch.bfloat16).eval()
    batch = torch.randint(0, 384, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(batch).logits.float()
        with torch.autocast("cpu", torch.bfloat16):
            half = model.logits(model(batch)).float()
    # of a spread of one; transformers' weights are rounded, ours where they are used
    torch.testing.assert_close(half, expected, rtol=0, atol=0.1)


def test_an_exported_folder_has_no_pickle(tmp_path, tokenizer):
    checkpoints = write_checkpoints(tmp_path, [tiny_model()], tokenizer.content)
    exported = export_hf(checkpoints, tokenizer, out=tmp_path / "hf")
    assert exported.weights == checkpoints.latest.weights
    suffixes = {path.suffix for path in exported.root.iterdir()}
    assert suffixes == {".json", ".safetensors"}
    exported.verify()


def test_who_may_read_an_exported_configuration_may_read_its_weights(tmp_path, tokenizer):
    checkpoints = write_checkpoints(tmp_path, [tiny_model()], tokenizer.content)
    exported = export_hf(checkpoints, tokenizer, out=tmp_path / "hf")
    assert len({path.stat().st_mode for path in exported.root.iterdir()}) == 1


def test_another_tokenizer_is_refused(tmp_path, tokenizer):
    checkpoints = write_checkpoints(tmp_path, [tiny_model()], "another")
    with pytest.raises(MismatchedInputs, match="tokenizer another"):
        export_hf(checkpoints, tokenizer, out=tmp_path / "hf")


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "bytes"])
def test_a_checkpoint_with_other_tensors_is_refused(tmp_path, change):
    checkpoints = write_checkpoints(tmp_path, [tiny_model()])
    path = checkpoints.folder(checkpoints.latest) / "model.safetensors"
    state = load_file(path)
    if change == "missing":
        del state["head.weight"]
    elif change == "extra":
        state["rope"] = torch.zeros(3)
    elif change == "shape":
        state["head.weight"] = state["head.weight"][:-1].contiguous()
    save_file(state, path)
    if change == "bytes":
        path.write_bytes(b"not a safetensors file")
    with pytest.raises(CorruptShard, match="safetensors|holds weights"):
        load_checkpoint_model(checkpoints, checkpoints.latest)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": "32"}, "model.d_model is '32'; it must be of type int"),
        ({"tie_embeddings": "false"}, "model.tie_embeddings is 'false'"),
        ({"width": 1}, "model has the fields"),
        ({"n_layers": 10**9}, "num_hidden_layers: is 1000000000; its files hold 10 tensors"),
    ],
)
def test_a_manifest_whose_shape_is_none_is_refused(tmp_path, changes, message):
    checkpoints = write_checkpoints(tmp_path, [tiny_model()])
    odd = dataclasses.replace(checkpoints, model=checkpoints.model | changes)
    with pytest.raises(CorruptShard, match=message):
        load_checkpoint_model(odd, odd.latest)


@pytest.mark.parametrize(
    "change",
    [{"model_type": "llama"}, {"num_key_value_heads": 2}, {"hidden_size": None}, {"vocab_size": 9}],
)
def test_a_folder_that_is_no_olmo_is_refused(tmp_path, tokenizer, change):
    checkpoints = write_checkpoints(tmp_path, [tiny_model()], tokenizer.content)
    root = export_hf(checkpoints, tokenizer, out=tmp_path / "hf").root
    form = json.loads((root / "config.json").read_text()) | change
    (root / "config.json").write_text(json.dumps(form))
    with pytest.raises(CorruptShard):
        import_hf(root, out=tmp_path / "imported")


def test_an_index_that_points_outside_its_folder_is_refused(tmp_path, tokenizer):
    checkpoints = write_checkpoints(tmp_path, [tiny_model()], tokenizer.content)
    root = export_hf(checkpoints, tokenizer, out=tmp_path / "hf").root
    (root / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"weight_map": {"lm_head.weight": "../outside.safetensors"}}
    (root / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptShard, match="not in its folder"):
        import_hf(root, out=tmp_path / "imported")
