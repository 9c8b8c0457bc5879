"""The same measures of runs that differ by their seed alone: their spread beside the errors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from pipeline.core.artifacts import Scores
from pipeline.report import scores as scoring
from pipeline.report.markup import Html, note, shown_table
from pipeline.report.tables import Cell, Change, Measure, Table

HEADS = [
    "measure",
    "model",
    "seeds",
    "mean over seeds",
    "spread over seeds",
    "error over items",
    "change from",
    "mean change",
    "its spread over seeds",
    "its error over items",
]


def spread(values: Sequence[float]) -> float:
    """The standard deviation over seeds, NaN of one."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def seeds_table(
    first: Mapping[str, Scores], others: Mapping[str, Mapping[str, Scores]], runs: list[str]
) -> Table:
    """A row for each measure and model: its mean and its change, each with two uncertainties.

    The spread says what another seed would change in the training, the error (the mean of the
    seeds' standard errors) what other questions would change in the measuring. A change is of a
    model to the one before it, of the same seed and over the same items.

    Args:
        first: scores of the first seed, by the name of what they are of.
        others: by the same names, those of each other seed by that seed, of the same models.
        runs: models in their order.
    """
    table: list[list[Cell]] = []
    for name, more in others.items():
        seeds = [first[name], *more.values()]
        last = [
            {(row["task"], row["metric"], row["model"]): row for row in scoring.last_rows(rows)}
            for rows in map(scoring.score_rows, seeds)
        ]
        items = [scoring.answers(each) for each in seeds]
        shared = [place for place in last[0] if all(place in each for each in last)]
        models = scoring.ordered_models((last[0][place] for place in shared), runs)
        tasks = dict.fromkeys((task, metric) for task, metric, _ in shared)
        for task, metric in tasks:
            if metric not in scoring.ITEM_COLUMNS:
                continue
            of = f"{name} ({task}): {scoring.NAMES.get(metric, metric)}"
            present = [model for model in models if (task, metric, model) in shared]
            for before, model in zip([None, *present], present, strict=False):
                measured = [scoring.measure(each[task, metric, model]) for each in last]
                line: list[Cell] = [of, model, len(seeds), *_over_seeds(measured)]
                made = [
                    scoring.change(each, task, metric, before, model) if before else None
                    for each in items
                ]
                changes = [each for each in made if each is not None]
                paired = len(changes) == len(seeds)
                line += [before, *_over_seeds(changes)] if paired else [before, None, None, None]
                table.append(line)
    return Table(HEADS, table)


def seeds_parts(
    first: Mapping[str, Scores], others: Mapping[str, Mapping[str, Scores]], runs: list[str]
) -> list[Html]:
    """What a page says of seeds; nothing where there was one.

    Raises:
        ValueError: another seed has scores that the first has not.
    """
    if unknown := sorted(others.keys() - first.keys()):
        raise ValueError(f"seeds has {unknown[0]!r}, which is not in scores, {sorted(first)}")
    table = seeds_table(first, others, runs)
    if not table.rows:
        return []
    text = (
        "The same training with other seeds. The spread is the standard deviation over seeds: what "
        "chance in the training is worth. The error is the standard error over items, the mean of "
        "that of each seed: what chance in the questions is worth. A difference between two "
        "recipes that is within the spread may be their seeds'."
    )
    return [note(text), shown_table(table)]


def _over_seeds(measured: Sequence[Measure | Change]) -> list[Cell]:
    """Mean, spread over seeds, and mean standard error."""
    values = [each.value for each in measured]
    error = statistics.fmean(each.standard_error for each in measured)
    return [statistics.fmean(values), spread(values), error]
