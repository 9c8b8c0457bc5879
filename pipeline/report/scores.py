"""Scores beside each other: paired differences, guessing, and the tables that say them.

Nothing is called better or worse unless it is more than `CLEAR` standard errors away.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.artifacts import Scores
from pipeline.core.estimates import Estimate, ratio
from pipeline.core.shards import read_shard
from pipeline.report.tables import Cell, Change, Measure, Table

CLEAR = 2.0  # standard errors
MAX_COLUMNS = 6  # checkpoints or models beside each other; the rest is in the long table
LOWER_IS_BETTER = ("bits_per_byte",)


class ItemColumns(NamedTuple):
    """Where the answers hold, for one item, what a measure is the mean of, and its weight."""

    value: str
    weight: str | None = None  # none: items weigh alike


ITEM_COLUMNS = {
    "accuracy": ItemColumns("value"),
    "bits_per_byte": ItemColumns("value", "num_bytes"),
    "preferred_per_byte": ItemColumns("value"),
    "margin_per_byte": ItemColumns("margin"),
}
PRIMARY = ("bits_per_byte", "preferred_per_byte")  # what a summary shows
NAMES = {
    "bits_per_byte": "bits per byte (lower is better)",
    "preferred_per_byte": "share preferred rightly",
    "margin_per_byte": "margin, nats per byte",
}


def score_rows(scores: Scores) -> list[dict[str, Any]]:
    """The rows of `scores.parquet` that measure; those that count (`num_…`) are left out."""
    rows: list[dict[str, Any]] = read_shard(scores.root, scores.scores).to_pylist()
    return [row for row in rows if not row["metric"].startswith("num_")]


def answers(scores: Scores) -> pa.Table:
    """The rows of `answers.parquet`."""
    return read_shard(scores.root, scores.answers)


def kind_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """How scores are shown.

    Returns:
        "choice" for accuracies, "series" where a model has bits per byte at several steps, "stages"
        for several models on the same items, "alone" for one.
    """
    steps: dict[str, set[int]] = defaultdict(set)
    models = set()
    for row in rows:
        if row["metric"] == "accuracy":
            return "choice"
        models.add(row["model"])
        if row["metric"] == "bits_per_byte":
            steps[row["model"]].add(row["step"] or 0)
    if any(len(each) > 1 for each in steps.values()):
        return "series"
    return "stages" if len(models) > 1 else "alone"


def of_kind(scores: Mapping[str, Scores], *kinds: str) -> dict[str, Scores]:
    """Those of the scores that are shown in one of these ways."""
    return {name: each for name, each in scores.items() if kind_of(score_rows(each)) in kinds}


def ordered_models(rows: Iterable[Mapping[str, Any]], runs: list[str]) -> list[str]:
    """Models of score rows: those of known runs in the runs' order, then the others as met."""
    met = list(dict.fromkeys(str(row["model"]) for row in rows))
    return [m for m in runs if m in met] + [m for m in met if m not in runs]


def last_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each model, task and metric, the row of the last step."""
    last: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        place = (row["model"], row["task"], row["metric"])
        if place not in last or (row["step"] or 0) >= (last[place]["step"] or 0):
            last[place] = row
    return list(last.values())


def measure(row: Mapping[str, Any]) -> Measure:
    """Value and standard error of a score row."""
    return Measure(_number(row["value"]), _number(row["standard_error"]))


def counted(row: Mapping[str, Any]) -> Cell:
    """How many items a score row is over, and in how many groups, where these are fewer."""
    return _counted(int(row["num_items"]), row.get("num_groups"))


def _counted(num_items: int, num_groups: int | None) -> int | str:
    if num_groups in (None, num_items):
        return num_items
    return f"{num_items:,} in {num_groups:,} groups"


# ---------------------------------------------------------------------------- a series


def over_steps(rows: Iterable[dict[str, Any]], metric: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of one metric by step, a list for each task (and model, if there are several)."""
    chosen = [row for row in rows if row["metric"] == metric and row["value"] is not None]
    several = len({row["model"] for row in chosen}) > 1
    series: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(chosen, key=lambda row: row["step"] or 0):
        name = f"{row['task']} · {row['model']}" if several else str(row["task"])
        series[name].append(row)
    return dict(series)


def series_table(rows: Iterable[dict[str, Any]]) -> Table:
    """Bits per byte of each domain at the first step, the last, and some evenly between."""
    series = over_steps(rows, "bits_per_byte")
    steps = sorted({row["step"] or 0 for each in series.values() for row in each})
    gaps = min(len(steps), MAX_COLUMNS) - 1
    shown = [steps[round(i * (len(steps) - 1) / max(1, gaps))] for i in range(gaps + 1)]
    table: list[list[Cell]] = []
    for name, each in series.items():
        at = {row["step"] or 0: measure(row) for row in each}
        table.append([name, *(at.get(step) for step in shown), counted(each[-1])])
    heads = ["bits per byte of", *(f"step {step:,}" for step in shown), "documents"]
    return Table(heads, table)


