import math

import pytest
import torch
import torch.nn.functional as F

from pipeline.train.stages import chunks
from pipeline.train.stages.objectives import (
    DpoLoss,
    Masked,
    NextToken,
    num_read,
    sequence_logprobs,
    token_losses,
    within_documents,
)
from tests.model.fakes import TINY, tiny_model


def rows(count=4, length=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, TINY.vocab_size, (count, length), generator=generator)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_the_chunked_loss_and_its_gradients_are_those_of_cross_entropy(monkeypatch, tied, z_loss):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * TINY.vocab_size * 5)  # five rows a chunk
    ids = rows()
    ours, plain = (tiny_model(3, tie_embeddings=tied).double() for _ in range(2))
    z_total = torch.zeros((), dtype=torch.float64)
    total = NextToken(z_loss).total(ours, {"input_ids": ids}, z_total)
    logits = plain.logits(plain(ids)[:, :-1]).flatten(0, 1)
    expected = F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum")
    expected_z = z_loss * logits.logsumexp(-1).square().sum()
    expected = expected + expected_z
    assert z_total.item() == pytest.approx(expected_z.item(), rel=1e-6)
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    total.backward()
    expected.backward()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_a_mask_of_ones_is_next_token_prediction_and_padding_counts_for_nothing():
    model, ids = tiny_model(1), rows()
    whole = {"input_ids": ids, "mask": torch.ones_like(ids)}
    assert Masked().total(model, whole).item() == pytest.approx(
        NextToken().total(model, {"input_ids": ids}).item()
    )
    padded = {
        "input_ids": F.pad(ids, (0, 5), value=7),
        "mask": F.pad(torch.ones_like(ids), (0, 5)),
    }
    assert Masked().weight(padded) == Masked().weight(whole)
    assert Masked().total(model, padded).item() == pytest.approx(
        Masked().total(model, whole).item(), rel=1e-6
    )


def test_dpo_is_ln_2_when_the_policy_is_the_reference():
    model, ids = tiny_model(2), rows(6)
    batch = {"input_ids": ids, "mask": torch.ones_like(ids)}
    with torch.no_grad():
        batch["reference"] = sequence_logprobs(model, ids, batch["mask"])
    loss = DpoLoss(0.1).total(model, batch).item() / DpoLoss(0.1).weight(batch)
    assert loss == pytest.approx(math.log(2), abs=1e-7)


def test_dpo_falls_as_the_margin_grows():
    model, ids = tiny_model(2), rows(2)
    mask = torch.ones_like(ids)
    own = sequence_logprobs(model, ids, mask).detach()
    better = torch.tensor([-5.0, 5.0], dtype=torch.float64)  # the reference liked chosen less
    losses = [
        DpoLoss(0.1).total(model, {"input_ids": ids, "mask": mask, "reference": own + k * better})
        for k in (0, 1, 2)
    ]
    assert losses[0] > losses[1] > losses[2]
    assert losses[1].item() == pytest.approx(math.log(1 + math.exp(-1.0)), abs=1e-6)


def test_a_sequence_is_as_likely_as_its_tokens_together():
    model, ids = tiny_model(4), rows(3)
    mask = (torch.arange(ids.shape[1]) % 3 != 0).long().expand_as(ids)
    hidden = model(ids)
    logprobs = F.log_softmax(model.logits(hidden[:, :-1]).double(), -1)
    said = logprobs.gather(-1, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(
        sequence_logprobs(model, ids, mask), (said * mask[:, 1:]).sum(-1), rtol=1e-5, atol=1e-5
    )


def test_token_losses_are_those_of_each_token():
    model, ids = tiny_model(5), rows(2)
    hidden = model(ids)[:, :-1].flatten(0, 1)
    found = token_losses(hidden, model.head.weight, ids[:, 1:].flatten())
    expected = F.cross_entropy(model.logits(hidden), ids[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(found, expected)


def test_beta_must_be_positive():
    with pytest.raises(ValueError, match="beta is 0"):
        DpoLoss(0.0)


def test_tokens_read_are_all_but_the_fill_and_those_learned_are_of_the_loss():
    ids, mask = torch.ones(2, 5, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.int64)
    mask[0, 3:], mask[1, 2] = 1, 1
    batch = {"input_ids": ids, "mask": mask, "lengths": torch.tensor([5, 3])}
    assert num_read(batch) == 8
    assert Masked().num_learned(batch) == DpoLoss().num_learned(batch) == 3
    whole = {"input_ids": ids}
    assert (num_read(whole), NextToken().num_learned(whole)) == (10, 8)


END = 9


def packed():
    """A row of documents of 5, 1 and 4 tokens and the beginning of a fourth; no end in a text."""
    generator = torch.Generator().manual_seed(5)
    lengths = [5, 1, 4, 6]
    documents = [torch.randint(10, TINY.vocab_size, (n,), generator=generator) for n in lengths]
    for each in documents[:-1]:
        each[-1] = END
    return documents


@pytest.mark.filterwarnings("default")  # those that torch.compile meets in torch
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_masked_documents_have_the_hidden_states_and_gradients_of_each_alone(compiled):
    documents = packed()
    row = torch.cat(documents)[None]
    together, alone = tiny_model(3), tiny_model(3)
    forward = torch.compile(together) if compiled else together
    hidden = forward(row, seen_BTT=within_documents(row, END))
    expected = torch.cat([alone(each[None]) for each in documents], dim=1)
    torch.testing.assert_close(hidden, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    (hidden * weights).sum().backward()
    (expected * weights).sum().backward()
    for a, b in zip(together.parameters(), alone.parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


def test_masking_documents_still_predicts_the_first_token_after_an_end():
    documents, model = packed(), tiny_model(3)
    row = torch.cat(documents)[None]
    batch = {"input_ids": row}
    hidden = torch.cat([model(each[None]) for each in documents], dim=1)[0, :-1]
    expected = F.cross_entropy(model.logits(hidden), row[0, 1:], reduction="sum")
    assert NextToken(end_id=END).total(model, batch).item() == pytest.approx(
        expected.item(), rel=1e-5
    )
    assert NextToken(end_id=END).weight(batch) == NextToken().weight(batch) == row.numel() - 1
    assert (
        NextToken(end_id=END).total(model, batch).item() != NextToken().total(model, batch).item()
    )
