"""What the page says in numbers: rows read from artifacts, with no word of HTML."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.artifacts import (
    Attributes,
    Checkpoints,
    Documents,
    SourceCount,
    Tokens,
)
from pipeline.core.errors import CorruptShard
from pipeline.core.files import file_sha256
from pipeline.core.shards import read_batches
from pipeline.data.decontamination.decontaminate import HITS
from pipeline.data.funnel import FUNNEL, REMOVED
from pipeline.model.config import shape_in

OBJECTIVES = ("next_token", "masked", "dpo")
REMOVED_A_RULE = 3  # documents shown for each rule
SHOWN_HITS = 20  # of each comparison with evaluation text
MAX_SCANNED = 200_000  # removed documents looked at to find them


class Measure(NamedTuple):
    """A number with its standard error, NaN where it is not known."""

    value: float
    standard_error: float = math.nan


class Change(NamedTuple):
    """A difference, shown with its sign, its standard error and what may be said of it."""

    value: float
    standard_error: float = math.nan
    verdict: str = ""
    counted: int | str | None = None  # over how many items


class Share(NamedTuple):
    """A fraction in [0, 1]; a page may draw it."""

    fraction: float


class Link(NamedTuple):
    """The place of a file, relative to the page."""

    text: str
    href: str
    title: str = ""


Cell = str | int | float | Measure | Change | Share | Link | None


@dataclass(frozen=True)
class Table:
    """Column heads and rows; `totals` names rows that stand out."""

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


def sources(corpus: Mapping[str, Documents]) -> Table:
    """A row for each stage and source, the largest source of a stage first."""
    rows: list[list[Cell]] = [
        [
            name,
            s.source,
            s.licence,
            s.provenance,
            s.num_documents,
            s.num_text_bytes,
            Share(s.num_text_bytes / (documents.num_text_bytes or 1)),
        ]
        for name, documents in corpus.items()
        for s in sorted(documents.sources, key=lambda s: (-s.num_text_bytes, s.source))
    ]
    heads = ["stage", "source", "licence", "provenance", "documents", "bytes of text"]
    return Table([*heads, "of the stage"], rows)


def kept(corpus: Mapping[str, Documents]) -> list[Documents]:
    """The stages that hold what is trained on: those that are called so, else the last."""
    found = [d for name, d in corpus.items() if "kept" in name.lower()]
    return found or list(corpus.values())[-1:]


def data_sheet(corpus: Mapping[str, Documents], tokens: Mapping[str, Tokens]) -> Table:
    """A row a source of what was kept: whose it is, and how much there is of it, largest first."""
    counts: Counter[str] = Counter()
    for each in tokens.values():
        counts.update(each.sources)
    found: dict[str, list[SourceCount]] = {}
    for documents in kept(corpus):
        for s in documents.sources:
            found.setdefault(s.source, []).append(s)
    rows: list[list[Cell]] = [
        [
            name,
            ", ".join(dict.fromkeys(s.licence for s in parts)),
            ", ".join(dict.fromkeys(s.provenance for s in parts)),
            sum(s.num_documents for s in parts),
            sum(s.num_text_bytes for s in parts),
            counts.pop(name, None),
        ]
        for name, parts in found.items()
    ]
    # token files of others have no text here
    rows += [[name, "", "", None, None, count] for name, count in sorted(counts.items())]
    rows.sort(key=lambda row: (-_number(row[4]), -_number(row[5]), str(row[0])))
    heads = ["source", "licence", "provenance", "documents", "bytes of text", "tokens"]
    whole = [sum(_number(row[place]) for row in rows) for place in (3, 4, 5)]
    return Table(heads, [*rows, ["all", "", "", *whole]], {len(rows)})


def _number(cell: Cell) -> int:
    return cell if isinstance(cell, int) else 0


def why_removed(corpus: Mapping[str, Documents]) -> dict[str, list[str]]:
    """Digests of what filters wrote beside their documents; a page shows it, and no content has it.

    Documents are the same whatever rules let the same ones pass; a page of the rules is not.
    """
    return {
        name: [
            file_sha256(documents.root / each)
            for each in (FUNNEL, REMOVED)
            if (documents.root / each).is_file()
        ]
        for name, documents in corpus.items()
    }


def funnel(documents: Documents) -> tuple[str, Table] | None:
    """What a filter was given and kept, and what each rule removed; none where none made these.

    Raises:
        CorruptShard: the funnel is not what a filter writes.
    """
    path = documents.root / FUNNEL
    if not path.is_file():
        return None
    try:
        form = json.loads(path.read_text(encoding="utf-8"))
        given, kept = int(form["num_documents"]), int(form["num_kept"])
        rules: list[dict[str, Any]] = list(form["rules"])
        replaces = any("num_changed" in rule for rule in rules)
        rows: list[list[Cell]] = []
        for rule in rules:
            first, alone = rule.get("num_removed_first"), rule.get("num_removed_alone")
            share = Share(first / given) if given and first is not None else None
            row: list[Cell] = [str(rule["rule"]), first, share, alone]
            rows.append([*row, rule.get("num_changed")] if replaces else row)
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptShard(path, None, f"is no funnel ({error!r})") from error
    rows.append(["all", given - kept, Share((given - kept) / given) if given else None, None])
    heads = ["rule", "removed first", "of all", "removed alone"]
    if replaces:
        heads.append("changed")
        rows[-1].append(None)
    said = f"{given:,} documents came in and {kept:,} were kept"
    return said, Table(heads, rows, {len(rows) - 1})


def removed_sample(documents: Documents) -> list[dict[str, Any]]:
    """The first few documents that each rule removed, in the order of rules as met."""
    path = documents.root / REMOVED
    if not path.is_file():
        return []
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    scanned = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=4096):
                names = batch.column("rule").to_pylist()
                for place, name in enumerate(names):
                    if len(found[name]) < REMOVED_A_RULE:
                        found[name] += batch.slice(place, 1).to_pylist()
                scanned += batch.num_rows
                if scanned >= MAX_SCANNED:
                    break
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors of format are ValueErrors
        raise CorruptShard(path, None, f"not readable ({error})") from error
    return [row for rows in found.values() for row in rows]


def token_sources(tokens: Mapping[str, Tokens]) -> Table:
    """A row a source of each token set, largest first."""
    total = sum(t.num_tokens for t in tokens.values()) or 1
    rows: list[list[Cell]] = [
        [name, source, count, Share(count / total)]
        for name, t in tokens.items()
        for source, count in sorted(t.sources.items(), key=lambda item: (-item[1], item[0]))
    ]
    rows.append(["all", "", sum(t.num_tokens for t in tokens.values()), Share(1.0)])
    return Table(["token set", "source", "tokens", "of all"], rows, {len(rows) - 1})


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
    heads = ["overlap of", "documents", "overlapping", "of all", "most words of one"]
    return Table(heads, rows)


def hits(overlaps: Mapping[str, Attributes]) -> Table:
    """Which evaluation item is hit by which document: the first few of each.

    "items it hits" counts all items of a document, of which not all may be named.
    """
    rows: list[list[Cell]] = []
    for name, attributes in overlaps.items():
        path = attributes.root / HITS
        if not path.is_file():
            continue
        try:
            with pq.ParquetFile(path) as file:
                batch = next(file.iter_batches(batch_size=SHOWN_HITS), None)
                found = [] if batch is None else batch.to_pylist()
        except (OSError, ValueError) as error:
            raise CorruptShard(path, None, f"not readable ({error})") from error
        for each in found:
            count = sum(each[kind] for kind in ("num_overlaps", "num_paragraphs", "num_answers"))
            of_all = each.get("num_items")  # earlier results have no such count
            rows.append([name, each["item"], each["document"], count, of_all, each["text"] or ""])
    heads = ["overlap of", "evaluation item", "document", "hits", "items it hits", "the first"]
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
    """Mean loss of the last tenth of the steps, of those that are known; one alone is noisy."""
    tail = [each for each in losses[-max(1, len(losses) // 10) :] if not math.isnan(each)]
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
                shape_in(checkpoints).num_parameters(),
                steps[-1].step if steps else 0,
                steps[-1].num_tokens_read if steps else 0,
                steps[-1].num_tokens_learned if steps else 0,
                losses[0] if losses else None,
                last_loss(losses) if losses else None,
                max(columns["lr"]) if columns.get("lr") else None,
            ]
        )
    heads = ["run", "objective", "parameters", "optimizer steps"]
    heads += ["tokens read", "tokens learned"]
    return Table([*heads, "first loss", "last loss", "peak learning rate"], rows)
