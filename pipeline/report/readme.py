"""What of the README a run makes: `python -m pipeline.report.readme workspace/latest`.

Between `<!-- generated: name -->` and `<!-- end -->` stands what this writes; the rest of the file
is left as it is. Beside it, `docs/` gets the loss curve and, where a Chromium is found, a picture
of the report.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.core.artifacts import Artifact, Checkpoints, Documents, Report, Scores, Tokens
from pipeline.core.errors import PipelineError
from pipeline.model.config import shape_in
from pipeline.report import scores as scoring
from pipeline.report import tables
from pipeline.report.figures import joined_loss_chart
from pipeline.report.graph import mermaid, read_key, run_graph, run_ids
from pipeline.report.markup import percent, short_bytes, short_float
from pipeline.report.screenshot import take_screenshot
from pipeline.report.tables import Cell, Change, Link, Measure, Share, Table
from pipeline.store.results import RECORD

CHART, PICTURE = "docs/tiny-loss.svg", "docs/report.png"
NUM_SLOWEST = 4  # steps whose time is told
_BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Run:
    """A finished run: what its report was made of, and how each step was made."""

    report: Report
    graph: str
    corpus: dict[str, Documents]
    tokens: dict[str, Tokens]
    training: dict[str, Checkpoints]
    scores: dict[str, Scores]
    records: dict[str, dict[str, Any]]

    @property
    def order(self) -> list[str]:
        """Names of training runs, as they follow each other."""
        return tables.ordered_runs(self.training)


def read_run(folder: Path) -> Run:
    """Read a run folder, as `workspace/runs/tiny`.

    Raises:
        ValueError: it is of no finished run with one report.
    """
    ids = run_ids(folder)
    found = {name: Artifact.load((folder / name).resolve()) for name in ids}
    reports = [name for name, artifact in found.items() if isinstance(artifact, Report)]
    if len(reports) != 1:
        raise ValueError(f"{folder} has {len(reports)} reports; it must have one")
    args = read_key(folder / reports[0])["args"]
    by_id = {id: found[name] for name, id in ids.items()}

    def named(arg: str, kind: type[A]) -> dict[str, A]:
        made = {name: by_id[form["step"]] for name, form in args.get(arg, {}).items()}
        return {name: each for name, each in made.items() if isinstance(each, kind)}

    report = found[reports[0]]
    assert isinstance(report, Report)
    return Run(
        report=report,
        graph=mermaid(run_graph(folder)),
        corpus=named("corpus", Documents),
        tokens=named("tokens", Tokens),
        training=named("training", Checkpoints),
        scores=named("scores", Scores),
        records={name: _record(folder / name) for name in ids},
    )


def _record(folder: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # how a result was made is not part of it
    return record


# ---------------------------------------------------------------------------- blocks


def blocks(run: Run) -> dict[str, str]:
    """What stands between the markers, by the name of the block."""
    return {
        "graph": f"```mermaid\n{run.graph}\n```",
        "facts": facts(run),
        "results": results(run),
    }


def facts(run: Run) -> str:
    """What the run read and made, how long its steps took, and with what."""
    seconds = {n: float(r["seconds"]) for n, r in run.records.items() if "seconds" in r}
    slowest = sorted(seconds, key=lambda name: -seconds[name])[:NUM_SLOWEST]
    rest = math.fsum(s for name, s in seconds.items() if name not in slowest)
    told = ", ".join([*(f"{n} {seconds[n]:.0f} s" for n in slowest), f"all others {rest:.0f} s"])
    num_tokens = sum(t.num_tokens for t in run.tokens.values())
    vocabulary = ", ".join(sorted({f"{t.vocab_size:,}" for t in run.tokens.values()}))
    trained = ", ".join(
        f"{name} {c.latest.step:,} ({c.latest.num_tokens_read:,} tokens read, "
        f"{c.latest.num_tokens_learned:,} learned)"
        for name, c in ((n, run.training[n]) for n in run.order)
        if c.steps
    )
    sizes = {f"{shape_in(each).num_parameters():,}" for each in run.training.values()}
    rows: list[list[Cell]] = [
        ["steps", f"{len(run.records)}, {sum(seconds.values()):.0f} s one after the other: {told}"]
    ]
    for name, d in run.corpus.items():
        size = short_bytes(d.num_text_bytes)
        rows.append([f"text: {name}", f"{d.num_documents:,} documents, {size}"])
    rows += [
        ["tokens", f"{num_tokens:,}, vocabulary of {vocabulary}"],
        ["parameters", ", ".join(sorted(sizes))],
        ["optimizer steps", trained],
        ["made with", f"Python {_met(run.records, 'python')}, torch {_met(run.records, 'torch')}"],
    ]
    return markdown(Table(["this run", ""], rows))


def _met(records: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Every version of something that the run's steps were made with."""
    found = {r.get(name) or r.get("packages", {}).get(name) for r in records.values()}
    return ", ".join(sorted(str(each) for each in found if each)) or "unknown"


