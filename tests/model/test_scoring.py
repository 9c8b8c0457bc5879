from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.model.scoring import row, score_rows
from tests.model.fakes import tiny_model


def test_rows_without_a_scored_token_and_long_rows_are_scored():
    model = tiny_model()
    rows = [row([1, 2, 3], [], 48), row(list(range(100)), range(1, 100), 48)]
    nothing, long = score_rows(model, rows)
    assert len(nothing.logprobs) == 0
    assert len(long.logprobs) == 48 and np.isfinite(long.logprobs).all()


@pytest.mark.parametrize("place", [1, 2])
def test_ids_of_another_tokenizer_are_told(place):
    model, ids = tiny_model(), [1, 2, 3]
    ids[place] = size = model.config.vocab_size
    with pytest.raises(ValueError, match=f"has the token id {size}; the model's are below {size}"):
        score_rows(model, [row([1, 2], [1], 48), row(ids, [2], 48)])


def test_branches_of_one_context_are_scored_as_if_alone():
    model = tiny_model(clip_qkv=1.0)
    context = list(range(50, 62))
    ends = [[1], [2], [3, 4, 5], [3, 4, 6], [7] * 9, list(range(30)), [1]]
    rows = [row(context + end, range(12, 12 + len(end)), 48) for end in ends]
    rows.append(row([*context, 9, 8, 7, 6], [12, 15], 48))
    together = score_rows(model, rows)
    alone = [score_rows(model, [each])[0] for each in rows]
    for one, two in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.logprobs, two.logprobs, rtol=0, atol=1e-5)
        assert (one.greedy == two.greedy).all()


@pytest.mark.parametrize("size", [3, 5])
def test_ranks_that_share_the_batches_have_the_scores_of_one_and_make_as_many_calls(size):
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, 99, 4 + number).tolist() for number in range(7)]
    rows = [row(each, range(2, len(each)), 48) for each in ids]
    model, calls, parts = tiny_model(), [], []
    model.register_forward_hook(lambda *given: calls.append(1))

    def score(**more):
        calls.clear()
        return score_rows(model, rows, batch_tokens=16, **more), len(calls)

    def of(rank, added):
        return SimpleNamespace(rank=rank, size=size, added=added)

    alone, num_batches = score()
    assert num_batches % size
    for rank in range(size):
        score(ranks=of(rank, lambda numbers: parts.append(numbers) or numbers))
    for rank in range(size):
        shared, num_calls = score(ranks=of(rank, lambda numbers: sum(parts)))
        assert num_calls == -(-num_batches // size)
        for one, two in zip(shared, alone, strict=True):
            assert one.logprobs.tolist() == two.logprobs.tolist()
            assert one.greedy.tolist() == two.greedy.tolist()