def last_table(rows: list[dict[str, Any]], runs: list[str]) -> Table:
    """Every measure of each domain and model at the model's last step."""
    last = last_rows(rows)
    models = ordered_models(last, runs)
    last.sort(key=lambda r: (r["metric"], r["task"], models.index(r["model"])))
    cells: list[list[Cell]] = [
        [
            row["task"],
            row["metric"].replace("_", " "),
            row["model"],
            row["step"],
            measure(row),
            counted(row),
        ]
        for row in last
    ]
    return Table(["domain", "measure", "model", "step", "value", "documents"], cells)


# ---------------------------------------------------------------------------- pairs


def paired_difference(
    answers: pa.Table,
    model_a: str,
    model_b: str,
    *,
    value: str = "value",
    weight: str | None = None,
) -> tuple[Estimate, int]:
    """How much `model_b` differs from `model_a` on the items both answered, at their last step.

    Pairing by (task, id) takes the difficulty of the items out of the error. With `weight`, the
    measure is a ratio of sums (bits over bytes): so is the difference, the sum of weighted
    differences over the sum of weights, and its error is that of a ratio. Where both answered the
    same items, it is the difference of the two ratios. Items of one group are drawn together.

    Returns:
        b's value minus a's, and the number of items.

    Raises:
        ValueError: the models share no item, or one has an item twice or of another weight.
    """
    first = _items(answers, model_a, value, weight)
    second = _items(answers, model_b, value, weight)
    shared = [item for item in first if item in second]
    if not shared:
        raise ValueError(f"{model_a!r} and {model_b!r} have no item in common")
    gains, weights = [], []
    for item in shared:
        before, after = first[item], second[item]
        if before.weight != after.weight:
            raise ValueError(
                f"item {item[1]!r} of task {item[0]!r} has {weight} {before.weight:g} for "
                f"{model_a!r} and {after.weight:g} for {model_b!r}; they must be equal"
            )
        gains.append((after.value - before.value) * before.weight)
        weights.append(before.weight)
    return ratio(gains, weights, [first[item].group for item in shared]), len(shared)


class _Answer(NamedTuple):
    value: float
    weight: float
    group: str


def _items(
    answers: pa.Table, model: str, value: str, weight: str | None
) -> dict[tuple[str, str], _Answer]:
    """The answer to each (task, id) at the model's last step."""
    rows = answers.filter(pc.equal(answers["model"], model))
    if rows.num_rows and rows["step"].null_count < rows.num_rows:
        rows = rows.filter(pc.equal(rows["step"], pc.max(rows["step"])))
    weights = rows[weight].to_pylist() if weight else [1.0] * rows.num_rows
    grouped = "group" in rows.column_names
    groups = rows["group"].to_pylist() if grouped else [""] * rows.num_rows
    found: dict[tuple[str, str], _Answer] = {}
    columns = (rows[name].to_pylist() for name in ("task", "id", value))
    for task, id, number, heavy, group in zip(*columns, weights, groups, strict=True):
        if (task, id) in found:
            raise ValueError(f"model {model!r} answers item {id!r} of task {task!r} twice")
        if number is not None:
            found[task, id] = _Answer(float(number), float(heavy or 0), group or "")
    return found


def change(items: pa.Table, task: str, metric: str, before: str, model: str) -> Change | None:
    """The paired difference of a measure with its verdict; none where it cannot be paired."""
    columns = ITEM_COLUMNS.get(metric)
    if columns is None or not {c for c in columns if c} <= set(items.column_names):
        return None
    chosen = items.filter(pc.equal(items["task"], task))
    try:
        gain, number = paired_difference(
            chosen, before, model, value=columns.value, weight=columns.weight
        )
    except ValueError:  # the two were asked different items
        return None
    over = _counted(number, gain.num_groups)
    return Change(gain.value, gain.error, _verdict(gain, metric), over)


def _verdict(gain: Estimate, metric: str) -> str:
    if not math.isfinite(gain.error):
        return ""
    if abs(gain.value) <= CLEAR * gain.error:
        return "no clear change"
    return "better" if (gain.value < 0) == (metric in LOWER_IS_BETTER) else "worse"


def stages_table(
    named: Mapping[str, Scores], runs: list[str], metrics: Collection[str] = tuple(ITEM_COLUMNS)
) -> Table:
    """A row for each measure, a column for each model, each with its change to the one before.

    Args:
        named: scores of the same models, by the name of what they are of.
        metrics: those shown; all that can be paired, if none are named.
    """
    parts = [(name, each, last_rows(score_rows(each))) for name, each in named.items()]
    models = ordered_models((row for _, _, rows in parts for row in rows), runs)
    table: list[list[Cell]] = []
    for name, each, rows in parts:
        last = {(row["task"], row["metric"], row["model"]): row for row in rows}
        items = answers(each)
        tasks = list(dict.fromkeys((r["task"], r["metric"]) for r in rows))
        several = len({task for task, metric in tasks}) > 1
        for task, metric in tasks:
            if metric not in metrics:
                continue
            of = f"{name} ({task})" if several else name
            line: list[Cell] = [f"{of}: {NAMES.get(metric, metric)}"]
            before, paired = None, None
            for model in models:
                row = last.get((task, metric, model))
                line.append(measure(row) if row else None)
                if model != models[0]:
                    known = before is not None and row is not None
                    made = change(items, task, metric, before or "", model) if known else None
                    paired = made.counted if made else paired
                    line.append(made)
                before = model if row else None
            table.append([*line, paired])
    heads = ["measure"]
    for place, model in enumerate(models):
        heads += [model, f"change from {models[place - 1]}"] if place else [model]
    return Table([*heads, "items"], table)