def results(run: Run) -> str:
    """The scores in short: learning, stages beside each other, and multiple choice."""
    parts = []
    for name, each in scoring.of_kind(run.scores, "series").items():
        table = scoring.series_table(scoring.score_rows(each))
        parts.append(f"**Learning**, {_safe(name)}:\n\n{markdown(table)}")
    compared = scoring.of_kind(run.scores, "stages")
    if compared:
        table = scoring.stages_table(compared, run.order, scoring.PRIMARY)
        parts.append(f"**Stages** beside each other:\n\n{markdown(table)}")
    made = [
        scoring.choice_table(each, run.order)
        for each in scoring.of_kind(run.scores, "choice").values()
    ]
    heads = list(dict.fromkeys(tuple(table.heads) for table in made))
    for head in heads:  # as a rule one: all tasks under the same models
        rows = [row for table in made if tuple(table.heads) == head for row in table.rows]
        parts.append(f"**Multiple choice**, accuracy:\n\n{markdown(Table(list(head), rows))}")
    return "\n\n".join(parts)


def rewritten(text: str, made: Mapping[str, str]) -> str:
    """The text of a README with each block replaced by the one made for it.

    Raises:
        ValueError: a block has no place in the text, or a place has no block.
    """
    places = [match[2] for match in _BLOCK.finditer(text)]
    for name in made:
        if places.count(name) != 1:
            raise ValueError(
                f"there are {places.count(name)} places for {name!r}; there must be one: "
                f"<!-- generated: {name} --> and, below it, <!-- end -->"
            )
    unknown = [name for name in places if name not in made]
    if unknown:
        raise ValueError(f"nothing makes {unknown[0]!r}; a block is one of {', '.join(made)}")
    return _BLOCK.sub(lambda match: f"{match[1]}{made[match[2]]}\n{match[4]}", text)


# ---------------------------------------------------------------------------- Markdown


def markdown(table: Table) -> str:
    """A table as Markdown; text cannot break out of its cell."""
    numeric = [
        any(isinstance(row[i], (int, float, Measure, Change, Share)) for row in table.rows)
        for i in range(len(table.heads))
    ]
    lines = [[_safe(head) for head in table.heads], ["--:" if n else "---" for n in numeric]]
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
        size = cell_text(Measure(abs(cell.value), cell.standard_error))
        return f"{sign}{size} {cell.verdict}".rstrip()
    if isinstance(cell, Measure):
        if math.isnan(cell.standard_error):
            return short_float(cell.value)
        return f"{short_float(cell.value)} ± {short_float(cell.standard_error)}"
    if isinstance(cell, Share):
        return percent(cell.fraction)
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return short_float(cell)
    return _safe(cell)


def _safe(text: str) -> str:
    """Text that is neither markup nor the end of a cell or a block."""
    text = re.sub(r"([\\|\[\]*`])", r"\\\1", text).replace("<", "&lt;")
    return " ".join(text.split())


def main(arguments: list[str] | None = None) -> int:
    """Rewrite the README and its pictures from a finished run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder, as workspace/latest")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    options = parser.parse_args(arguments)
    place = options.readme.parent
    try:
        run = read_run(options.run)
        new = rewritten(options.readme.read_text(encoding="utf-8"), blocks(run))
        chart = joined_loss_chart(run.training, "Training loss of the tiny run")
        taken = take_screenshot(run.report.root / run.report.page.path, place / PICTURE)
        (place / CHART).parent.mkdir(parents=True, exist_ok=True)
        (place / CHART).write_text(chart + "\n", encoding="utf-8", newline="\n")
        options.readme.write_text(new, encoding="utf-8", newline="\n")
    except (OSError, ValueError, PipelineError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.readme} and {CHART} are of {options.run}")
    print(f"{PICTURE} is too" if taken else f"{PICTURE} is not: there is no Chromium on the path")
    return 0


if __name__ == "__main__":
    sys.exit(main())
