"""What the page says in numbers: rows read from artifacts, with no word of HTML."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.artifacts import Attributes, Checkpoints, Documents, Scores, Tokens
from pipeline.core.shards import read_batches, read_shard

OBJECTIVES = ("next_token", "masked", "dpo")
LOWER_IS_BETTER = ("bits_per_byte",)
# The column of the answers that holds, for one item, what a measure is the mean of.
ITEM_COLUMNS = {
    "accuracy": "value",
    "bits_per_byte": "value",
    "preferred_per_byte": "value",
    "margin_per_byte": "margin",
}


class Measure(NamedTuple):
    """A number with its standard error, NaN where it is not known."""

    value: float
    standard_error: float = math.nan


class Change(NamedTuple):
    """A difference, shown with its sign, and its standard error."""

    value: float
    standard_error: float = math.nan


class Share(NamedTuple):
    """A fraction in [0, 1]; a page may draw it."""

    fraction: float


class Link(NamedTuple):
    """The place of a file, relative to the page."""

    text: str
    href: str


Cell = str | int | float | Measure | Change | Share | Link | None


@dataclass(frozen=True)
class Table:
    """Column heads and rows; `marks` names rows that stand out (totals)."""

    heads: list[str]
    rows: list[list[Cell]]
    totals: set[int] = field(default_factory=set)


# ---------------------------------------------------------------------------- text


def stages(corpus: Mapping[str, Documents]) -> Table:
    """A row a stage: its documents and bytes."""
    rows: list[list[Cell]] = [
        [name, len(d.sources), d.num_documents, d.num_text_bytes, d.num_malformed]
        for name, d in corpus.items()
    ]
    return Table(["stage", "sources", "documents", "bytes of text", "malformed"], rows)


def data_sheet(documents: Documents) -> Table:
    """A row a source, largest first, and the total."""
    total = documents.num_text_bytes or 1
    rows: list[list[Cell]] = [
        [
            s.source,
            s.licence,
            s.provenance,
            s.num_documents,
            s.num_text_bytes,
            Share(s.num_text_bytes / total),
        ]
        for s in sorted(documents.sources, key=lambda s: (-s.num_text_bytes, s.source))
    ]
    if len(rows) > 1:
        rows.append(["all", "", "", documents.num_documents, documents.num_text_bytes, Share(1.0)])
    heads = ["source", "licence", "provenance", "documents", "bytes of text", "of bytes"]
    return Table(heads, rows, {len(rows) - 1} if len(rows) > 1 else set())


def token_sources(tokens: Mapping[str, Tokens]) -> Table:
    """A row a source of each token set, largest first."""
    total = sum(t.num_tokens for t in tokens.values()) or 1
    rows: list[list[Cell]] = [
        [name, source, count, Share(count / total)]
        for name, t in tokens.items()
        for source, count in sorted(t.sources.items(), key=lambda item: (-item[1], item[0]))
    ]
    rows.append(["all", "", sum(t.num_tokens for t in tokens.values()), Share(1.0)])
    return Table(["tokens", "source", "number", "of all"], rows, {len(rows) - 1})


def overlap(overlaps: Mapping[str, Attributes]) -> Table:
    """The share of documents in which an n-gram of the evaluation text stands."""
    rows: list[list[Cell]] = []
    for name, attributes in overlaps.items():
        num_documents = num_hit = 0
        largest = 0.0
        for table in attributes.tables:
            if table.name != "decontamination":
                continue
            for shard in table.shards:
                columns = ["num_overlaps", "overlap_fraction"]
                for batch in read_batches(attributes.root, shard, columns, batch_rows=65536):
                    hits = pc.greater(batch.column(0), 0)
                    num_documents += batch.num_rows
                    num_hit += pc.sum(hits).as_py() or 0
                    largest = max(largest, pc.max(batch.column(1)).as_py() or 0.0)
        share = num_hit / num_documents if num_documents else 0.0
        rows.append([name, num_documents, num_hit, Share(share), Share(largest)])
    heads = ["overlap of", "documents", "hit", "share hit", "largest share of words"]
    return Table(heads, rows)


# ---------------------------------------------------------------------------- training


def ordered_runs(training: Mapping[str, Checkpoints]) -> list[str]:
    """Names of runs as they follow each other: next token, then masked, then DPO."""

    def place(name: str) -> int:
        objective = training[name].objective
        return OBJECTIVES.index(objective) if objective in OBJECTIVES else len(OBJECTIVES)

    return sorted(training, key=place)


def history(checkpoints: Checkpoints) -> dict[str, list[float]]:
    """Columns of the training history; raises CorruptShard where the file is not the recorded one.

    A null stands as NaN.
    """
    checkpoints.history.verify(checkpoints.root)
    table = pq.read_table(checkpoints.root / checkpoints.history.path)
    return {
        name: [math.nan if v is None else float(v) for v in table[name].to_pylist()]
        for name in table.column_names
        if pa.types.is_integer(table[name].type) or pa.types.is_floating(table[name].type)
    }


def last_loss(losses: list[float]) -> float:
    """Mean loss of the last tenth of the steps; one step alone is noisy."""
    tail = losses[-max(1, len(losses) // 10) :]
    return math.fsum(tail) / len(tail) if tail else math.nan


def training_runs(training: Mapping[str, Checkpoints]) -> Table:
    """A row a run: what it learned from, how long, and the loss at both ends."""
    rows: list[list[Cell]] = []
    for name in ordered_runs(training):
        checkpoints = training[name]
        columns = history(checkpoints)
        losses = columns.get("loss", [])
        steps = checkpoints.steps
        rows.append(
            [
                name,
                checkpoints.objective.replace("_", " "),
                steps[-1].step if steps else 0,
                steps[-1].num_tokens_seen if steps else 0,
                losses[0] if losses else None,
                last_loss(losses) if losses else None,
                max(columns["lr"]) if columns.get("lr") else None,
            ]
        )
    heads = ["run", "objective", "steps", "tokens seen", "first loss", "last loss", "peak lr"]
    return Table(heads, rows)


# ---------------------------------------------------------------------------- scores


def score_rows(scores: Scores) -> list[dict[str, Any]]:
    """The rows of `scores.parquet` that measure; those that count (`num_…`) are left out."""
    rows: list[dict[str, Any]] = read_shard(scores.root, scores.scores).to_pylist()
    return [row for row in rows if not row["metric"].startswith("num_")]


def is_multiple_choice(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether these are accuracies."""
    return any(row["metric"] == "accuracy" for row in rows)


