import pytest
import torch
from safetensors.torch import load_file

from pipeline.core.artifacts import Pairs
from pipeline.core.shards import read_shard, write_shard
from pipeline.model.olmo import Olmo
from pipeline.tokens.chat import PAIR
from pipeline.train import dpo
from pipeline.train.distributed import Ranks
from pipeline.train.objectives import sequence_logprobs
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

    def scored(model, ids, mask):
        seen.update({ids.device, mask.device, *(each.device for each in model.parameters())})
        return torch.zeros(len(ids), dtype=torch.float64)

    monkeypatch.setattr(dpo, "sequence_logprobs", scored)
    dpo.reference_logprobs(*pairs, out=tmp_path / "out")
    assert seen == {elsewhere}
