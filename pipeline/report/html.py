"""The report: one page, its results first and then what they were made of.

Links are relative to the folder of the page, so they hold wherever the workspace is moved.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from pipeline.core.artifacts import (
    MANIFEST,
    Artifact,
    Attributes,
    Checkpoints,
    Documents,
    Generations,
    Report,
    Scores,
    Tokens,
)
from pipeline.core.files import NamedFile
from pipeline.core.shards import read_batches
from pipeline.core.terminal import shortened
from pipeline.model.config import shape_in
from pipeline.report import scores as scoring
from pipeline.report import tables
from pipeline.report.charts import escaped
from pipeline.report.figures import loss_chart, series_chart
from pipeline.report.markup import (
    MAX_CELL,
    MAX_TEXT,
    OPEN_ROWS,
    Html,
    fold,
    folded_table,
    joined,
    note,
    short_bytes,
    short_count,
    short_float,
    shown_cell,
    shown_table,
    tag,
)
from pipeline.report.seeds import seeds_parts
from pipeline.report.tables import Cell, Change, Link, Table

PAGE = "index.html"
MAX_TILES = 12
NUM_GENERATIONS = 12
SHORT_ID = 8  # digits of a result's id that the page shows


def write_report(
    *,
    title: str,
    corpus: Mapping[str, Documents],
    tokens: Mapping[str, Tokens],
    training: Mapping[str, Checkpoints],
    scores: Mapping[str, Scores],
    overlaps: Mapping[str, Attributes] | None = None,
    generations: Generations | None = None,
    seeds: Mapping[str, Mapping[str, Scores]] | None = None,
    out: Path,
) -> Report:
    """Write `index.html`, one page of everything that was made.

    Args:
        corpus: documents by name of their stage, in the order of the page.
        seeds: by the name in `scores` of those of the first seed, the others' by their seed.

    Raises:
        CorruptShard: a file that the page reads is not the one in its manifest.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    overlaps = overlaps or {}
    page = _Page(out)
    runs = tables.ordered_runs(training)
    page.headline(corpus, tokens, training, scores)
    page.language(scores, runs)
    page.stages(scores, runs)
    page.choice(scores, overlaps, runs)
    page.section("seeds", "Spread over seeds", seeds_parts(scores, seeds or {}, runs))
    page.generations(generations)
    page.training(training)
    page.data(corpus, tokens)
    page.funnels(corpus)
    page.tokens(tokens)
    made: dict[str, Artifact] = {}
    for group in (corpus, tokens, training, scores, overlaps):
        made |= {_unused(name, made): artifact for name, artifact in group.items()}
    if generations is not None:
        made[_unused("generations", made)] = generations
    for name, others in (seeds or {}).items():
        made |= {_unused(f"{name}, seed {seed}", made): each for seed, each in others.items()}
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
        """A link to a result, named by its kind, its version and the first digits of its id."""
        folder = os.path.relpath(artifact.root, self.out).replace(os.sep, "/")
        name = artifact.root.name
        kind, _, id = name.rpartition("-")
        short = shortened(f"{kind}-{id[:SHORT_ID]}" if kind else name, 40)
        return Link(short, quote(f"{folder}/{MANIFEST}"), name)

    def heading(self, name: str, artifact: Artifact) -> Html:
        """A heading with a link to what stands below it."""
        return tag("h3", name, " ", shown_cell(self.place(artifact)))

    # ------------------------------------------------------------------------ results

    def headline(
        self,
        corpus: Mapping[str, Documents],
        tokens: Mapping[str, Tokens],
        training: Mapping[str, Checkpoints],
        scores: Mapping[str, Scores],
    ) -> None:
        runs = tables.ordered_runs(training)
        tiles: list[tuple[str, str]] = []
        if corpus:
            kept = tables.kept(corpus)
            size = short_bytes(sum(d.num_text_bytes for d in kept))
            number = short_count(sum(d.num_documents for d in kept))
            tiles.append((number, f"documents kept, {size} of text"))
        if tokens:
            sizes = ", ".join(sorted({f"{t.vocab_size:,}" for t in tokens.values()}))
            number = short_count(sum(t.num_tokens for t in tokens.values()))
            tiles.append((number, f"tokens, vocabulary of {sizes}"))
        for name in runs[:1]:
            read = training[name].latest.num_tokens_read if training[name].steps else 0
            number = short_count(shape_in(training[name]).num_parameters())
            tiles.append((number, f"parameters, {short_count(read)} tokens read by {name}"))
        for each in scoring.of_kind(scores, "series").values():
            rows = scoring.score_rows(each)
            for name, of in scoring.over_steps(rows, "bits_per_byte").items():
                ends = " → ".join(short_float(row["value"]) for row in (of[0], of[-1]))
                steps = f"step {of[0]['step'] or 0:,} → {of[-1]['step'] or 0:,}"
                tiles.append((ends, f"bits per byte of {name}, {steps} (lower is better)"))
        table = scoring.stages_table(scoring.of_kind(scores, "stages"), runs, scoring.PRIMARY)
        for row in table.rows:
            for place, cell in enumerate(row):
                if isinstance(cell, Change) and cell.verdict:
                    to, since = table.heads[place - 1], table.heads[place].rpartition(" ")[2]
                    label = f"{row[0]}, {to} minus {since}: {cell.verdict}"
                    tiles.append((shown_cell(cell._replace(verdict="")), label))
        shown_tiles = (
            tag("div", tag("b", value), tag("span", label), class_="tile")
            for value, label in tiles[:MAX_TILES]
        )
        self.tiles = tag("div", *shown_tiles, class_="tiles")

    def language(self, scores: Mapping[str, Scores], runs: list[str]) -> None:
        parts: list[Html | None] = []
        for name, each in scoring.of_kind(scores, "series", "alone").items():
            rows = scoring.score_rows(each)
            parts.append(self.heading(name, each))
            if scoring.kind_of(rows) == "series":
                parts += [Html(series_chart(name, rows)), shown_table(scoring.series_table(rows))]
            parts.append(
                folded_table("Every measure at the last step", scoring.last_table(rows, runs))
            )
        if parts:
            parts.insert(
                0,
                note(
                    "How well a model predicts text it was not trained on: bits per byte is the "
                    "number of bits it needs for a byte of text, so it can be compared whatever "
                    "the tokenizer. After ± stands a standard error over documents, or over groups "
                    "of documents that are not independent; a band is two of them to each side."
                ),
            )
        self.section("language", "Language modelling", parts)

    def stages(self, scores: Mapping[str, Scores], runs: list[str]) -> None:
        compared = scoring.of_kind(scores, "stages")
        if not compared:
            return
        parts = [
            note(
                "The same held-out items under each model. A change is to the model before, over "
                "the items both answered; its ± is the standard error of the paired difference "
                "(of means; for bits per byte, of ratios of sums), over groups of items where "
                "those of one are not independent. A change of more than two standard errors is "
                "called better or worse. A pair is preferred rightly if its "
                "chosen answer has the higher log-probability per byte: a coin does that for half."
            ),
            shown_table(scoring.stages_table(compared, runs)),
        ]
        for name, each in compared.items():
            parts.append(folded_table(f"Every measure of {name}", scoring.compared(each, runs)))
        links = [shown_cell(self.place(each)) for each in compared.values()]
        parts.append(note("Results: ", *(p for link in links for p in (link, " "))))
        self.section("stages", "Stages compared", parts)

    def choice(
        self, scores: Mapping[str, Scores], overlaps: Mapping[str, Attributes], runs: list[str]
    ) -> None:
        parts: list[Html | None] = []
        left = dict(overlaps)
        for name, each in scoring.of_kind(scores, "choice").items():
            parts += [self.heading(name, each), shown_table(scoring.choice_table(each, runs))]
            own = {n: left.pop(n) for n in overlaps if n.endswith(f"with {name}")}
            if own:
                parts += [note(f"How much of this text stands in the corpus ({_OVERLAP}):")]
                parts.append(self.overlaps(own))
            every = scoring.multiple_choice(each, runs)
            parts.append(folded_table("Under every normalization of likelihood", every))
        if parts:
            parts.insert(
                0,
                note(
                    "The share of questions whose right answer the model finds the likeliest. "
                    "Chance is what guessing gives. An accuracy within two standard errors of "
                    "guessing is at chance: it does not show that the model knows anything. Of a "
                    "model that guesses, about one verdict in twenty says otherwise."
                ),
            )
        if left:
            parts += [
                tag("h3", "Other evaluation text in the corpus"),
                note(
                    f"Documents of the corpus that hold text the models are scored on ({_OVERLAP}"
                    "). What is held out of a source is among its documents."
                ),
                self.overlaps(left),
            ]
        self.section("choice", "Multiple choice and overlap", parts)

    def overlaps(self, overlaps: Mapping[str, Attributes]) -> Html:
        table = shown_table(self._with_places(tables.overlap(overlaps), overlaps.values()))
        hits = tables.hits(overlaps)
        named = folded_table("Which item stands in which document", hits) if hits.rows else ""
        return Html(table + named)

    def generations(self, generations: Generations | None) -> None:
        if generations is None:
            return
        settings = shortened(json.dumps(generations.settings, ensure_ascii=False), 600)
        place = shown_cell(self.place(generations))
        parts: list[Html | None] = [
            note("What the model writes after a prompt (pale). Settings: ", settings, " ", place)
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
            shown = tag("span", shortened(prompt, MAX_TEXT), class_="prompt")
            parts.append(note(f"{row['checkpoint']}, seed {row['seed']}"))
            parts.append(tag("pre", shown, shortened(text, MAX_TEXT)))
        self.section("generations", "What it writes", parts)

    # ------------------------------------------------------------------------ how they came about

    def training(self, training: Mapping[str, Checkpoints]) -> None:
        if not training:
            return
        runs = tables.ordered_runs(training)
        table = self._with_places(tables.training_runs(training), (training[n] for n in runs))
        remark = note(
            "Losses are nats per predicted token, for DPO nats per pair (guessing gives ln 2 = "
            "0.693). Last loss is the mean of the last tenth of the steps. Pale: the loss of each "
            "step; dark: the mean over a twentieth of the run around it."
        )
        charts = tag("div", *(Html(loss_chart(n, training[n])) for n in runs), class_="charts")
        self.section("training", "Training", [remark, shown_table(table), charts])

    def data(self, corpus: Mapping[str, Documents], tokens: Mapping[str, Tokens]) -> None:
        if not corpus:
            return
        self.section(
            "data",
            "Data sheet",
            [
                note(
                    "What was kept of each source, and the corpus before and after each filter. "
                    "Malformed records were skipped by a setting and are in no other number."
                ),
                shown_table(tables.data_sheet(corpus, tokens)),
                shown_table(self._with_places(tables.stages(corpus), corpus.values())),
                folded_table(
                    "Sources, licences and provenance", tables.sources(corpus), open_rows=OPEN_ROWS
                ),
            ],
        )

    def funnels(self, corpus: Mapping[str, Documents]) -> None:
        parts: list[Html | None] = []
        for name, documents in corpus.items():
            found = tables.funnel(documents)
            if found is None:
                continue
            said, table = found
            parts += [tag("h3", name, " ", shown_cell(self.place(documents))), note(f"{said}.")]
            parts.append(shown_table(table))
            sample = tables.removed_sample(documents)
            if sample:
                head = "A sample of what was removed"
                number = f"{len(sample):,} documents"
                parts.append(fold(head, *map(_removed, sample), about=number))
        if parts:
            remark = (
                "Documents by the rule that removed them. First: counted under the first rule that "
                "it fails, in the order of the table. Alone: no other rule would have removed it."
            )
            parts.insert(0, note(remark))
        self.section("funnel", "What was removed", parts)

    def tokens(self, tokens: Mapping[str, Tokens]) -> None:
        if not tokens:
            return
        stored = sorted({f"{t.dtype}, vocabulary of {t.vocab_size:,}" for t in tokens.values()})
        remark = note(f"What training reads, stored as {', '.join(stored)}.")
        self.section("tokens", "Tokens", [remark, shown_table(tables.token_sources(tokens))])

    def provenance(self, made: Mapping[str, Artifact]) -> None:
        """Every result by its content digest."""
        rows: list[list[Cell]] = [
            [name, type(a).__name__, a.content, self.place(a)] for name, a in made.items()
        ]
        remark = note(
            "The content digest of a result covers what its files mean, not how they are encoded: "
            "equal digests are equal data. Beside each manifest stand key.json, what the result "
            "was made of, and run.json, when and where. Links start from this page's own folder "
            "in the workspace."
        )
        table = Table(["name", "kind", "content digest", "result"], rows)
        shown = folded_table("Every result that this page reads", table, open_rows=OPEN_ROWS)
        self.section("made", "How it was made", [remark, shown])

    def _with_places(self, table: Table, artifacts: Iterable[Artifact]) -> Table:
        """The table with a link to the result of each row."""
        for row, artifact in zip(table.rows, artifacts, strict=True):
            row.append(self.place(artifact))
        table.heads.append("result")
        return table


# ---------------------------------------------------------------------------- parts

_OVERLAP = "a run of 13 words in common, unless the step says otherwise"


def _removed(row: Mapping[str, Any]) -> Html:
    text = str(row.get("text", ""))
    about = [
        f"{name}: {shortened(f'{value:g}' if isinstance(value, float) else str(value), MAX_CELL)}"
        for name, value in row.items()
        if name != "text" and value is not None
    ]
    shown = tag("pre", shortened(text, MAX_TEXT)) if text else Html("")
    return joined([note(" · ".join(about)), shown])


def _unused(name: str, taken: Mapping[str, Artifact]) -> str:
    number = 2
    free = name
    while free in taken:
        free, number = f"{name} ({number})", number + 1
    return free
