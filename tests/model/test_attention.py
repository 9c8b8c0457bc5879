import pytest
import torch
import torch.nn.functional as F

from pipeline.model.attention import LONGEST, QUERIES, causal_attention, suits_blocks


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("length", [1, QUERIES - 1, QUERIES, QUERIES + 1, 3 * QUERIES + 7])
@pytest.mark.parametrize("width", [2, 48])
def test_blocks_give_the_attention_and_the_gradients_of_pytorch(length, width):
    given = drawn(3, length, width)
    exact = [each.detach().double().requires_grad_() for each in given]
    made = causal_attention(*given)
    wanted = F.scaled_dot_product_attention(*exact, is_causal=True)
    torch.testing.assert_close(made.double(), wanted, rtol=1e-5, atol=1e-6)
    grad = torch.randn(made.shape, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(
        torch.autograd.grad(made, given, grad),
        torch.autograd.grad(wanted, exact, grad.double()),
        strict=True,
    ):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


def test_tensors_in_another_layout_give_the_same():
    given = drawn(3, 80, 16)
    turned = [each.detach().mT.contiguous().mT.requires_grad_() for each in given]
    made, again = causal_attention(*given), causal_attention(*turned)
    torch.testing.assert_close(made, again)
    made.sum().backward()
    again.sum().backward()
    for one, other in zip(given, turned, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_the_operation_keeps_the_promises_of_one():
    """Its shapes, and its gradients under `torch.compile`, are those it makes."""
    torch.library.opcheck(
        torch.ops.olmo_tango.causal_attention.default, tuple(drawn(2, QUERIES + 3, 8))
    )


def test_blocks_are_for_training_on_a_cpu_in_float32():
    (query, *_) = drawn(1, 2, 64, 8)
    assert suits_blocks(query)
    assert not suits_blocks(query.detach())
    assert not suits_blocks(query.bfloat16())
    assert not suits_blocks(query.to("meta"))
    assert not suits_blocks(query.expand(1, 2, 64, 8)[..., :1, :].expand(1, 2, LONGEST + 1, 8))
