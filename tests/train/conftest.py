import shutil
from functools import partial

import numpy as np
import pytest

from pipeline.model.config import OlmoConfig
from pipeline.tokens.mixing import mix_tokens
from pipeline.train import loop
from pipeline.train.config import AdamW, Conduct, Cosine, Launch, TrainConfig
from pipeline.train.ranks.launching import run_ranks
from pipeline.train.stages.pretrain import pretrain
from tests.tokens.test_mixing import write_tokens

SHAPE = OlmoConfig(
    d_model=32, n_layers=2, n_heads=2, mlp_hidden_size=64, vocab_size=128, max_sequence_length=16
)
ONE = Launch(threads=1)


def config(steps=6, **changes):
    values = {
        "batch_size": 4,
        "schedule": Cosine(peak_lr=1e-2, warmup_steps=2, total_steps=steps),
        "optimizer": AdamW(),
        "save_steps": 3,
        "seed": 1,
    }
    return TrainConfig(**{**values, **changes})


@pytest.fixture(scope="session")
def mix(tmp_path_factory):
    """Sixty instances of text with a rule in it: each id follows from the one before."""
    root = tmp_path_factory.mktemp("mix") / "cache"
    rng = np.random.default_rng(0)
    documents = []
    for _ in range(40):
        start = int(rng.integers(1, 99))
        documents.append([*((start + 7 * place) % 98 + 1 for place in range(24)), 0])
    tokens = write_tokens(root / "tokens", [documents[:20], documents[20:]])
    return mix_tokens({"all": tokens}, sequence_length=16, out=root / "mix")


@pytest.fixture
def run(mix, tmp_path):
    """Pretrain into a series of this test; the series can be named to go on with it.

    `hooks` are further arguments of `pretrain` or of its `Conduct`, `changes` fields of the model.
    """

    def train(train_config, launch=ONE, series="ab" * 32, name="view", hooks=None, **changes):
        shape, hooks = OlmoConfig(**{**SHAPE.__dict__, **changes}), dict(hooks or {})
        return pretrain(
            mix,
            shape,
            train_config,
            conduct=Conduct(
                series=tmp_path / "series" / series,
                out=tmp_path / "cache" / name,
                launch=launch,
                **{each: hooks.pop(each) for each in ("upkeep", "lease") if each in hooks},
            ),
            **hooks,
        )

    yield train
    shutil.rmtree(tmp_path, ignore_errors=True)


def as_wanted(wanted, device):
    return wanted


def in_real_bf16(work, ranks):
    """The work of a rank in the precision that is asked for, however slow it is here."""
    loop.precision_of_products = as_wanted
    work(ranks)


@pytest.fixture
def real_bf16(monkeypatch):
    """Training computes in bf16 where that is asked for, in ranks of other processes too."""
    monkeypatch.setattr(loop, "precision_of_products", as_wanted)
    monkeypatch.setattr(
        loop, "run_ranks", lambda work, *rest: run_ranks(partial(in_real_bf16, work), *rest)
    )
