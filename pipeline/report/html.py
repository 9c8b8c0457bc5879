"""The report: one HTML page in which text is escaped unless it is an `Html`.

Links are relative to the folder of the page, so they hold wherever the workspace is moved.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq

from pipeline.core.artifacts import (
    MANIFEST,
    Artifact,
    Attributes,
    Checkpoints,
    Documents,
    Generations,
    NamedFile,
    Report,
    Scores,
    Tokens,
)
from pipeline.core.errors import CorruptShard
from pipeline.core.shards import read_batches
from pipeline.report import tables
from pipeline.report.charts import escaped, line_chart, running_mean, shortened, thinned, tick_label
from pipeline.report.tables import Cell, Change, Link, Measure, Share, Table

PAGE = "index.html"
MAX_ROWS = 200  # of a table; the rest is in the result
MAX_TEXT = 2000  # characters of a document or a generation
MAX_CELL = 160
MAX_TILES = 12
NUM_REMOVED = 12
NUM_GENERATIONS = 12
OPEN_ROWS = 12  # a data sheet this short is shown without a click

FUNNEL, REMOVED = "funnel.json", "removed.parquet"


class Html(str):
    """Text that is already HTML."""


def write_report(
    *,
    title: str,
    corpus: Mapping[str, Documents],
    tokens: Mapping[str, Tokens],
    training: Mapping[str, Checkpoints],
    scores: Mapping[str, Scores],
    overlaps: Mapping[str, Attributes] | None = None,
    generations: Generations | None = None,
    out: Path,
) -> Report:
    """Write `index.html`, one page of everything that was made.

    Args:
        corpus: documents by name of their stage, in the order of the page.

    Raises:
        CorruptShard: a file that the page reads is not the one in its manifest.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    overlaps = overlaps or {}
    page = _Page(out)
    page.headline(corpus, tokens, training, scores)
    page.data(corpus)
    page.tokens(tokens)
    page.training(training)
    page.scores(scores, overlaps, tables.ordered_runs(training))
    page.generations(generations)
    made: dict[str, Artifact] = {}
    for group in (corpus, tokens, training, scores, overlaps):
        made |= {_unused(name, made): artifact for name, artifact in group.items()}
    if generations is not None:
        made[_unused("generations", made)] = generations
    page.provenance(made)
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    text = template.substitute(title=escaped(title), body=page.body())
    (out / PAGE).write_text(text, encoding="utf-8", newline="\n")
    return Report.of(out, page=NamedFile.of(out, PAGE))


