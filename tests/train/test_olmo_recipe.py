"""Updates as ai2-olmo 0.6.0 makes them: `tests/parity/test_olmo_reference.py` wrote the values."""

import pytest

from pipeline.train.config import TrainConfig
from tests.train.olmo_recipes import (
    GOLDEN,
    LENGTH,
    RECIPES,
    ROWS,
    SHAPES,
    STEPS,
    AllPositions,
    ids_of,
    trained,
)


@pytest.mark.parametrize("name", RECIPES)
def test_losses_norms_and_weights_of_six_updates_are_those_of_the_reference(golden, tmp_path, name):
    config, held = RECIPES[name], golden.held(GOLDEN)[name]
    objective, ids = AllPositions(config.z_loss), ids_of(STEPS, ROWS, LENGTH)
    rows, weights = trained(SHAPES[name], config, objective, ids, tmp_path)
    assert [row["loss"] for row in rows] == pytest.approx(held["losses"], rel=2e-6)
    assert [row["grad_norm"] for row in rows] == pytest.approx(held["grad_norms"], rel=1e-5)
    norms = {key: each.norm().item() for key, each in weights[-1].items()}
    assert norms == pytest.approx(held["weight_norms"], rel=1e-5)


def test_the_limits_of_the_clipping_norm_lag_an_update_in_the_reference_only():
    lagging = RECIPES["untied"]
    plain = TrainConfig(**vars(lagging))
    assert [plain.norm_limit(n) for n in (1, 2, 3, 4)] == [5.0, 5.0, 0.5, 0.5]
    assert [lagging.norm_limit(n) for n in (1, 2, 3, 4)] == [0.5, 5.0, 5.0, 0.5]
