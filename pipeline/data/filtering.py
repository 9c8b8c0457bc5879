"""The one step that deletes or replaces: rules decide over what the taggers measured.

Every deletion can be explained: `funnel.json` counts what each rule removed, and
`removed.parquet` names every removed document, the first rule it failed and the value it had.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.artifacts import Attributes, Documents, SourceCount
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard, write_json
from pipeline.core.keys import Json, canonical
from pipeline.core.shards import ShardWriter, read_batches, read_shard, shard_name
from pipeline.data.document import DOCUMENT_SCHEMA, MetadataField
from pipeline.data.rules import Keep, Replace, Rule, Sample, check_rules, sample_place
from pipeline.store.memo import FileMemo

VERSION = "001"
FUNNEL, REMOVED = "funnel.json", "removed.parquet"
EXCERPT = 500  # characters of a removed document that are kept to look at
EMPTY = "has text after replacement"
REMOVED_SCHEMA = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("rule", pa.string())]
    + [("value", pa.float64()), ("text", pa.string())]
)
Mask = npt.NDArray[np.bool_]


def filter_documents(
    documents: Documents,
    attributes: Sequence[Attributes],
    rules: Sequence[Rule],
    *,
    out: Path,
    engine: Engine = LOCAL,
    memo: FileMemo | None = None,
) -> Documents:
    """Keep the documents that pass every rule, in their order, then replace spans.

    Rules look at the text as it was measured. A document that replacement leaves without text is
    removed. Shard k of the result depends only on shard k of each input.

    Raises:
        MismatchedInputs: some attributes describe other documents.
        ValueError: a rule names what nothing measures, or two inputs measure under one name.
        CorruptShard: a document lacks the field that it is sampled by.
    """
    columns: dict[str, str] = {}
    tables: dict[str, tuple[Path, list[Shard]]] = {}
    for place, each in enumerate(attributes):
        each.require_describes(documents)
        for table in each.tables:
            if table.name in tables:
                raise ValueError(f"attributes[{place}] has a second table {table.name!r}")
            tables[table.name] = (each.root, table.shards)
            columns |= {f"{table.name}.{name}": kind for name, kind in table.columns.items()}
    check_rules(rules, columns)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    used = {each.reads.split(".", 1)[0] for each in rules if each.reads}
    used_tables = {name: tables[name] for name in sorted(used)}
    work = _FilterShard(documents, used_tables, list(rules), canonical(rules), out, memo)
    done = engine.map(work, range(len(documents.shards)), label="filter")
    _write_funnel(rules, documents, done, out)
    _join_removed(done, out)
    shards = [Shard(**each.shard) for each in done]
    counts = [
        _summed([each.sources.get(count.source) for each in done]) for count in documents.sources
    ]
    return Documents.of(
        out,
        num_documents=sum(each.num_records for each in shards),
        num_text_bytes=sum(size for _, size in counts),
        sources=[
            SourceCount(known.source, known.licence, known.provenance, number, size)
            for known, (number, size) in zip(documents.sources, counts, strict=True)
        ],
        shards=shards,
    )


@dataclass(frozen=True)
class _Filtered:
    """What filtering one shard gave; all of it is JSON, for the memo."""

    shard: dict[str, Any]
    removed: str
    sources: dict[str, list[int]]  # source -> [documents, bytes of text]
    first: list[int]  # by rule, and last what replacement left empty
    alone: list[int]
    replaced: list[int]  # documents that a rule changed


@dataclass(frozen=True)
class _FilterShard:
    documents: Documents
    tables: dict[str, tuple[Path, list[Shard]]]
    rules: list[Rule]
    form: Json  # the rules in a key
    out: Path
    memo: FileMemo | None

    def __call__(self, number: int) -> _Filtered:
        path, removed = shard_name(number), f".removed-{shard_name(number)}"
        key = self._key(number)
        if self.memo is not None:
            note = self.memo.note(key)
            try:
                known = _Filtered(
                    **{**note, "shard": {**note["shard"], "path": path}, "removed": removed}
                )
            except (TypeError, KeyError):
                known = None
            if known is not None and self.memo.place(key, self.out, [path, removed]):
                return known
        done = self._filter(number, path, removed)
        if self.memo is not None:
            self.memo.keep_files(key, self.out, [path, removed], asdict(done))
        return done

    def _key(self, number: int) -> dict[str, Json]:
        return {
            "filter": VERSION,
            "rules": self.form,
            "shard": self.documents.shards[number].content,
            "tables": {name: shards[number].content for name, (_, shards) in self.tables.items()},
        }

    def _filter(self, number: int, path: str, removed: str) -> _Filtered:
        shard = self.documents.shards[number]
        measured = {
            name: _same_rows(read_shard(root, shards[number]), root / shards[number].path, shard)
            for name, (root, shards) in self.tables.items()
        }
        sources: dict[str, list[int]] = {}
        first = np.zeros(len(self.rules) + 1, np.int64)
        alone, replaced = first.copy(), first[:-1].copy()
        replacing = [(i, rule) for i, rule in enumerate(self.rules) if isinstance(rule, Replace)]
        at = 0
        with (
            ShardWriter(self.out, path, DOCUMENT_SCHEMA) as kept,
            ShardWriter(self.out, removed, REMOVED_SCHEMA) as gone,
        ):
            for batch in read_batches(self.documents.root, shard):
                rows = {n: table.slice(at, batch.num_rows) for n, table in measured.items()}
                at += batch.num_rows
                fails = np.stack(
                    [_fails(rule, batch, rows, self._where(shard)) for rule in self.rules]
                    or [np.zeros(batch.num_rows, bool)]
                )
                table = pa.Table.from_batches([batch]).select(DOCUMENT_SCHEMA.names)
                fate = np.where(fails.any(0), fails.argmax(0), -1)
                if replacing:
                    table, changed, empty = _replaced(
                        table, rows, replacing, len(self.rules), fate < 0
                    )
                    fate[empty] = len(self.rules)
                    replaced += changed
                keep = fate < 0
                by_rule = np.bincount(fate[~keep], minlength=len(first))
                first += by_rule
                once = fails.sum(0) == 1
                alone[: len(fails)] += (fails & once).sum(1)[: len(alone)]
                passed = table.filter(pa.array(keep))
                kept.write(passed)
                _count(passed, sources)
                gone.write(self._removed(batch, rows, fate))
        alone[-1] = first[-1]
        return _Filtered(
            asdict(kept.shard), removed, sources, first.tolist(), alone.tolist(), replaced.tolist()
        )

    def _where(self, shard: Shard) -> Path:
        return self.documents.root / shard.path

    def _removed(
        self, batch: pa.RecordBatch, rows: dict[str, pa.Table], fate: npt.NDArray[Any]
    ) -> pa.Table:
        made: list[dict[str, Any]] = []
        for place in np.flatnonzero(fate >= 0):
            number = int(fate[place])
            rule = self.rules[number] if number < len(self.rules) else None
            value = None
            if isinstance(rule, Keep):
                value = _column(rows, rule.attribute)[int(place)].as_py()
            document = {n: batch[n][int(place)].as_py() for n in ("id", "source", "text")}
            document["text"] = document["text"][:EXCERPT]
            made.append({**document, "rule": str(rule) if rule else EMPTY, "value": value})
        return pa.Table.from_pylist(made, schema=REMOVED_SCHEMA)


def _column(rows: dict[str, pa.Table], name: str) -> pa.ChunkedArray:
    table, column = name.split(".", 1)
    return rows[table].column(column)


def _fails(rule: Rule, batch: pa.RecordBatch, rows: dict[str, pa.Table], where: Path) -> Mask:
    """Which documents of a batch a rule removes."""
    if isinstance(rule, Keep):
        column = _column(rows, rule.attribute)
        values = np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)
        fails = np.zeros(len(values), bool)  # null is NaN here, and NaN is outside of no bound
        if rule.at_least is not None:
            fails |= values < rule.at_least
        if rule.at_most is not None:
            fails |= values > rule.at_most
        return fails
    if isinstance(rule, Sample):
        places = np.array([sample_place(rule.seed, each) for each in _sampled(rule, batch, where)])
        return np.asarray((places < rule.from_fraction) | (places >= rule.to_fraction), bool)
    return np.zeros(batch.num_rows, bool)


def _sampled(rule: Sample, batch: pa.RecordBatch, where: Path) -> Iterator[str]:
    if not rule.sample_by.startswith("metadata."):
        yield from batch[rule.sample_by].to_pylist()
        return
    value = MetadataField(rule.sample_by)
    for id, metadata in zip(batch["id"].to_pylist(), batch["metadata"].to_pylist(), strict=True):
        try:
            yield value.of(metadata)
        except ValueError as error:
            raise CorruptShard(where, id, f"{error} to be sampled by") from error


def _same_rows(table: pa.Table, path: Path, shard: Shard) -> pa.Table:
    if table.num_rows != shard.num_records:
        reason = f"has {table.num_rows} rows; its documents are {shard.num_records}"
        raise CorruptShard(path, None, reason)
    return table


def _replaced(
    table: pa.Table,
    rows: dict[str, pa.Table],
    rules: list[tuple[int, Replace]],
    num_rules: int,
    kept: Mask,
) -> tuple[pa.Table, npt.NDArray[Any], Mask]:
    """The rows with spans replaced, documents changed by rule, and which have no text left."""
    spans = [_column(rows, rule.spans).to_pylist() for _, rule in rules]
    texts = table.column("text").to_pylist()
    changed = np.zeros(num_rules, np.int64)
    empty = np.zeros(len(texts), bool)
    for row in np.flatnonzero(kept):
        chosen = sorted(
            (span["start"], order, span["end"])
            for order, (_, rule) in enumerate(rules)
            for span in spans[order][row] or []
            if span["score"] >= rule.min_score
        )
        if chosen:
            texts[row], used = _with_replacements(texts[row], chosen, [r for _, r in rules])
            for order in used:
                changed[rules[order][0]] += 1
            empty[row] = not texts[row].strip()
    column = pa.array(texts, pa.string())
    return table.set_column(table.schema.get_field_index("text"), "text", column), changed, empty


def _with_replacements(
    text: str, spans: list[tuple[int, int, int]], rules: list[Replace]
) -> tuple[str, set[int]]:
    pieces: list[str] = []
    at, used = 0, set()
    for start, order, end in spans:
        if end <= start:
            continue
        if start < at:  # inside the one before, under whose replacement it goes
            if rules[order].merge and end > at:
                at = end
                used.add(order)
            continue
        pieces += [text[at:start], rules[order].replace_with]
        at = end
        used.add(order)
    return "".join([*pieces, text[at:]]), used


def _count(table: pa.Table, sources: dict[str, list[int]]) -> None:
    names = table.column("source").to_pylist()
    for name, text in zip(names, table.column("text").to_pylist(), strict=True):
        count = sources.setdefault(name, [0, 0])
        count[0] += 1
        count[1] += len(text.encode())


def _summed(counts: Sequence[list[int] | None]) -> tuple[int, int]:
    there = [each for each in counts if each is not None]
    return sum(each[0] for each in there), sum(each[1] for each in there)


def _write_funnel(
    rules: Sequence[Rule], documents: Documents, done: Sequence[_Filtered], out: Path
) -> None:
    rows: list[dict[str, Json]] = []
    for place, rule in enumerate(rules):
        row: dict[str, Json] = {"rule": str(rule)}
        if isinstance(rule, Replace):
            row["num_changed"] = sum(each.replaced[place] for each in done)
        else:
            row["num_removed_first"] = sum(each.first[place] for each in done)
            row["num_removed_alone"] = sum(each.alone[place] for each in done)
        rows.append(row)
    if any(isinstance(rule, Replace) for rule in rules):
        emptied = sum(each.first[-1] for each in done)
        rows.append({"rule": EMPTY, "num_removed_first": emptied, "num_removed_alone": emptied})
    num_kept = sum(each.shard["num_records"] for each in done)
    write_json(
        out / FUNNEL,
        {"num_documents": documents.num_documents, "num_kept": num_kept, "rules": rows},
    )


def _join_removed(done: Sequence[_Filtered], out: Path) -> None:
    temporary = out / f".{REMOVED}.tmp"
    with pq.ParquetWriter(temporary, REMOVED_SCHEMA, compression="zstd") as writer:
        for each in done:
            if not sum(each.first):  # nothing was removed: not opened
                continue
            for batch in pq.ParquetFile(out / each.removed).iter_batches():
                writer.write_batch(batch)
    os.replace(temporary, out / REMOVED)
    for each in done:
        (out / each.removed).unlink()
