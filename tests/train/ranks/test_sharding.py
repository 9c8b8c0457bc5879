"""However many ranks there are and whatever each holds, the loss is that of one rank."""

import pytest

from pipeline.store.history import read_segments
from pipeline.train.config import Conduct
from pipeline.train.ranks.launches import Launch, Torchrun
from pipeline.train.stages.pretrain import pretrain
from tests.train.conftest import ONE, SHAPE, config
from tests.train.ranks.test_launching import free_port
from tests.train.test_loop import losses

TWO = {"ranks": 2, "threads": 1}
FOUR = {"ranks": 4, "threads": 1}


@pytest.fixture(scope="module")
def plain(tmp_path_factory, mix):

    root = tmp_path_factory.mktemp("plain")
    made = pretrain(
        mix,
        SHAPE,
        config(),
        conduct=Conduct(root / "series" / ("a" * 64), root / "cache" / "one", ONE),
    )
    return losses(made)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launch",
    [
        Launch(**TWO, shard_within=1),
        Launch(**TWO, reshard_after_forward=False),
        Launch(**TWO, microbatch=1),
        Launch(**TWO, microbatch=1, reduce_each_microbatch=False),
        Launch(**FOUR),
        Launch(**FOUR, shard_within=2),
        Torchrun(ranks=2, threads=1, rendezvous=f"localhost:{free_port()}"),
    ],
    ids=["copies", "held", "cut", "reduced-once", "four", "two-by-two", "torchrun"],
)
def test_ranks_have_the_loss_of_one_however_they_share_the_model(launch, run, plain, tmp_path):
    made = run(config(), launch, series="b" * 64)
    assert losses(made) == pytest.approx(plain, rel=1e-5)
    segments = read_segments(tmp_path / "series" / ("b" * 64))
    assert segments
    for each in segments:  # what ran is on record
        assert each["launch"] == launch.TYPE and each["world_size"] == launch.ranks
        assert each["shard_within"] == launch.shard_within
