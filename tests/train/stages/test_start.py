"""What SFT and DPO begin with is held against the files before a model is made of it."""

import dataclasses
import time

import pytest

from pipeline.core.errors import CorruptShard
from pipeline.train.stages.start import latest_weights
from tests.train.conftest import config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_layers": 10**7}, "n_layers: is 10000000; its files hold"),
        ({"n_layers": "2"}, "is of no model"),
        ({"depth": 1}, "is of no model"),
    ],
)
def test_a_shape_that_the_weights_have_not_is_refused_at_once(run, change, said):
    made = run(config(3))
    assert latest_weights(made) == made.folder(made.latest)
    started = time.perf_counter()
    with pytest.raises(CorruptShard, match=said):
        latest_weights(dataclasses.replace(made, model=made.model | change))
    assert time.perf_counter() - started < 5