def answers(scores: Scores) -> pa.Table:
    """The rows of `answers.parquet`."""
    return read_shard(scores.root, scores.answers)


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


def over_steps(rows: Iterable[dict[str, Any]], metric: str) -> dict[str, list[tuple[float, float]]]:
    """A series a task (and model, if several) of one metric by step."""
    chosen = [row for row in rows if row["metric"] == metric and row["value"] is not None]
    several = len({row["model"] for row in chosen}) > 1
    series: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in sorted(chosen, key=lambda row: row["step"] or 0):
        name = f"{row['task']} · {row['model']}" if several else str(row["task"])
        series[name].append((float(row["step"] or 0), float(row["value"])))
    return dict(series)


def paired_difference(answers: pa.Table, model_a: str, model_b: str) -> tuple[float, float, int]:
    """How much `model_b` differs from `model_a` on the items both answered, at their last step.

    Pairing by (task, id) takes the difficulty of the items out of the error.

    Returns:
        Mean of b's value minus a's, its standard error (NaN for one item), number of items.

    Raises:
        ValueError: the models share no item, or one has an item twice.
    """
    first, second = _values(answers, model_a), _values(answers, model_b)
    differences = [second[item] - first[item] for item in first if item in second]
    number = len(differences)
    if not number:
        raise ValueError(f"{model_a!r} and {model_b!r} have no item in common")
    mean = math.fsum(differences) / number
    if number == 1:
        return mean, math.nan, 1
    variance = math.fsum((d - mean) ** 2 for d in differences) / (number - 1)
    return mean, math.sqrt(variance / number), number


