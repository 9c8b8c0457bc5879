"""The tables of `Scores`: a row for each item that was scored, and a row for each measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.core.artifacts import Scores
from pipeline.core.shards import write_shard

MODEL = [("model", pa.string()), ("step", pa.int64())]
MEASURE = [("task", pa.string()), ("metric", pa.string()), ("value", pa.float64())]
MEASURE += [("unit", pa.string()), ("num_items", pa.int64()), ("standard_error", pa.float64())]
MEASURE += [("num_groups", pa.int64())]
SCORES_SCHEMA = pa.schema(MODEL + MEASURE)


class Tables:
    """Both tables in the making; rows carry the model and step that were named last.

    Args:
        answers: the schema of the items' table.
    """

    def __init__(self, answers: pa.Schema) -> None:
        self.schema = answers
        self._answers: dict[str, list[Any]] = {name: [] for name in answers.names}
        self._scores: dict[str, list[Any]] = {name: [] for name in SCORES_SCHEMA.names}
        self.name_model("", 0)

    def name_model(self, model: str, step: int) -> None:
        """What follows is of this model at this step."""
        self._model: dict[str, Any] = {"model": model, "step": step}

    def answer(self, **values: Any) -> None:
        """Add an item; a column without a value is null."""
        _append(self._answers, self._model | values)

    def score(self, **values: Any) -> None:
        """Add a measure."""
        _append(self._scores, self._model | values)

    def measures(self) -> list[dict[str, Any]]:
        """The measures as rows, without the model and its step."""
        names = [name for name, _ in MEASURE]
        columns = zip(*(self._scores[name] for name in names), strict=True)
        return [dict(zip(names, each, strict=True)) for each in columns]

    def stored(self, kind: str, out: Path) -> Scores:
        """Write both tables and the manifest."""
        return Scores.of(
            out,
            kind=kind,
            answers=write_shard(out, "answers.parquet", self._answers, self.schema),
            scores=write_shard(out, "scores.parquet", self._scores, SCORES_SCHEMA),
        )


def _append(columns: dict[str, list[Any]], values: dict[str, Any]) -> None:
    for name, column in columns.items():
        column.append(values.pop(name, None))
    assert not values, f"no column for {sorted(values)}"
