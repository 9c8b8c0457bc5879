"""A folder as a released model's, with start values: it stands in for one that is out of reach."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.files import write_json
from pipeline.model.config import OlmoConfig
from pipeline.model.hf import WEIGHTS, to_hf_state
from pipeline.model.hf_config import hf_config
from pipeline.model.olmo import Olmo
from pipeline.model.weights import save_tensors


def write_made_up_model(folder: Path, config: OlmoConfig) -> None:
    """Write `config.json` and the weights that a model of this shape starts from."""
    folder.mkdir(parents=True, exist_ok=True)
    model = Olmo(config)
    model.init_weights(0)
    save_tensors(to_hf_state(model.state_dict(), config), folder / WEIGHTS, {"format": "pt"})
    write_json(folder / "config.json", hf_config(config))