def _values(answers: pa.Table, model: str) -> dict[tuple[str, str], float]:
    rows = answers.filter(pc.equal(answers["model"], model))
    if rows.num_rows and rows["step"].null_count < rows.num_rows:
        rows = rows.filter(pc.equal(rows["step"], pc.max(rows["step"])))
    values: dict[tuple[str, str], float] = {}
    columns = (rows[name].to_pylist() for name in ("task", "id", "value"))
    for task, id, value in zip(*columns, strict=True):
        if (task, id) in values:
            raise ValueError(f"model {model!r} answers item {id!r} of task {task!r} twice")
        if value is not None:
            values[task, id] = float(value)
    return values


def compared(scores: Scores, runs: list[str]) -> Table:
    """Models beside each other, each with its paired difference to the one before."""
    rows = score_rows(scores)
    models = ordered_models(rows, runs)
    last = {(row["task"], row["metric"], row["model"]): row for row in last_rows(rows)}
    items = answers(scores)
    table: list[list[Cell]] = []
    for task, metric in dict.fromkeys((row["task"], row["metric"]) for row in rows):
        present = [model for model in models if (task, metric, model) in last]
        for before, model in zip([None, *present], present, strict=False):
            row = last[task, metric, model]
            difference, number = _paired(items, task, metric, before, model)
            verdict = _verdict(difference, metric)
            measure = Measure(_number(row["value"]), _number(row["standard_error"]))
            shown = metric.replace("_", " ")
            table.append([task, shown, model, measure, difference, number, verdict])
    heads = ["task", "measure", "model", "value", "change", "items paired", ""]
    return Table(heads, table)


def _paired(
    items: pa.Table, task: str, metric: str, before: str | None, model: str
) -> tuple[Change | None, int | None]:
    column = ITEM_COLUMNS.get(metric)
    if before is None or column not in items.column_names:
        return None, None
    chosen = items.filter(pc.equal(items["task"], task))
    values = chosen.select(["model", "step", "task", "id", column])
    try:
        named = values.rename_columns(["model", "step", "task", "id", "value"])
        difference, error, number = paired_difference(named, before, model)
    except ValueError:  # the two were asked different items
        return None, None
    return Change(difference, error), number


def _verdict(difference: Change | None, metric: str) -> str:
    if difference is None or not math.isfinite(difference.standard_error):
        return ""
    if abs(difference.value) <= 2 * difference.standard_error:
        return "no clear change"
    return "better" if (difference.value < 0) == (metric in LOWER_IS_BETTER) else "worse"


def multiple_choice(scores: Scores, runs: list[str], *, every_measure: bool = False) -> Table:
    """Accuracies beside what guessing gives, with a mark where they cannot be told apart.

    Args:
        every_measure: also accuracies under the other normalizations of likelihood.
    """
    rows = last_rows(score_rows(scores))
    items = answers(scores)
    chances = chance_levels(items)
    chances |= {row["task"]: float(row["value"]) for row in rows if row["metric"] == "chance"}
    models = ordered_models(rows, runs)
    last = {(row["task"], row["metric"], row["model"]): row for row in rows}
    table: list[list[Cell]] = []
    for task, metric in sorted({(row["task"], row["metric"]) for row in rows}):
        if metric == "chance" or (metric != "accuracy" and not every_measure):
            continue
        present = [model for model in models if (task, metric, model) in last]
        for before, model in zip([None, *present], present, strict=False):
            row = last[task, metric, model]
            accuracy = Measure(_number(row["value"]), _number(row["standard_error"]))
            chance, number = chances.get(task), row["num_items"]
            is_guess = chance is not None and at_chance(accuracy, chance, number)
            difference, _ = _paired(items, task, metric, before, model)
            name = metric.replace("_", " ")
            mark = "at chance" if is_guess else ""
            table.append([task, name, model, accuracy, chance, mark, difference, number])
    heads = ["task", "measure", "model", "value", "chance", "", "change", "items"]
    return Table(heads, table)


def at_chance(accuracy: Measure, chance: float, num_items: int) -> bool:
    """Whether the accuracy is within two standard errors of guessing.

    Where all items were right or all wrong, the error is that of guessing.
    """
    error = accuracy.standard_error or math.sqrt(chance * (1 - chance) / max(1, num_items))
    return abs(accuracy.value - chance) < 2 * error


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
