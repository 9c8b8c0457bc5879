"""Views of text: documents and what was removed, measures, questions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.browse.views import Bars, Block, Bytes, Facts, Grid, grid
from pipeline.core.artifacts import Attributes, AttributeTable, Documents, Questions
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.shards import read_batches
from pipeline.core.untrusted import read_json
from pipeline.data.decontamination.decontaminate import HIT, HITS
from pipeline.data.funnel import FUNNEL, REMOVED
from pipeline.data.ingest import SKIPPED

MOST_ROWS = 200_000  # of a table of measures that a histogram is made of
NUM_BARS = 16


def documents(made: Documents, limit: int) -> Iterator[Block]:
    yield Facts(
        {
            "documents": made.num_documents,
            "text": Bytes(made.num_text_bytes),
            "shards": len(made.shards),
            "malformed, set aside": made.num_malformed,
        }
    )
    sources = [
        {
            "source": each.source,
            "licence": each.licence,
            "provenance": each.provenance,
            "documents": each.num_documents,
            "text": Bytes(each.num_text_bytes),
        }
        for each in sorted(made.sources, key=lambda each: (-each.num_text_bytes, each.source))
    ]
    yield grid("sources", sources)
    yield from _skipped(made.root)
    rows = [
        {
            "source": row["source"],
            "id": row["id"],
            "characters": len(row["text"] or ""),
            "text": row["text"],
        }
        for row in first_rows(made.root, made.shards, limit, ["source", "id", "text"])
    ]
    yield grid("documents", rows, made.num_documents)
    yield from _funnel(made.root)
    yield from _removed(made.root, limit)


def _skipped(root: Path) -> Iterator[Block]:
    """What a source held that is no document, by reason."""
    path = root / SKIPPED
    if not path.exists():
        return
    try:
        rows = [
            {"reason": reason, "records": int(each["count"]), "first": each["first"][0][0]}
            for reason, each in read_json(path).items()
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CorruptShard(path, None, f"does not tell what was skipped ({error})") from error
    yield grid("skipped records", sorted(rows, key=lambda row: (-row["records"], row["reason"])))


COUNTS = [f"{unit}_removed_{which}" for which in ("first", "alone") for unit in ("num", "bytes")]


def _funnel(root: Path) -> Iterator[Block]:
    """What each rule of a filter removed or changed, and of which source."""
    path = root / FUNNEL
    if not path.exists():
        return
    try:
        form = read_json(path)
        rules = [dict(row) for row in form["rules"]]
        by_source = [
            {"source": name, "rule": row["rule"], **counts}
            for row in rules
            for name, counts in row.get("sources", {}).items()
        ]
        heads = [n for n in ("rule", *COUNTS, "num_changed") if any(n in row for row in rules)]
        said = f"rules: {int(form['num_kept']):,} of {int(form['num_documents']):,}"
        whole = _grid(f"{said} documents were kept", heads, rules)
        parts = _grid("removed by source", ["source", "rule", *COUNTS], by_source)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CorruptShard(path, None, f"is no funnel ({error})") from error
    yield whole
    if len({row["source"] for row in by_source}) > 1:
        yield parts


def _grid(title: str, heads: list[str], rows: list[dict[str, Any]]) -> Grid:
    """Counts under their names; those of bytes with their units."""
    titles = [head.removeprefix("num_").replace("_", " ") for head in heads]
    cells = [
        [Bytes(row[n]) if n.startswith("bytes_") and n in row else row.get(n) for n in heads]
        for row in rows
    ]
    return Grid(title, titles, cells)


def _removed(root: Path, limit: int) -> Iterator[Block]:
    names = ["source", "id", "rule", "value", "text"]
    yield from _beside(root / REMOVED, "removed documents", names, limit)


def _beside(path: Path, title: str, names: list[str], limit: int) -> Iterator[Block]:
    """The first rows of a table that a step wrote beside its artifact."""
    if not path.exists():
        return
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            total = file.metadata.num_rows
            batches = file.iter_batches(batch_size=max(1, limit))
            rows = list(islice((row for b in batches for row in b.to_pylist()), limit))
        shown = [{name: row[name] for name in names} for row in rows]
    except (OSError, ValueError, LookupError) as error:
        raise CorruptShard(path, None, f"not readable ({error})") from error
    yield grid(title, shown, total)


def attributes(made: Attributes, limit: int) -> Iterator[Block]:
    yield Facts(
        {
            "describes documents": made.describes[:12],
            "tables": len(made.tables),
            "rows": sum(s.num_records for s in made.tables[0].shards) if made.tables else 0,
        }
    )
    for table in made.tables:
        yield from _measures(made.root, table)
    yield from _beside(made.root / HITS, "evaluation items that are hit", HIT.names, limit)


def _measures(root: Path, table: AttributeTable) -> Iterator[Block]:
    total = sum(shard.num_records for shard in table.shards)
    numbers, spans = [], []
    for name, kind in table.columns.items():
        column = _column(root, table, name)
        if kind == "spans":
            spans.append(_span_row(name, column))
        else:
            numbers.append(_number_row(name, column))
    part = f", of the first {MOST_ROWS:,} rows" if total > MOST_ROWS else ""
    if numbers:
        yield grid(f"{table.name}: numbers{part}", numbers)
    if spans:
        yield grid(f"{table.name}: spans{part}", spans)


def _column(root: Path, table: AttributeTable, name: str) -> pa.ChunkedArray:
    parts, left = [], MOST_ROWS
    for shard in table.shards:
        for batch in read_batches(root, shard, [name], 65536):
            parts.append(batch.column(0).slice(0, left))
            left -= len(parts[-1])
            if left <= 0:
                return pa.chunked_array(parts)
    return pa.chunked_array(parts) if parts else pa.chunked_array([], pa.float64())


def _number_row(name: str, column: pa.ChunkedArray) -> dict[str, Any]:
    values = np.asarray(column.drop_null().cast(pa.float64()), np.float64)
    values = values[np.isfinite(values)]
    row: dict[str, Any] = {"column": name, "missing": len(column) - len(values)}
    marks = ("least", "5 %", "median", "95 %", "most")
    if not len(values):
        return {**row, "mean": None, **dict.fromkeys(marks), "histogram": Bars([])}
    quantiles = np.quantile(values, [0, 0.05, 0.5, 0.95, 1]).tolist()
    low, high = quantiles[0], quantiles[4]
    counts = [len(values)]
    if high > low:  # between the outer hundredths, so that one outlier does not flatten all else
        low, high = np.quantile(values, [0.01, 0.99]).tolist()
        inside = np.clip(values, low, high)
        counts = np.histogram(inside, NUM_BARS)[0].tolist()
    return {
        **row,
        "mean": float(values.mean()),
        **dict(zip(marks, quantiles, strict=True)),
        "histogram": Bars(counts),
    }


def _span_row(name: str, column: pa.ChunkedArray) -> dict[str, Any]:
    lengths = np.asarray(pc.list_value_length(column).fill_null(0), np.int64)
    flat = pc.list_flatten(column)
    covered = 0
    if len(flat):
        ends = pc.struct_field(flat, "end")
        starts = pc.struct_field(flat, "start")
        covered = pc.sum(pc.subtract(ends, starts)).as_py() or 0
    return {
        "column": name,
        "documents": len(column),
        "with spans": int((lengths > 0).sum()),
        "spans": int(lengths.sum()),
        "characters covered": covered,
    }


def questions(made: Questions, limit: int) -> Iterator[Block]:
    tasks = [
        {"task": name, "questions": count, "licence": made.licences.get(name, "")}
        for name, count in made.tasks.items()
    ]
    yield Facts({"questions": made.num_questions})
    yield grid("tasks", tasks)
    rows = []
    for row in first_rows(made.root, made.shards, limit):
        choices, gold = row["continuations"] or [], row["gold"]
        right = choices[gold] if gold is not None and 0 <= gold < len(choices) else None
        rows.append(
            {
                "task": row["task"],
                "id": row["id"],
                "context": (row["contexts"] or [""])[0],
                "right answer": right,
                "other answers": [each for n, each in enumerate(choices) if n != gold],
            }
        )
    yield grid("questions", rows, made.num_questions)


def first_rows(
    root: Path, shards: list[Shard], limit: int, columns: list[str] | None = None
) -> list[dict[str, Any]]:
    """The first rows of an artifact, in their order."""
    rows = (
        row
        for shard in shards
        for batch in read_batches(root, shard, columns, max(1, min(limit, 1024)))
        for row in batch.to_pylist()
    )
    return list(islice(rows, limit))