class _Page:
    """The sections of one page, in order."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.sections: list[tuple[str, str, list[Html]]] = []
        self.tiles = Html("")

    def body(self) -> Html:
        nav = tag("nav", *(tag("a", name, href=f"#{id}") for id, name, _ in self.sections))
        sections = (
            tag("section", tag("h2", name), *parts, id=id) for id, name, parts in self.sections
        )
        return joined([nav, self.tiles, *sections])

    def section(self, id: str, name: str, parts: Iterable[Html | None]) -> None:
        """Add a section, unless there is nothing in it."""
        kept = [part for part in parts if part]
        if kept:
            self.sections.append((id, name, kept))

    def place(self, artifact: Artifact) -> Link:
        """A link to the folder of a result, named by the folder."""
        folder = os.path.relpath(artifact.root, self.out).replace(os.sep, "/")
        return Link(shortened(artifact.root.name, 40), quote(f"{folder}/{MANIFEST}"))

    # ------------------------------------------------------------------------ sections

    def headline(
        self,
        corpus: Mapping[str, Documents],
        tokens: Mapping[str, Tokens],
        training: Mapping[str, Checkpoints],
        scores: Mapping[str, Scores],
    ) -> None:
        tiles: list[tuple[str, str]] = []
        if corpus:
            kept = [d for n, d in corpus.items() if _is_kept(n)] or [list(corpus.values())[-1]]
            tiles.append((_count(sum(d.num_documents for d in kept)), "documents kept"))
            tiles.append((_bytes(sum(d.num_text_bytes for d in kept)), "of text kept"))
        if tokens:
            tiles.append((_count(sum(t.num_tokens for t in tokens.values())), "tokens"))
        for name in tables.ordered_runs(training):
            run = training[name]
            if run.steps:
                seen = f"{_count(run.latest.num_tokens_seen)} tokens seen"
                loss = tables.last_loss(tables.history(run).get("loss", []))
                tiles.append((_float(loss), f"last loss of {name}, {seen}"))
        for name, each in scores.items():
            rows = tables.last_rows(tables.score_rows(each))
            models = tables.ordered_models(rows, tables.ordered_runs(training))
            for row in rows:
                if row["metric"] == "bits_per_byte" and row["model"] == models[-1]:
                    label = f"bits per byte, {name}: {row['task']}, {row['model']}"
                    tiles.append((_float(row["value"]), label))
        tiles = tiles[:MAX_TILES]
        shown = (tag("div", tag("b", n), tag("span", label), class_="tile") for n, label in tiles)
        self.tiles = tag("div", *shown, class_="tiles")

    def data(self, corpus: Mapping[str, Documents]) -> None:
        parts: list[Html | None] = []
        if corpus:
            table = tables.stages(corpus)
            table.heads.append("result")
            for row, documents in zip(table.rows, corpus.values(), strict=True):
                row.append(self.place(documents))
            parts.append(shown_table(table))
        for name, documents in corpus.items():
            sheet = tables.data_sheet(documents)
            counts = (
                f" {_count(documents.num_documents)} documents, {len(documents.sources)} sources"
            )
            head = tag("summary", name, tag("span", counts))
            is_open = len(sheet.rows) <= OPEN_ROWS
            parts.append(tag("details", head, shown_table(sheet), open=is_open))
        self.section("data", "Data sheet", parts)
        funnels = [self.funnel(name, documents) for name, documents in corpus.items()]
        self.section("funnel", "What was removed", (p for parts in funnels for p in parts))

    def funnel(self, name: str, documents: Documents) -> list[Html | None]:
        """What each rule removed, and a sample of it, where the result has them."""
        parts: list[Html | None] = []
        path = documents.root / FUNNEL
        if path.is_file():
            form = _read_json(path)
            heads, rows = _funnel_rows(form)
            if rows:
                parts.append(tag("h3", name))
                whole = [f"{n.replace('_', ' ')}: {v:,}" for n, v in form.items() if _is_int(v)]
                parts.append(tag("p", " · ".join(whole), class_="note") if whole else None)
                parts.append(shown_table(Table(heads, rows)))
        path = documents.root / REMOVED
        if path.is_file():
            rows_removed = _first_rows(path, NUM_REMOVED)
            if rows_removed:
                shown = [_removed(row) for row in rows_removed]
                head = tag("summary", f"A sample of what was removed on the way to {name}")
                parts.append(tag("details", head, *shown))
        return parts

    def tokens(self, tokens: Mapping[str, Tokens]) -> None:
        if not tokens:
            return
        kinds = ", ".join(
            sorted({f"{t.dtype}, vocabulary of {t.vocab_size:,}" for t in tokens.values()})
        )
        note = tag("p", f"Stored as {kinds}.", class_="note")
        self.section("tokens", "Tokens", [note, shown_table(tables.token_sources(tokens))])

    def training(self, training: Mapping[str, Checkpoints]) -> None:
        if not training:
            return
        table = tables.training_runs(training)
        table.heads.append("result")
        charts = []
        for row, name in zip(table.rows, tables.ordered_runs(training), strict=True):
            row.append(self.place(training[name]))
            charts.append(_loss_chart(name, training[name]))
        note = (
            "Last loss is the mean of the last tenth of the steps. Pale: the loss of each step; "
            "dark: the mean over a twentieth of the run around it."
        )
        self.section(
            "training",
            "Training",
            [
                shown_table(table),
                tag("p", note, class_="note"),
                tag("div", *charts, class_="charts"),
            ],
        )

    def scores(
        self, scores: Mapping[str, Scores], overlaps: Mapping[str, Attributes], runs: list[str]
    ) -> None:
        language: list[Html | None] = []
        compared: list[Html | None] = []
        choice: list[Html | None] = []
        for name, each in scores.items():
            rows = tables.score_rows(each)
            head = tag("h3", name, " ", shown_cell(self.place(each)))
            if tables.is_multiple_choice(rows):
                choice += [head, shown_table(tables.multiple_choice(each, runs))]
                every = tables.multiple_choice(each, runs, every_measure=True)
                summary = tag("summary", "Under every normalization of likelihood")
                choice.append(tag("details", summary, shown_table(every)))
                continue
            series = tables.over_steps(rows, "bits_per_byte")
            if any(len({x for x, _ in points}) > 1 for points in series.values()):
                chart = line_chart(
                    series,
                    title=f"Bits per byte of {name}",
                    x_label="step",
                    y_label="bits per byte (lower is better)",
                    width=760,
                )
                language += [head, Html(chart), shown_table(_final_scores(rows, runs))]
            elif len({row["model"] for row in rows}) > 1:
                compared += [head, shown_table(tables.compared(each, runs))]
            else:
                language += [head, shown_table(_final_scores(rows, runs))]
        self.section("language", "Language modelling", language)
        if compared:
            compared.insert(
                0,
                tag(
                    "p",
                    "Change is the mean, over items that both models answered, of the difference "
                    "to the model in the row above; after ± stands a standard error. Bits per byte "
                    "weighs items by their bytes and a change weighs them alike. A change within "
                    "two standard errors is called no clear change. Preferred per byte is the "
                    "share of pairs whose chosen answer is the likelier one; a coin gives 0.5.",
                    class_="note",
                ),
            )
        self.section("stages", "Stages compared", compared)
        if choice:
            note = (
                "Chance is one over the number of choices. An accuracy within two standard errors "
                "of it is marked: it does not show that the model knows anything. Change is to the "
                "model in the row above, on the same items."
            )
            choice.insert(0, tag("p", note, class_="note"))
        if overlaps:
            table = tables.overlap(overlaps)
            table.heads.append("result")
            for row, attributes in zip(table.rows, overlaps.values(), strict=True):
                row.append(self.place(attributes))
            choice += [tag("h3", "Evaluation text in the corpus"), shown_table(table)]
        self.section("choice", "Multiple choice and overlap", choice)

    def generations(self, generations: Generations | None) -> None:
        if generations is None:
            return
        parts: list[Html | None] = [
            tag(
                "p",
                "Settings: " + shortened(json.dumps(generations.settings, ensure_ascii=False), 600),
                " ",
                shown_cell(self.place(generations)),
                class_="note",
            )
        ]
        rows = (
            row
            for shard in generations.shards
            for batch in read_batches(generations.root, shard)
            for row in batch.to_pylist()
        )
        for row in islice(rows, NUM_GENERATIONS):
            prompt, text = str(row["prompt"]), str(row["text"])
            if text.startswith(prompt):
                text = text[len(prompt) :]
            about = f"{row['checkpoint']}, seed {row['seed']}"
            parts.append(tag("p", about, class_="note"))
            parts.append(
                tag(
                    "pre",
                    tag("span", shortened(prompt, MAX_TEXT), class_="prompt"),
                    shortened(text, MAX_TEXT),
                )
            )
        self.section("generations", "What it writes", parts)

    def provenance(self, made: Mapping[str, Artifact]) -> None:
        """Every result by its content digest."""
        rows: list[list[Cell]] = [
            [name, type(a).__name__, a.content, self.place(a)] for name, a in made.items()
        ]
        note = (
            "The content digest of a result covers what its files mean, not how they are encoded: "
            "equal digests are equal data. Beside each manifest stand key.json, what the result "
            "was made of, and run.json, when and where. Links start from this page's own folder "
            "in the workspace."
        )
        table = shown_table(Table(["name", "kind", "content digest", "result"], rows))
        self.section("made", "How it was made", [tag("p", note, class_="note"), table])


# ---------------------------------------------------------------------------- HTML


def tag(name: str, *children: str, **attributes: str | bool) -> Html:
    """An element; children and attributes are escaped unless they are Html.

    `class_` stands for class; an attribute that is True has no value, a False one is left out.
    """
    shown = ""
    for key, value in attributes.items():
        key = key.rstrip("_")
        if value is True:
            shown += f" {key}"
        elif value is not False:
            shown += f' {key}="{escaped(value)}"'
    return Html(f"<{name}{shown}>{joined(children)}</{name}>")


def joined(parts: Iterable[str]) -> Html:
    """Parts behind each other, escaped unless they are Html."""
    return Html("".join(p if isinstance(p, Html) else escaped(p) for p in parts))


def shown_table(table: Table) -> Html:
    """A table whose number columns are right-aligned; long ones end in a count of the rest."""
    numeric = [
        any(isinstance(row[i], (int, float, Measure, Change, Share)) for row in table.rows)
        for i in range(len(table.heads))
    ]
    heads = (
        tag("th", head, class_="n" if n else "t", scope="col")
        for head, n in zip(table.heads, numeric, strict=True)
    )
    cut = len(table.rows) > MAX_ROWS
    rows = []
    for place, row in enumerate(table.rows):
        if cut and place >= MAX_ROWS and place not in table.totals:
            continue
        cells = (
            tag("td", shown_cell(cell), class_="n" if n else "t")
            for cell, n in zip(row, numeric, strict=True)
        )
        rows.append(tag("tr", *cells, class_="total" if place in table.totals else False))
    body = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    left_out = len(table.rows) - len(rows)
    note = tag("p", f"{left_out:,} more rows stand in the result.", class_="note")
    return joined([tag("div", body, class_="scroll"), note if left_out else Html("")])


def shown_cell(cell: Cell) -> Html:
    """One value of a table."""
    if cell is None:
        return Html("")
    if isinstance(cell, Link):
        return tag("a", cell.text, href=cell.href)
    if isinstance(cell, Measure):
        if math.isnan(cell.value):
            return Html("–")
        if math.isnan(cell.standard_error):
            return Html(_float(cell.value))
        error = tag("span", f" ± {_float(cell.standard_error)}", class_="error")
        return joined([_float(cell.value), error])
    if isinstance(cell, Change):
        sign = "−" if cell.value < 0 else "+"
        return joined([sign, shown_cell(Measure(abs(cell.value), cell.standard_error))])
    if isinstance(cell, Share):
        percent = 100 * cell.fraction
        width = min(100.0, max(0.0, percent))
        bar = tag("span", class_="bar", style=f"width:{width:.1f}%")
        shown = f"{percent:.1f}%" if percent >= 0.05 or not percent else "<0.1%"
        return joined([tag("span", bar, class_="track"), shown])
    if isinstance(cell, bool):
        return Html("yes" if cell else "no")
    if isinstance(cell, int):
        return Html(f"{cell:,}")
    if isinstance(cell, float):
        return Html(_float(cell))
    if cell in ("at chance", "no clear change", "worse"):
        return tag("span", cell, class_="mark")
    if len(cell) == 64 and set(cell) <= set("0123456789abcdef"):
        return tag("code", cell[:16] + "…", title=cell)
    if len(cell) > MAX_CELL:
        return tag("span", shortened(cell, MAX_CELL), title=shortened(cell, MAX_TEXT))
    return joined([cell])


# ---------------------------------------------------------------------------- parts


def _loss_chart(name: str, checkpoints: Checkpoints) -> Html:
    columns = tables.history(checkpoints)
    losses = columns.get("loss", [])
    points = thinned(list(zip(columns.get("step", []), losses, strict=False)))
    mean = running_mean(points, len(points) // 40)
    return Html(
        line_chart(
            {"each step": points, "mean": mean},
            faint=["each step"],
            title=f"Loss of {name}",
            x_label="step",
            y_label="nats per pair" if checkpoints.objective == "dpo" else "nats per token",
            width=520,
            height=280,
            log_y=_is_wide(losses),
        )
    )


def _final_scores(rows: list[dict[str, Any]], runs: list[str]) -> Table:
    last = tables.last_rows(rows)
    models = tables.ordered_models(last, runs)
    last.sort(key=lambda r: (r["metric"], r["task"], models.index(r["model"])))
    cells: list[list[Cell]] = [
        [
            row["task"],
            row["metric"].replace("_", " "),
            row["model"],
            row["step"],
            Measure(
                math.nan if row["value"] is None else row["value"],
                math.nan if row["standard_error"] is None else row["standard_error"],
            ),
            row["num_items"],
        ]
        for row in last
    ]
    return Table(["domain", "measure", "model", "step", "value", "documents"], cells)


def _funnel_rows(form: Any) -> tuple[list[str], list[list[Cell]]]:
    """Columns as the funnel names them; what one rule lacks is left empty."""
    rules = [r for r in form.get("rules", []) if isinstance(r, dict)]
    names = list(dict.fromkeys(name for rule in rules for name in rule))
    heads = [name.removeprefix("num_").replace("_", " ") for name in names]
    return heads, [[_plain_cell(rule.get(name)) for name in names] for rule in rules]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _plain_cell(value: Any) -> Cell:
    if value is None or isinstance(value, (str, int, float)):
        return value
    return json.dumps(value, ensure_ascii=False)


def _removed(row: Mapping[str, Any]) -> Html:
    text = str(row.get("text", ""))
    about = [
        f"{name.replace('_', ' ')}: {shortened(str(value), MAX_CELL)}"
        for name, value in row.items()
        if name not in ("text", "metadata", "added", "created") and value is not None
    ]
    return joined(
        [
            tag("p", " · ".join(about), class_="note"),
            tag("pre", shortened(text, MAX_TEXT)) if text else Html(""),
        ]
    )


def _first_rows(path: Path, limit: int) -> list[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=limit)
            return list(islice((row for b in batches for row in b.to_pylist()), limit))
    except (OSError, ValueError) as error:  # pyarrow's errors of format are ValueErrors
        raise CorruptShard(path, None, f"not readable ({error})") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptShard(path, None, f"not JSON ({error})") from error


def _is_kept(stage: str) -> bool:
    return "kept" in stage.lower()


def _is_wide(losses: list[float]) -> bool:
    """Whether the losses span so much that a logarithmic axis shows them better."""
    finite = [v for v in losses if math.isfinite(v)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) > 20


def _unused(name: str, taken: Mapping[str, Artifact]) -> str:
    number = 2
    free = name
    while free in taken:
        free, number = f"{name} ({number})", number + 1
    return free


def _float(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.2e}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def _count(value: int) -> str:
    return f"{value:,}" if value < 100_000 else tick_label(float(f"{value:.3g}"))


def _bytes(value: int) -> str:
    number, unit = float(value), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.3g} {unit}"
