"""Views of models and what was measured of them; no torch is imported."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.browse.text import first_rows
from pipeline.browse.views import Block, Bytes, Facts, Plot, Prose, grid
from pipeline.core.artifacts import Checkpoints, Generations, HfModel, Report, Scores
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.shards import read_shard
from pipeline.store.series import checkpoint_files, evaluation_rows, read_segments
from pipeline.store.tensors import TensorFiles, kind_of, tensor_files

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
    rows = []
    for each in made.steps:
        folder = made.folder(each)
        names = checkpoint_files(folder, each.weights)
        size = sum((folder / name).stat().st_size for name in names)
        rows.append(
            {
                "checkpoint": each.name,
                "step": each.step,
                "tokens read": each.num_tokens_read,
                "tokens learned": each.num_tokens_learned,
                "weights": each.weights[:12],
                "optimizer": any(kind_of(name) == "optimizer" for name in names),
                "size": Bytes(size),
                "folder": str(folder),
            }
        )
    yield grid("checkpoints", rows[-limit:], len(rows))
    yield from _segments(made, limit)
    yield from _evaluations(made, limit)
    yield from _history(made)
    paths = tensor_files(made.folder(made.latest), "model")
    yield from _tensors(paths, f"tensors of {made.latest.name}")


def _segments(made: Checkpoints, limit: int) -> Iterator[Block]:
    """How the series came about, with what went wrong on the way; nothing where it was pulled."""
    rows = [
        {
            "segment": each["segment"],
            "after step": each.get("first_step"),
            "to step": each.get("last_step"),
            "cause": each.get("cause", "under way"),
            "reason": each.get("reason", ""),
            "rolled back from": each.get("rolled_back_from"),
            "ranks": each.get("ranks"),
            "device": each.get("device"),
            "seconds": each.get("seconds"),
        }
        for each in read_segments(made.series_root)
    ]
    if rows:
        yield grid("segments", rows[-limit:], len(rows))


def _evaluations(made: Checkpoints, limit: int) -> Iterator[Block]:
    """What was measured while it was trained: the first measure of each task, which is its main."""
    rows = []
    for each in evaluation_rows(made.series_root):
        mains = {score["task"]: score for score in reversed(each["scores"])}
        rows += [
            {
                "step": each["step"],
                "evaluation": each["name"],
                "task": task,
                "metric": score["metric"],
                "value": score["value"],
                "standard error": score.get("standard_error"),
                "seconds": each["seconds"],
            }
            for task, score in reversed(mains.items())
            if each["step"] <= made.latest.step
        ]
    if rows:
        yield grid("evaluations", rows[-limit:], len(rows))


def _history(made: Checkpoints) -> Iterator[Block]:
    record = made.history
    path = record.place(made.root)
    try:
        rows = pq.read_metadata(path).num_rows
    except (OSError, ValueError) as error:
        raise CorruptShard(path, None, f"not readable ({error})") from error
    shard = Shard(record.path, record.num_bytes, record.content, record.sha256, rows)
    table = read_shard(made.root, shard).slice(0, MOST_ROWS)
    steps = [float(each) for each in table["step"].to_pylist()] or [0.0]
    for name in ("loss", "grad_norm", "lr"):
        if name in table.column_names:
            values = [math.nan if v is None else float(v) for v in table[name].to_pylist()]
            yield Plot(name.replace("_", " "), values, steps[0], steps[-1])


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
