import pytest
import torch

from pipeline.core.errors import MismatchedInputs
from pipeline.eval.scoring import loglikelihoods, named_models
from pipeline.model.scoring import Scorer
from pipeline.tokens.tokenizer import encode, load_tokenizer
from tests.eval.conftest import sentence
from tests.model.fakes import tiny_model

REQUESTS = [("", "the fox")] + [
    (sentence(n, 1 + n % 9), " " + sentence(n + 3, 1 + n % 4)) for n in range(20)
]


def test_a_likelihood_is_that_of_the_whole_sequence(tokenizer):
    model, loaded = tiny_model(), load_tokenizer(tokenizer)
    for (context, continuation), found in zip(
        REQUESTS, loglikelihoods(Scorer(model), tokenizer, REQUESTS), strict=True
    ):
        start, end = encode(loaded, [context, continuation])
        ids = torch.tensor([[tokenizer.end_id, *start, *end]])
        with torch.no_grad():
            table = torch.log_softmax(model.logits(model(ids[:, :-1])), -1)[0]
        chosen = table[torch.arange(len(table)), ids[0, 1:]][len(start) :]
        assert found.logprob == pytest.approx(float(chosen.sum()), abs=1e-4)
        assert found.num_tokens == len(end)
        assert found.is_greedy == bool(
            (table.argmax(-1)[len(start) :] == ids[0, -len(end) :]).all()
        )
        assert found.num_cut == 0


@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
def test_the_order_of_questions_moves_no_logprob(tokenizer, batch_tokens):
    model = tiny_model()
    scorer = Scorer(model, batch_tokens)
    straight = loglikelihoods(scorer, tokenizer, REQUESTS)
    turned = loglikelihoods(scorer, tokenizer, REQUESTS[::-1])[::-1]
    base = loglikelihoods(Scorer(model), tokenizer, REQUESTS)
    for one, two, three in zip(straight, turned, base, strict=True):
        assert one == two
        assert one.logprob == pytest.approx(three.logprob, abs=1e-5 * max(1, one.num_tokens))


def test_what_does_not_fit_is_cut_on_the_left_and_counted(tokenizer):
    model, loaded = tiny_model(), load_tokenizer(tokenizer)
    context, end = " ".join(sentence(n, 9) for n in range(20)), " dawn"
    (found,) = loglikelihoods(Scorer(model), tokenizer, [(context, end)])
    num_ids = 1 + sum(map(len, encode(loaded, [context, end])))
    assert found.num_cut == num_ids - 49 > 0
    assert found.num_tokens == len(encode(loaded, [end])[0])


def test_models_are_named_by_step_and_must_share_the_tokenizer(checkpoints, tokenizer):
    def steps(chosen):
        return [n.step for n in named_models({"m": checkpoints}, tokenizer.content, chosen)]

    assert (steps(None), steps("all"), steps([1])) == ([2], [1, 2], [1])
    with pytest.raises(ValueError, match="step 9"):
        steps([9])
    with pytest.raises(MismatchedInputs):
        list(named_models({"m": checkpoints}, "other", None))
