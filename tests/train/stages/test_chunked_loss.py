import weakref

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.train.stages import chunks
from pipeline.train.stages.chunked_loss import summed_loss, token_losses


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, and how many were alive at once."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.note(tensor.untyped_storage())
        return made

    def note(self, storage):
        if storage not in self.known:
            self.known.add(storage)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self.free, storage.nbytes())

    def free(self, num_bytes):
        self.live -= num_bytes


def plain(hidden, weight, targets):
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")


def summed(*arguments):
    return summed_loss(*arguments)[0]


def chunked_tokens(hidden, weight, targets):
    return token_losses(hidden, weight, targets).sum()


def peak_of(loss, num_tokens, precision, width=256, vocabulary=50304):
    """Nothing is computed: the tensors are shapes only."""
    with FakeTensorMode():
        hidden = torch.empty(num_tokens, width, requires_grad=True)
        weight = torch.empty(vocabulary, width, requires_grad=True)
        targets = torch.empty(num_tokens, dtype=torch.int64)
        with PeakBytes() as counted:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                value = loss(hidden, weight, targets)
            value.backward()
    return counted.peak


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("loss", [summed, chunked_tokens])
def test_the_loss_needs_a_third_of_the_memory_that_all_logits_need(loss, precision):
    assert 3 * peak_of(loss, 2048, precision) <= peak_of(plain, 2048, precision)


def test_the_logits_of_many_tokens_are_made_an_eighth_at_a_time():
    assert 5 * peak_of(summed, 16384, "fp32") <= peak_of(plain, 16384, "fp32")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those that torch.compile meets in torch
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_loss_is_the_loss(monkeypatch, precision):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 512 * 9)  # nine rows a chunk
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(100, 64, generator=generator, requires_grad=True)
    weight = torch.randn(512, 64, generator=generator, requires_grad=True)
    targets = torch.randint(512, (100,), generator=generator)
    found = []
    for compiled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss, z_loss = summed_loss(hidden, weight, targets, 1e-3, compiled)
        found.append([loss.detach(), z_loss, *torch.autograd.grad(loss, (hidden, weight))])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)


def test_a_second_backward_pass_is_refused():
    hidden = torch.randn(4, 8, requires_grad=True)
    loss = summed(hidden, torch.randn(16, 8), torch.randint(16, (4,)))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
