"""Series of tiny random models, as training would have left them."""

import dataclasses

from safetensors.torch import save_file

from pipeline.core.artifacts import Checkpoint, Checkpoints, checkpoint_name
from pipeline.core.files import StoredFile
from pipeline.model.config import OlmoConfig
from pipeline.model.olmo import Olmo
from pipeline.model.weights import weights_digest

TINY = OlmoConfig(
    d_model=32, n_layers=2, n_heads=4, mlp_hidden_size=96, vocab_size=384, max_sequence_length=48
)


def write_checkpoints(workspace, models, tokenizer="", name="x", series="ab" * 32):
    """A series whose step 1, 2, … are these models."""
    steps = []
    for step, model in enumerate(models, start=1):
        folder = workspace / "series" / series / checkpoint_name(step)
        folder.mkdir(parents=True)
        save_file(model.state_dict(), folder / "model.safetensors")
        weights = weights_digest(model.state_dict())
        steps.append(Checkpoint(checkpoint_name(step), step, step * 1000, step * 999, weights))
    root = workspace / "cache" / name
    root.mkdir(parents=True)
    (root / "history.parquet").write_bytes(b"")
    return Checkpoints.of(
        root,
        series=series,
        model=dataclasses.asdict(models[0].config),
        tokenizer=tokenizer,
        objective="next_token",
        steps=steps,
        history=StoredFile.of(root, "history.parquet"),
    )


def tiny_model(seed=0, **changes):
    return Olmo(dataclasses.replace(TINY, **changes), seed=seed)
