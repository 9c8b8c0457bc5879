"""The numbers of a run for the README: `python -m pipeline.report.readme workspace/runs/tiny`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from pipeline.core.artifacts import MANIFEST, Artifact, Checkpoints, Scores
from pipeline.report import tables
from pipeline.report.charts import line_chart
from pipeline.report.tables import Cell, Change, Link, Measure, Share, Table


def run_artifacts(run: Path) -> dict[str, Artifact]:
    """The results that the links of a run folder lead to, by the names of their steps."""
    found = {}
    for link in sorted(Path(run).iterdir()):
        if (link / MANIFEST).is_file():
            found[link.name] = Artifact.load(link.resolve())
    return found


def loss_chart(training: dict[str, Checkpoints]) -> str:
    """The losses of runs that predict tokens, one after the other, as a picture by itself."""
    series: dict[str, list[tuple[float, float]]] = {}
    first = 0.0
    for name in tables.ordered_runs(training):
        if training[name].objective == "dpo":  # its loss is per pair: another axis
            continue
        columns = tables.history(training[name])
        points = list(zip(columns["step"], columns["loss"], strict=True))
        series[name] = [(first + step, loss) for step, loss in points]
        first += max(columns["step"], default=0.0)
    return line_chart(
        series,
        title="Training loss of the tiny run",
        x_label="step",
        y_label="nats per token",
        width=720,
        height=320,
        standalone=True,
    )


def score_table(scores: dict[str, Scores], runs: list[str]) -> str:
    """A Markdown row for each task, measure and model, at the model's last step."""
    rows: list[list[Cell]] = []
    for name, each in scores.items():
        if tables.is_multiple_choice(tables.score_rows(each)):
            for *about, chance, mark, change, _ in tables.multiple_choice(each, runs).rows:
                rows.append([name, *about, chance, change, mark])
        else:
            for *about, change, _, verdict in tables.compared(each, runs).rows:
                rows.append([name, *about, None, change, verdict])
    heads = ["scores", "task", "measure", "model", "value", "chance", "change to the row above", ""]
    return markdown(Table(heads, rows))


def markdown(table: Table) -> str:
    """A table as Markdown; text cannot break out of its cell."""
    numeric = [
        any(isinstance(row[i], (int, float, Measure, Change, Share)) for row in table.rows)
        for i in range(len(table.heads))
    ]
    lines = [table.heads, ["--:" if n else "---" for n in numeric]]
    lines += [[cell_text(cell) for cell in row] for row in table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell_text(cell: Cell) -> str:
    """One value of a table in Markdown."""
    if cell is None:
        return ""
    if isinstance(cell, Link):
        return f"[{_safe(cell.text)}]({cell.href})"
    if isinstance(cell, Change):
        sign = "−" if cell.value < 0 else "+"
        return sign + cell_text(Measure(abs(cell.value), cell.standard_error))
    if isinstance(cell, Measure):
        if math.isnan(cell.standard_error):
            return f"{cell.value:.3f}"
        return f"{cell.value:.3f} ± {cell.standard_error:.3f}"
    if isinstance(cell, Share):
        return f"{100 * cell.fraction:.1f}%"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:.3f}"
    return _safe(cell)


def _safe(text: str) -> str:
    for old, new in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("\n", " "), ("\r", " ")):
        text = text.replace(old, new)
    return text


def main(arguments: list[str] | None = None) -> None:
    """Write the chart and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder, as workspace/runs/tiny")
    parser.add_argument("--chart", type=Path, default=Path("docs/tiny-loss.svg"))
    options = parser.parse_args(arguments)
    artifacts = run_artifacts(options.run)
    training = {n: a for n, a in artifacts.items() if isinstance(a, Checkpoints)}
    scores = {n: a for n, a in artifacts.items() if isinstance(a, Scores)}
    options.chart.parent.mkdir(parents=True, exist_ok=True)
    options.chart.write_text(loss_chart(training) + "\n", encoding="utf-8", newline="\n")
    print(score_table(scores, tables.ordered_runs(training)))


if __name__ == "__main__":
    main()
