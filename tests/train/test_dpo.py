import math

import pytest
import torch

from pipeline.tokens.chat import PairBatches, prepare_pairs
from pipeline.tokens.tokenizer import train_tokenizer
from pipeline.train.dpo import reference_logprobs
from pipeline.train.objectives import DpoLoss
from tests.eval.conftest import sentence, write_documents
from tests.model.fakes import tiny_model, write_checkpoints


def test_a_policy_that_is_its_own_reference_has_a_loss_of_ln_2(tmp_path):
    answers = [(sentence(n, 3 + n % 5), sentence(n + 1, 2 + n % 7)) for n in range(20)]
    metadata = [
        {"prompt": [{"role": "user", "content": f"Say {n}."}], "chosen": good, "rejected": bad}
        for n, (good, bad) in enumerate(answers)
    ]
    documents = write_documents(tmp_path / "d", [good for good, _ in answers], metadata)
    tokenizer = train_tokenizer(documents, vocab_size=300, out=tmp_path / "t")
    pairs = prepare_pairs(documents, tokenizer, max_length=48, out=tmp_path / "p")
    model = tiny_model(1)
    checkpoints = write_checkpoints(tmp_path / "w", [model], tokenizer.content)
    made = reference_logprobs(checkpoints, pairs, out=tmp_path / "r")
    assert made.reference == checkpoints.latest.weights and made.num_pairs == pairs.num_pairs > 10
    batch = {name: torch.from_numpy(each) for name, each in PairBatches(made, 8, 0).at(0).items()}
    assert batch["reference"].max() < 0
    loss = DpoLoss(beta=5.0).total(model, batch) / 8
    assert loss.item() == pytest.approx(math.log(2), abs=1e-4)
