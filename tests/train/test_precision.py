"""The first loss, and what stays in float32 where products are bfloat16."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.model.olmo import _rotate, rope_tables
from pipeline.train.config import AdamW
from pipeline.train.optimizer import make_optimizer
from pipeline.train.stages.objectives import NextToken
from tests.model.fakes import tiny_model

BF16 = 2**-8  # of a value: what rounding it to bfloat16 may take, twice over
WIDE = {"d_model": 128, "n_heads": 4, "mlp_hidden_size": 512, "vocab_size": 4096}


def rows(model, number=8, length=32):
    ids = torch.randint(0, model.config.vocab_size, (number, length))
    return {"input_ids": ids}


def first_loss(model, batch):
    with torch.no_grad():
        return NextToken().total(model, batch).item() / NextToken().weight(batch)


@pytest.mark.parametrize("tied", [False, True])
def test_the_first_loss_is_that_of_guessing_and_half_the_variance_of_the_logits(tied):
    torch.manual_seed(0)
    model = tiny_model(0, **WIDE, tie_embeddings=tied)
    batch = rows(model)
    with torch.no_grad():
        spread = model.logits(model(batch["input_ids"])).var(-1).mean().item()
    assert spread == pytest.approx(0.97, rel=0.05)
    assert first_loss(model, batch) == pytest.approx(math.log(4096) + spread / 2, rel=0.02)


def test_with_a_small_projection_the_first_loss_is_that_of_guessing():
    torch.manual_seed(0)
    model = tiny_model(0, **WIDE)
    with torch.no_grad():
        model.head.weight.mul_(0.01)
    assert first_loss(model, rows(model)) == pytest.approx(math.log(4096), rel=0.02)


class Watched(TorchDispatchMode):
    """Notes what operations work on, and how far their results are from those of float64."""

    def __init__(self):
        super().__init__()
        self.types, self.errors = {}, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.types.setdefault(name, set()).update(
            each.dtype for each in args if isinstance(each, torch.Tensor)
        )
        if name == "native_layer_norm":
            exact = F.layer_norm(args[0].double(), args[1], eps=args[4])
            self.note(name, made[0], exact)
        elif name == "_scaled_dot_product_flash_attention_for_cpu":
            q, k, v = (each.double() for each in args[:3])
            exact = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            self.note(name, made[0], exact)
        return made

    def note(self, name, made, exact):
        error = ((made.double() - exact).abs() / (exact.abs() + exact.std())).max().item()
        self.errors[name] = max(error, self.errors.get(name, 0.0))


@pytest.fixture(scope="module")
def watched():
    """A forward and a backward pass under autocast, each operation watched."""
    torch.manual_seed(0)
    model = tiny_model(0, vocab_size=512)
    batch = rows(model)
    with Watched() as seen:
        with torch.autocast("cpu", torch.bfloat16):
            loss = NextToken(z_loss=1e-4).total(model, batch)
        loss.backward()
    return model, loss, seen


def test_the_softmax_of_the_loss_and_the_rotary_tables_are_float32(watched):
    _, loss, seen = watched
    assert seen.types["_log_softmax"] == {torch.float32}
    assert seen.types["cos"] == seen.types["sin"] == {torch.float32}
    assert loss.dtype == torch.float64
    assert torch.bfloat16 in seen.types["mm"]


def test_norms_and_attention_lose_the_rounding_of_their_results_only(watched):
    _, _, seen = watched
    assert seen.errors["native_layer_norm"] < BF16
    assert seen.errors["_scaled_dot_product_flash_attention_for_cpu"] < 2 * BF16


def test_queries_and_keys_are_turned_in_float32():
    model, place = tiny_model(0), 2047
    x = torch.randn(1, 1, 1, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    cos, sin = rope_tables(torch.tensor([place]), 64, model.config.rope_theta)
    angles = place * 10000.0 ** (-torch.arange(0, 64, 2).double() / 64)
    first, second = x.double().chunk(2, -1)
    exact = torch.cat(
        (
            first * angles.cos() - second * angles.sin(),
            second * angles.cos() + first * angles.sin(),
        ),
        -1,
    )
    torch.testing.assert_close(_rotate(x, cos, sin).double(), exact, rtol=BF16, atol=1e-3)


def test_parameters_gradients_and_moments_are_float32(watched):
    model, _, _ = watched
    optimizer = make_optimizer(model, AdamW())
    optimizer.step()
    held = [(p, p.grad, *optimizer.state[p].values()) for p in model.parameters()]
    assert {tensor.dtype for each in held for tensor in each} == {torch.float32}