def compared(scores: Scores, runs: list[str]) -> Table:
    """Every measure, a row for each model, with its paired difference to the one before."""
    rows = score_rows(scores)
    models = ordered_models(rows, runs)
    last = {(row["task"], row["metric"], row["model"]): row for row in last_rows(rows)}
    items = answers(scores)
    table: list[list[Cell]] = []
    for task, metric in dict.fromkeys((row["task"], row["metric"]) for row in rows):
        present = [model for model in models if (task, metric, model) in last]
        for before, model in zip([None, *present], present, strict=False):
            row = last[task, metric, model]
            made = change(items, task, metric, before, model) if before else None
            shown = metric.replace("_", " ")
            table.append([task, shown, model, measure(row), made, counted(row)])
    return Table(["task", "measure", "model", "value", "change", "items"], table)


# ---------------------------------------------------------------------------- guessing


def choice_table(scores: Scores, runs: list[str]) -> Table:
    """A row for each task: what guessing gives, and the accuracy of each model."""
    rows = last_rows(score_rows(scores))
    models = ordered_models(rows, runs)
    chances = _chances(scores, rows)
    last = {(row["task"], row["model"]): row for row in rows if row["metric"] == "accuracy"}
    table: list[list[Cell]] = []
    for task in dict.fromkeys(task for task, _ in last):
        of_task = {m: last[task, m] for m in models if (task, m) in last}
        chance = chances.get(task)
        verdicts = {
            m: against_chance(measure(r), chance, r["num_items"]) for m, r in of_task.items()
        }
        told = list(dict.fromkeys(verdicts.values()))
        verdict = told[0] if len(told) == 1 else ", ".join(f"{m} {v}" for m, v in verdicts.items())
        accuracies = [measure(of_task[m]) if m in of_task else None for m in models]
        number = max(row["num_items"] for row in of_task.values())
        table.append([task, number, chance, *accuracies, verdict])
    return Table(["task", "questions", "chance", *models, "verdict"], table)


def multiple_choice(scores: Scores, runs: list[str]) -> Table:
    """A row for each task, normalization of likelihood and model."""
    rows = last_rows(score_rows(scores))
    items = answers(scores)
    chances = _chances(scores, rows)
    models = ordered_models(rows, runs)
    last = {(row["task"], row["metric"], row["model"]): row for row in rows}
    table: list[list[Cell]] = []
    for task, metric in sorted({(row["task"], row["metric"]) for row in rows}):
        if metric == "chance":
            continue
        present = [model for model in models if (task, metric, model) in last]
        for before, model in zip([None, *present], present, strict=False):
            row = last[task, metric, model]
            verdict = against_chance(measure(row), chances.get(task), row["num_items"])
            made = change(items, task, metric, before, model) if before else None
            name = metric.replace("_", " ")
            table.append([task, name, model, measure(row), made, chances.get(task), verdict])
    heads = ["task", "measure", "model", "value", "change", "chance", "verdict"]
    return Table(heads, table)


def against_chance(accuracy: Measure, chance: float | None, num_items: int) -> str:
    """Whether an accuracy can be told from guessing, by the standard error of guessing."""
    if chance is None or not math.isfinite(accuracy.value):
        return ""
    error = math.sqrt(chance * (1 - chance) / max(1, num_items))
    if abs(accuracy.value - chance) <= CLEAR * error:
        return "at chance"
    return "above chance" if accuracy.value > chance else "below chance"


def _chances(scores: Scores, rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    measured = {row["task"]: float(row["value"]) for row in rows if row["metric"] == "chance"}
    return chance_levels(answers(scores)) | measured


def chance_levels(answers: pa.Table) -> dict[str, float]:
    """For each task, the accuracy of guessing: the mean of one over the number of choices.

    The number is that of a column `num_choices`, else the length of the first list in the row.
    """
    names = ["num_choices"] if "num_choices" in answers.column_names else []
    names += [f.name for f in answers.schema if pa.types.is_list(f.type)]
    if not names:
        return {}
    column = answers[names[0]]
    numbers = column if names[0] == "num_choices" else pc.list_value_length(column)
    shares: dict[str, list[float]] = defaultdict(list)
    for task, number in zip(answers["task"].to_pylist(), numbers.to_pylist(), strict=True):
        if number:
            shares[task].append(1 / number)
    return {task: math.fsum(each) / len(each) for task, each in shares.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
