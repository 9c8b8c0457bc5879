import numpy as np
import pytest
from safetensors.numpy import save

from tests.steps.conftest import Bench
from tests.store.conftest import Maker


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A workspace in which a small graph was run, and which nobody changes."""
    bench = Bench(tmp_path_factory.mktemp("browse"))
    bench.run()
    return bench


@pytest.fixture
def maker(tmp_path):
    return Maker(tmp_path / "workspace")


def weights(scale=1.0):
    """The bytes of a small file of tensors."""
    return save({"head": np.full((2, 3), scale, np.float32), "embed": np.ones(4, np.float32)})
