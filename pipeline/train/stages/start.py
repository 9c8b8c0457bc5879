"""What SFT and DPO begin with: the latest weights of a model, read by the ids it knows."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.artifacts import MANIFEST, Checkpoints
from pipeline.core.errors import CorruptShard, MismatchedInputs
from pipeline.model.config import require_layers, shape_in
from pipeline.model.weights import files_digest
from pipeline.store.tensors import TensorFiles, tensor_files


def latest_weights(checkpoints: Checkpoints) -> Path:
    """The folder of the latest weights.

    Raises:
        CorruptShard: they are not as recorded, or of fewer layers than the manifest says.
    """
    folder = checkpoints.folder(checkpoints.latest)
    files = tensor_files(folder, "model")
    with TensorFiles(files) as tensors:
        num_tensors = len(list(tensors.names))
    require_layers(shape_in(checkpoints), num_tensors, checkpoints.root / MANIFEST)
    found, wanted = files_digest(files), checkpoints.latest.weights
    if found != wanted:
        raise CorruptShard(folder, None, f"holds weights {found[:12]}; must hold {wanted[:12]}")
    return folder


def require_same_tokenizer(checkpoints: Checkpoints, tokenizer: str, kind: str) -> None:
    """Raises MismatchedInputs unless a model reads the ids of that tokenizer."""
    if checkpoints.tokenizer != tokenizer:
        raise MismatchedInputs(
            f"Checkpoints {checkpoints.content[:12]}",
            kind,
            f"the model reads tokenizer {checkpoints.tokenizer[:12]}, "
            f"they are of tokenizer {tokenizer[:12]}",
        )
