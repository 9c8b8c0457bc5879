import math

import pytest
import torch

from pipeline.model.config import OLMO_1B, OLMO_7B, OlmoConfig
from pipeline.model.olmo import Olmo
from tests.model.fakes import TINY, tiny_model


def ids(rows, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, TINY.vocab_size, (rows, length), generator=generator)


def test_the_published_sizes_have_the_published_number_of_parameters():
    assert OLMO_1B.num_parameters() == 1_176_764_416
    assert OLMO_7B.num_parameters() == 6_888_095_744


@pytest.mark.parametrize("config", [TINY, OLMO_1B, OLMO_7B], ids=["tiny", "1B", "7B"])
def test_the_count_is_that_of_the_module(config):
    with torch.device("meta"):
        model = Olmo(config)
    assert sum(each.numel() for each in model.parameters()) == config.num_parameters()
    assert model.state_dict().keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize(
    "changes", [{"n_heads": 5}, {"n_layers": 0}, {"mlp_hidden_size": 95}, {"clip_qkv": 0.0}]
)
def test_an_impossible_shape_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes)) if "n_heads" not in changes else "d_"):
        OlmoConfig(**{**TINY.__dict__, **changes})


@pytest.mark.parametrize("place", [1, 7, 15])
def test_a_later_token_never_changes_earlier_logits(place):
    model = tiny_model()
    before = ids(2, 16)
    after = before.clone()
    after[:, place] = (after[:, place] + 1) % TINY.vocab_size
    with torch.no_grad():
        left, right = model.logits(model(before)), model.logits(model(after))
    torch.testing.assert_close(left[:, :place], right[:, :place], rtol=0, atol=1e-6)
    assert not torch.allclose(left[:, place:], right[:, place:])


def test_the_seed_alone_decides_the_start_values():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = tiny_model(3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = tiny_model(3).state_dict(), tiny_model(4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_start_values_have_mitchells_spread():
    model = tiny_model(0, d_model=256, n_heads=8, mlp_hidden_size=1024)
    for name, sigma in {
        "embed": 1 / 16,
        "blocks.1.att_proj": 1 / 16,
        "blocks.1.attn_out": 1 / math.sqrt(2 * 256 * 2),
        "blocks.1.ff_out": 1 / math.sqrt(2 * 512 * 2),
    }.items():
        weight = model.get_parameter(f"{name}.weight")
        assert weight.std().item() == pytest.approx(0.987 * sigma, rel=0.02)
        assert weight.abs().max().item() <= 3 * sigma * 1.0001


def test_a_model_made_on_meta_has_the_same_start_values():
    with torch.device("meta"):
        model = Olmo(TINY)
    model.to_empty(device="cpu").init_weights(5)
    expected = tiny_model(5).state_dict()
    assert all(torch.equal(each, expected[name]) for name, each in model.state_dict().items())


def test_a_sequence_longer_than_the_model_is_refused():
    with pytest.raises(ValueError, match="at most 48"):
        tiny_model()(ids(1, 49))


@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_learns(tied):
    model = tiny_model(0, tie_embeddings=tied, clip_qkv=4.0)
    batch = ids(2, 12)
    model.logits(model(batch)).logsumexp(-1).sum().backward()
    assert all(each.grad is not None and each.grad.any() for each in model.parameters())


def test_under_autocast_the_residual_stream_is_as_narrow_as_the_products():
    model, ids = tiny_model(0), torch.arange(12)[None]
    plain = model(ids)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(ids)
    assert (plain.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(half.float(), plain, rtol=0, atol=0.1)


def test_a_layer_that_is_recomputed_has_the_same_gradients_and_keeps_its_input_only():
    kept, grads = [], []
    for recomputed in (False, True):
        model, seen = tiny_model(0), []
        for block in model.blocks:
            block.recomputed = recomputed
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=seen: s.append(t) or t, lambda t: t
        ):
            loss = model(torch.arange(12)[None]).square().sum()
        loss.backward()
        kept.append(len(seen))
        grads.append([each.grad for each in model.blocks.parameters()])
    assert kept[1] < kept[0] / 3
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)
