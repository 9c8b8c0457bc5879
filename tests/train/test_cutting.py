"""However an update is cut over ranks and passes, its loss and its gradient are the same.

Gradients are compared by their norm before it is clipped: Adam and clipping hide their scale.
"""

import json
from functools import partial

import numpy as np
import pytest

from pipeline.core.artifacts import Examples, Pairs
from pipeline.core.shards import write_shard
from pipeline.store.history import history_rows
from pipeline.tokens.batches import ExampleBatches, PairBatches
from pipeline.tokens.chat import EXAMPLE, PAIR
from pipeline.tokens.order import TokenBatches
from pipeline.train import loop
from pipeline.train.config import Conduct, Launch
from pipeline.train.loop import Run, Training
from pipeline.train.ranks.launching import run_ranks
from pipeline.train.stages.objectives import DpoLoss, Masked, NextToken
from pipeline.train.stages.sft import sft
from tests.train.conftest import ONE, SHAPE, as_wanted, config, in_real_bf16

ITEMS, UPDATES = 6, 2  # a batch, of which two ranks read three items each
CUTS = ("whole", "passes")  # of two items, which are recomputed; three are cut into two and one


def drawn(rng, learned):
    """Ids and mask of a row: a prompt of two, and some that are learned."""
    return [int(each) for each in rng.integers(1, 99, 2 + learned)], [0, 0, *[1] * learned]


def write_examples(folder, tokenizer=""):
    """Twelve examples of 1, 2, …, 12 learned tokens."""
    rng, columns = np.random.default_rng(0), {name: [] for name in EXAMPLE.names}
    for number in range(12):
        ids, mask = drawn(rng, 1 + number)
        values = (str(number), str(number), ids, mask, 4)
        for name, value in zip(EXAMPLE.names, values, strict=True):
            columns[name].append(value)
    folder.mkdir()
    shard = write_shard(folder, "00000.parquet", columns, EXAMPLE)
    return Examples.of(folder, tokenizer=tokenizer, num_examples=12, num_skipped=0, shards=[shard])


def write_pairs(folder):
    """Twelve pairs whose sides differ in length, with a reference that is of no model."""
    rng, columns = np.random.default_rng(1), {name: [] for name in PAIR.names}
    for number in range(12):
        chosen, rejected = drawn(rng, 1 + number % 5), drawn(rng, 1 + number % 7)
        logprobs = [float(each) for each in rng.normal(-20, 8, 2)]
        values = (str(number), str(number), *chosen, *rejected, 4, 4, *logprobs)
        for name, value in zip(PAIR.names, values, strict=True):
            columns[name].append(value)
    folder.mkdir()
    shard = write_shard(folder, "00000.parquet", columns, PAIR)
    counts = {"num_pairs": 12, "num_skipped": 0}
    return Pairs.of(folder, tokenizer="", reference="", shards=[shard], **counts)


@pytest.fixture(scope="module")
def stages(mix, tmp_path_factory):
    """What each stage minimizes, and of what."""
    root = tmp_path_factory.mktemp("stages")
    examples, pairs = write_examples(root / "examples"), write_pairs(root / "pairs")
    return {
        "pretrain": (NextToken(1e-3), partial(TokenBatches, mix, ITEMS, 1)),
        "sft": (Masked(1e-3), partial(ExampleBatches, examples, ITEMS, 1)),
        "dpo": (DpoLoss(0.1), partial(PairBatches, pairs, ITEMS, 1)),
    }


def training_of(objective, batches, cut, precision):
    passes = {"microbatch": 2 * objective.rows_per_item, "activation_checkpointing": True}
    launch = Launch(threads=1, **(passes if cut == "passes" else {}))
    changes = {"batch_size": ITEMS, "max_grad_norm": None, "precision": precision}
    return Training(SHAPE, objective, batches, config(**changes), launch, series=None)


def note_updates(path, trainings, ranks):
    """Note the loss and the norm of the gradient of each update, a list each."""
    made = []
    for case, training in trainings.items():
        run = Run(training, ranks)
        run.go_to(0)
        rows = [run.update(number) for number in range(1, 1 + UPDATES)]
        made.append([case, [[row[name] for row in rows] for name in ("loss", "grad_norm")]])
    if ranks.rank == 0:
        path.write_text(json.dumps(made))
    ranks.wait()  # gloo is not ended in the middle of what it does


@pytest.fixture(scope="module")
def made(stages, tmp_path_factory):
    """The updates of each case on one rank and on two, which are launched once for all."""
    cases = [(stage, cut, "fp32") for stage in stages for cut in CUTS]
    cases += [("pretrain", "whole", "bf16"), ("pretrain", "passes", "bf16")]
    trainings = {case: training_of(*stages[case[0]], *case[1:]) for case in cases}
    root, found = tmp_path_factory.mktemp("made"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "precision_of_products", as_wanted)  # restored, as ranks may be here
        for size in (1, 2):
            work = partial(in_real_bf16, partial(note_updates, root / "made.json", trainings))
            run_ranks(work, Launch(ranks=size, threads=1), root)
            for case, rows in json.loads((root / "made.json").read_text()):
                found[(size, *case)] = rows
    return found


@pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo"])
@pytest.mark.parametrize(("ranks", "cut"), [(1, "passes"), (2, "whole"), (2, "passes")])
def test_loss_and_gradient_do_not_depend_on_how_an_update_is_cut(made, stage, ranks, cut):
    losses, norms = made[1, stage, "whole", "fp32"]
    cut_losses, cut_norms = made[ranks, stage, cut, "fp32"]
    assert cut_losses == pytest.approx(losses, rel=1e-5)
    assert cut_norms == pytest.approx(norms, rel=1e-4)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("cut", CUTS)
def test_bf16_is_used_where_it_is_asked_for_and_stays_close_to_fp32(made, ranks, cut):
    exact, half = made[1, "pretrain", "whole", "fp32"][0], made[ranks, "pretrain", cut, "bf16"][0]
    assert half == pytest.approx(exact, abs=5e-3)
    assert half != pytest.approx(exact, abs=5e-5)  # as any cut in fp32 is


def test_the_z_loss_that_is_asked_of_sft_is_in_its_loss(run, tmp_path):
    start = run(config(3))
    examples = write_examples(tmp_path / "examples", start.tokenizer)
    rows = {}
    for z_loss, name in ((0.0, "a" * 64), (1e-2, "b" * 64)):
        conduct = Conduct(tmp_path / "series" / name, tmp_path / "cache" / name, launch=ONE)
        made = sft(start, examples, config(stop_at=1, z_loss=z_loss), conduct=conduct)
        rows[z_loss] = history_rows(made.series_root)[1]
    assert rows[1e-2]["z_loss"] > 0.01
    assert rows[1e-2]["loss"] - rows[0.0]["loss"] == pytest.approx(rows[1e-2]["z_loss"], rel=1e-4)
