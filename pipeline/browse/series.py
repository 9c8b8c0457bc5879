"""Views of a training series: how its segments ended, its curves, and one that is not finished."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.browse.views import Block, Bytes, Facts, Grid, Plot, View, grid
from pipeline.core.artifacts import Checkpoint
from pipeline.core.errors import UNUSABLE
from pipeline.store.checkpoints import CheckpointRecord, checkpoint_files, read_record
from pipeline.store.history import (
    EVALUATIONS,
    HISTORY,
    SEGMENTS,
    damaged_lines,
    diverged_rows,
    evaluation_rows,
    history_rows,
    read_segments,
    segment_extent,
)
from pipeline.store.leases import live_leases
from pipeline.store.results import Results
from pipeline.store.series import series_of
from pipeline.store.tensors import kind_of

CURVES = ("loss", "grad_norm", "lr")


def unfinished(results: Results, id: str, limit: int) -> View | None:
    """What a training that has no result yet has made so far; None where `id` trains nothing.

    Raises:
        CorruptShard: a file of its series is a link or no plain file.
    """
    series = series_of(results.series_root, id)
    if series is None:
        return None
    held = f"series-{series.name}" in live_leases(results.root / "leases")
    rows = history_rows(series)
    facts = {
        "finished": "no; it is under way" if held else "no; the same command goes on with it",
        "series": series.name[:12],
        "folder": str(series),
        "last step": max(rows, default=0),
    }
    blocks: list[Block] = [Facts(facts), *_checkpoints(series, limit)]
    blocks += segments(series, limit, held=held)
    blocks += evaluations(series, limit)
    blocks += _diverged(series, limit)
    columns: dict[str, list[Any]] = {
        name: [rows[step].get(name) for step in sorted(rows)] for name in CURVES
    }
    blocks += curves(sorted(rows), columns)
    return View(f"training {id}", blocks)


def _checkpoints(series: Path, limit: int) -> Iterator[Block]:
    rows = []
    for folder in series.glob("step[0-9]*"):
        with suppress(*UNUSABLE, FileNotFoundError):  # it is made again by who trains
            rows.append(checkpoint_row(folder, read_record(folder)))
    if rows:
        yield last_of("checkpoints", sorted(rows, key=lambda row: row["step"]), limit)


def checkpoint_row(folder: Path, saved: Checkpoint | CheckpointRecord) -> dict[str, Any]:
    """What a table says of a checkpoint; raises CorruptShard where it is not of those weights."""
    names = checkpoint_files(folder, saved.weights)
    return {
        "checkpoint": folder.name,
        "step": saved.step,
        "tokens read": saved.num_tokens_read,
        "tokens learned": saved.num_tokens_learned,
        "weights": saved.weights[:12],
        "optimizer": any(kind_of(name) == "optimizer" for name in names),
        "size": Bytes(sum((folder / name).stat().st_size for name in names)),
        "folder": str(folder),
    }


def last_of(title: str, rows: Sequence[dict[str, Any]], limit: int) -> Grid:
    """A table of the last rows, `limit` of them."""
    return grid(title, rows[-limit:] if limit else [], len(rows))


def segments(series: Path, limit: int, *, held: bool = True) -> Iterator[Block]:
    """How a series came about, with what went wrong on the way; nothing where it was pulled.

    How far a segment came that has no end is told by the rows of its updates.

    Args:
        held: whether somebody may train it now; if not, a segment without an end was killed.
    """
    found = [
        each if "cause" in each else segment_extent(series, each) | each
        for each in read_segments(series)
    ]
    rows = [
        {
            "segment": each["segment"],
            "after step": each.get("first_step"),
            "to step": each.get("last_step"),
            "cause": each.get("cause", "under way" if held else "killed"),
            "reason": each.get("reason", ""),
            "documents": ", ".join("/".join(named) for named in each.get("documents", [])),
            "rolled back from": each.get("rolled_back_from"),
            "replay": each.get("replay", False),
            "ranks": each.get("ranks"),
            "device": each.get("device"),
            "seconds": each.get("seconds"),
        }
        for each in found
    ]
    if rows:
        yield last_of("segments", rows, limit)
    damaged = {name: damaged_lines(series / name) for name in (HISTORY, SEGMENTS, EVALUATIONS)}
    if any(damaged.values()):
        yield Facts({f"damaged lines of {name}": num for name, num in damaged.items() if num})


def evaluations(series: Path, limit: int, last_step: int | None = None) -> Iterator[Block]:
    """What was measured in training, up to a step: of each task the first measure, its main one.

    What other evaluations of the same names measured before is a table of its own.
    """
    for title, earlier in (("evaluations", False), ("earlier evaluations", True)):
        rows: list[dict[str, Any]] = []
        for each in evaluation_rows(series, earlier=earlier):
            mains = {score["task"]: score for score in reversed(each["scores"])}
            of = f"-{each['evaluation']}" if earlier and each["evaluation"] else ""
            rows += [
                {
                    "step": each["step"],
                    "evaluation": each["name"] + of,
                    "task": task,
                    "metric": score["metric"],
                    "value": score["value"],
                    "standard error": score.get("standard_error"),
                    "seconds": each["seconds"],
                }
                for task, score in reversed(mains.items())
                if last_step is None or each["step"] <= last_step
            ]
        if rows:
            yield last_of(title, rows, limit)


def _diverged(series: Path, limit: int) -> Iterator[Block]:
    """The updates that stopped a run, which no curve has."""
    rows = [
        {name: row.get(name) for name in ("step", "loss", "grad_norm", "segment")}
        for row in diverged_rows(series)
    ]
    if rows:
        yield last_of("diverged", rows, limit)


def curves(steps: Iterable[float], columns: dict[str, list[Any]]) -> Iterator[Plot]:
    """A line for each of `CURVES` that is there, over the steps of a history."""
    numbers = [float(each) for each in steps] or [0.0]
    for name in CURVES:
        if name in columns:
            values = [math.nan if each is None else float(each) for each in columns[name]]
            yield Plot(name.replace("_", " "), values, numbers[0], numbers[-1])
