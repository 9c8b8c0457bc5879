"""Views of models and what was measured of them; no torch is imported."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.browse.series import checkpoint_row, curves, evaluations, last_of, segments
from pipeline.browse.text import first_rows
from pipeline.browse.views import Block, Bytes, Facts, Prose, grid
from pipeline.core.artifacts import Checkpoints, Generations, HfModel, Report, Scores
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.shards import read_shard
from pipeline.store.tensors import TensorFiles, tensor_files

MOST_TENSORS = 400
MOST_ROWS = 200_000  # of a history, or of scores


def checkpoints(made: Checkpoints, limit: int) -> Iterator[Block]:
    yield Facts(
        {
            "objective": made.objective.replace("_", " "),
            "series": made.series[:12],
            "tokenizer": made.tokenizer[:12],
            **{name: value for name, value in made.model.items() if value is not None},
        }
    )
    rows = [checkpoint_row(made.folder(each), each) for each in made.steps]
    yield last_of("checkpoints", rows, limit)
    yield from segments(made.series_root, limit)
    yield from evaluations(made.series_root, limit, made.latest.step)
    yield from _history(made)
    paths = tensor_files(made.folder(made.latest), "model")
    yield from _tensors(paths, f"tensors of {made.latest.name}")


def _history(made: Checkpoints) -> Iterator[Block]:
    record = made.history
    path = record.place(made.root)
    try:
        rows = pq.read_metadata(path).num_rows
    except (OSError, ValueError) as error:
        raise CorruptShard(path, None, f"not readable ({error})") from error
    shard = Shard(record.path, record.num_bytes, record.content, record.sha256, rows)
    table = read_shard(made.root, shard).slice(0, MOST_ROWS)
    yield from curves(table["step"].to_pylist(), table.drop_columns("step").to_pydict())


def _tensors(paths: Iterable[Path], title: str) -> Iterator[Block]:
    """Name, type, shape and norm of the tensors in some files."""
    rows: list[dict[str, Any]] = []
    with TensorFiles(paths, "np") as files:
        shapes = {name: files.shape(name) for name in files.names}
        for name, shape in list(shapes.items())[:MOST_TENSORS]:
            rows.append(
                {
                    "tensor": name,
                    "type": files.kind(name),
                    "shape": " × ".join(str(each) for each in shape) or "scalar",
                    "norm": _norm(files, name),
                }
            )
    num_parameters = sum(math.prod(shape) for shape in shapes.values())
    yield Facts({"tensors": len(shapes), "parameters": num_parameters})
    yield grid(title, rows, len(shapes))


def _norm(files: TensorFiles, name: str) -> float | None:
    """The Euclidean norm; None for a type that numpy lacks, as bfloat16."""
    try:
        squares = [np.sum(np.square(part, dtype=np.float64)) for part in files.parts(name)]
    except (TypeError, AttributeError, ValueError):
        return None
    return float(np.sqrt(np.sum(squares)))


def hf_model(made: HfModel) -> Iterator[Block]:
    yield Facts(
        {
            "opens with": f"transformers' from_pretrained({str(made.root)!r})",
            "tokenizer": made.tokenizer[:12],
            **{name: value for name, value in made.model.items() if value is not None},
        }
    )
    yield grid(
        "files", [{"file": each.path, "size": Bytes(each.num_bytes)} for each in made.model_files]
    )
    for each in made.model_files:
        if each.path.endswith(".safetensors"):
            yield from _tensors([each.place(made.root)], f"tensors of {each.path}")


def scores(made: Scores, limit: int) -> Iterator[Block]:
    yield Facts({"kind": made.kind, "answers": made.answers.num_records})
    total = made.scores.num_records
    rows = first_rows(made.root, [made.scores], max(limit, 100))
    yield grid("scores", rows, total)
    answers = first_rows(made.root, [made.answers], limit)
    yield grid("answers", answers, made.answers.num_records)


def generations(made: Generations, limit: int) -> Iterator[Block]:
    yield Facts({"generations": sum(s.num_records for s in made.shards), **made.settings})
    for row in first_rows(made.root, made.shards, limit, ["checkpoint", "prompt", "text"]):
        yield Prose(f"{row['checkpoint']} was given", row["prompt"] or "")
        yield Prose("and wrote", row["text"] or "")


def report(made: Report) -> Iterator[Block]:
    path = made.page.place(made.root)
    yield Facts({"open in a browser": str(path), "size": Bytes(made.page.num_bytes)})
