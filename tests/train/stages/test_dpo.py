import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.core.artifacts import Pairs
from pipeline.core.shards import read_shard, write_shard
from pipeline.model.olmo import Olmo
from pipeline.model.scoring import Scored
from pipeline.tokens.batches import PairBatches
from pipeline.tokens.chat import PAIR, prepare_pairs
from pipeline.tokens.tokenizer import train_tokenizer
from pipeline.train.ranks.distributed import Ranks
from pipeline.train.stages import dpo
from pipeline.train.stages.dpo import reference_logprobs
from pipeline.train.stages.objectives import DpoLoss, sequence_logprobs
from tests.eval.conftest import sentence, write_documents
from tests.model.fakes import tiny_model, write_checkpoints
from tests.train.conftest import SHAPE, config

ROWS = [([0, 5, 6, 7], [0, 5, 9]), ([0, 3, 4], [0, 3, 8, 2, 1])]


@pytest.fixture
def pairs(run, tmp_path):
    """Two pairs of ids that the checkpoints read; all but the first two ids are learned."""
    columns = {name: [] for name in PAIR.names}
    for number, sides in enumerate(ROWS):
        columns["id"].append(str(number))
        columns["group"].append(str(number))
        for side, ids in zip(("chosen", "rejected"), sides, strict=True):
            columns[f"{side}_ids"].append(ids)
            columns[f"{side}_mask"].append([0, 0, *[1] * (len(ids) - 2)])
            columns[f"{side}_bytes"].append(4)
            columns[f"{side}_logprob"].append(None)
    made = run(config(3))
    (tmp_path / "pairs").mkdir()
    shard = write_shard(tmp_path / "pairs", "00000.parquet", columns, PAIR)
    values = {"num_pairs": 2, "num_skipped": 0, "reference": "", "shards": [shard]}
    return made, Pairs.of(tmp_path / "pairs", tokenizer=made.tokenizer, **values)


def test_the_reference_of_a_pair_is_what_the_model_gives_each_row_alone(pairs, tmp_path):
    checkpoints, given = pairs
    made = dpo.reference_logprobs(checkpoints, given, out=tmp_path / "out")
    model = Olmo(SHAPE)
    model.load_state_dict(load_file(checkpoints.folder(checkpoints.latest) / "model.safetensors"))
    (table,) = (read_shard(made.root, each) for each in made.shards)
    for place, side in enumerate(("chosen", "rejected")):
        for row, found in zip(ROWS, table[f"{side}_logprob"].to_pylist(), strict=True):
            ids = torch.tensor([row[place]])
            mask = torch.ones_like(ids)
            mask[:, :2] = 0
            with torch.inference_mode():
                wanted = float(sequence_logprobs(model, ids, mask))
            assert found == pytest.approx(wanted, abs=1e-5)
    assert made.reference == checkpoints.latest.weights


def test_the_reference_is_computed_where_training_computes(pairs, tmp_path, monkeypatch):
    elsewhere, seen = torch.device("meta"), set()
    monkeypatch.setattr(Ranks, "device", property(lambda self: elsewhere))

    def scored(model, rows):
        seen.update(each.device for each in model.parameters())
        return [Scored(np.zeros(1), np.zeros(1, bool)) for _ in rows]

    monkeypatch.setattr(dpo, "score_rows", scored)
    dpo.reference_logprobs(*pairs, out=tmp_path / "out")
    assert seen == {elsewhere}


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
