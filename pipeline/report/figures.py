"""The charts of a run: losses, and bits per byte over its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.core.artifacts import Checkpoints
from pipeline.report.charts import line_chart, running_mean, thinned
from pipeline.report.scores import CLEAR, measure, over_steps
from pipeline.report.tables import history, ordered_runs

SMOOTH = 40  # the dark line is the mean over a point and a fortieth of all to each side


def series_chart(name: str, rows: list[dict[str, Any]]) -> str:
    """Bits per byte over the checkpoints, a line a domain, in bands of two standard errors."""
    points, bands = {}, {}
    for each, of in over_steps(rows, "bits_per_byte").items():
        at = [(float(row["step"] or 0), measure(row)) for row in of]
        points[each] = [(step, m.value) for step, m in at]
        bands[each] = [
            (step, m.value - CLEAR * m.standard_error, m.value + CLEAR * m.standard_error)
            for step, m in at
        ]
    return line_chart(
        points,
        bands=bands,
        title=f"Bits per byte of {name}",
        x_label="optimizer step",
        y_label="bits per byte (lower is better)",
        width=560,
        height=280,
    )


def loss_chart(name: str, checkpoints: Checkpoints) -> str:
    """The loss of one run: each step pale, the mean around it dark."""
    columns = history(checkpoints)
    losses = columns.get("loss", [])
    points = thinned(list(zip(columns.get("step", []), losses, strict=False)))
    return line_chart(
        {"each step": points, "mean": _smooth(points)},
        faint=["each step"],
        title=f"Loss of {name}",
        x_label="optimizer step",
        y_label="nats per pair" if checkpoints.objective == "dpo" else "nats per token",
        width=520,
        height=280,
        log_y=_is_wide(losses),
    )


def joined_loss_chart(training: Mapping[str, Checkpoints], title: str) -> str:
    """The losses of runs that predict tokens, one after the other, as a picture by itself."""
    series: dict[str, list[tuple[float, float]]] = {}
    pale: list[str] = []
    start = 0.0
    for name in ordered_runs(training):
        if training[name].objective == "dpo":  # its loss is per pair: another axis
            continue
        columns = history(training[name])
        points = [
            (start + step, loss)
            for step, loss in zip(columns["step"], columns["loss"], strict=True)
        ]
        series[f"{name}, each step"] = points
        series[name] = _smooth(points)
        pale.append(f"{name}, each step")
        start += max(columns["step"], default=0.0)
    return line_chart(
        series,
        faint=pale,
        title=title,
        x_label="optimizer step, one run after the other",
        y_label="nats per predicted token",
        width=720,
        height=320,
        standalone=True,
    )


def _smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The running mean up to where its window ends: the last steps alone would be noise."""
    reach = len(points) // SMOOTH
    return running_mean(points, reach)[: len(points) - reach]


def _is_wide(losses: list[float]) -> bool:
    """Whether the losses span so much that a logarithmic axis shows them better."""
    finite = [v for v in losses if math.isfinite(v)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) > 20
