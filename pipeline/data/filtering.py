"""The one step that deletes or replaces: rules decide over what the taggers measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.artifacts import Attributes, Documents, SourceCount
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.keys import Json, canonical
from pipeline.core.shards import ShardWriter, join_rows, read_batches, read_shard, shard_name
from pipeline.data.document import DOCUMENT_SCHEMA, MetadataField
from pipeline.data.funnel import (
    REMOVED,
    REMOVED_SCHEMA,
    Counts,
    Tally,
    removed_rows,
    totals,
    write_funnel,
)
from pipeline.data.replacing import Replacement, replaced
from pipeline.data.rules import (
    AllOf,
    AnyOf,
    Keep,
    Replace,
    Rule,
    Sample,
    check_rules,
    readings,
    sample_place,
)
from pipeline.store.memo import FileMemo

VERSION = "003"
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
    removed, unless the rules say `keep_empty`. Shard k of the result depends only on shard k of
    each input.

    Raises:
        MismatchedInputs: some attributes describe other documents.
        ValueError: a rule names what nothing measures, or two inputs measure under one name.
        CorruptShard: a document lacks the field that it is sampled by, or a span that is to be
            replaced does not lie in its text.
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
    used = {each.name.split(".", 1)[0] for each in readings(rules)}
    used_tables = {name: tables[name] for name in sorted(used)}
    work = _FilterShard(documents, used_tables, list(rules), canonical(rules), out, memo)
    done = engine.map(work, range(len(documents.shards)), label="filter")
    shards = [Shard(**each.shard) for each in done]
    num_kept = sum(each.num_records for each in shards)
    first, alone = totals([each.first for each in done]), totals([each.alone for each in done])
    changed = [sum(each.replaced[place] for each in done) for place in range(len(rules))]
    write_funnel(out, rules, documents.num_documents, num_kept, first, alone, changed)
    join_rows(out, REMOVED, REMOVED_SCHEMA, [each.removed for each in done])
    kept = totals([each.kept for each in done])
    counts = [kept.get(each.source, [[0, 0]])[0] for each in documents.sources]
    return Documents.of(
        out,
        num_documents=num_kept,
        num_text_bytes=sum(size for _, size in counts),
        sources=[
            SourceCount(known.source, known.licence, known.provenance, number, size)
            for known, (number, size) in zip(documents.sources, counts, strict=True)
        ],
        shards=shards,
    )


@dataclass(frozen=True)
class _Filtered:
    """What filtering one shard gave; all of it is JSON, for the memo.

    Args:
        kept: source -> [[documents, bytes of text]].
        first: source -> [documents, bytes] for each rule, and last for what replacement emptied:
            those of which the rule is the first that they fail.
        alone: the same of documents that fail no other rule.
        replaced: documents that a rule changed.
    """

    shard: dict[str, Any]
    removed: str
    kept: Counts
    first: Counts
    alone: Counts
    replaced: list[int]


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
        measured, replacing = self._numbers(number), self._replacements(number)
        num_rules = len(self.rules)
        kept_of, first, alone = Tally(1), Tally(num_rules + 1), Tally(num_rules + 1)
        num_replaced = np.zeros(num_rules, np.int64)
        at = 0
        with (
            ShardWriter(self.out, path, DOCUMENT_SCHEMA) as kept,
            ShardWriter(self.out, removed, REMOVED_SCHEMA) as gone,
        ):
            for batch in read_batches(self.documents.root, shard):
                rows = {n: table.slice(at, batch.num_rows) for n, table in measured.items()}
                fails = np.stack(
                    [_fails(rule, batch, rows, self._where(shard)) for rule in self.rules]
                    or [np.zeros(batch.num_rows, bool)]
                )
                table = given = pa.Table.from_batches([batch]).select(DOCUMENT_SCHEMA.names)
                fate = np.where(fails.any(0), fails.argmax(0), -1)
                if replacing:
                    where = self._where(shard)
                    table, changed, empty = replaced(
                        table, at, replacing, num_rules, fate < 0, where
                    )
                    fate[empty] = num_rules
                    num_replaced += changed
                at += batch.num_rows
                passed = table if (fate < 0).all() else table.filter(pa.array(fate < 0))
                kept.write(passed)
                kept_of.add(passed, np.zeros(passed.num_rows, np.int64))
                first.add(given, fate)
                alone.add(given, np.where(fails.sum(0) > 1, -1, fate))
                numbers = partial(_numbers, batch=batch, rows=rows, where=self._where(shard))
                gone.write(removed_rows(batch, fate, self.rules, numbers))
        return _Filtered(
            asdict(kept.shard),
            removed,
            kept_of.counts(),
            first.counts(),
            alone.counts(),
            num_replaced.tolist(),
        )

    def _numbers(self, number: int) -> dict[str, pa.Table]:
        """The numbers of a shard that rules look at, by table."""
        names: dict[str, list[str]] = {}
        for each in readings(self.rules):
            if each.kind == "number":
                table, column = each.name.split(".", 1)
                names.setdefault(table, []).append(column)
        found = {}
        for table, columns in names.items():
            root, shards = self.tables[table]
            found[table] = read_shard(root, shards[number], list(dict.fromkeys(columns)))
            self._require_rows(number, table, found[table].num_rows)
        return found

    def _replacements(self, number: int) -> list[Replacement]:
        found = []
        for place, rule in enumerate(self.rules):
            if isinstance(rule, Replace):
                table = rule.spans.split(".", 1)[0]
                root, shards = self.tables[table]
                found.append(Replacement.read(place, rule, root, shards[number]))
                self._require_rows(number, table, found[-1].num_rows)
        return found

    def _require_rows(self, number: int, table: str, num_rows: int) -> None:
        must, (root, shards) = self.documents.shards[number].num_records, self.tables[table]
        if num_rows != must:
            reason = f"has {num_rows} rows; its documents are {must}"
            raise CorruptShard(root / shards[number].path, None, reason)

    def _where(self, shard: Shard) -> Path:
        return self.documents.root / shard.path


def _numbers(
    condition: Keep | Sample, batch: pa.RecordBatch, rows: dict[str, pa.Table], where: Path
) -> npt.NDArray[np.float64]:
    """What a condition looks at, a number a document; what is not defined is NaN."""
    if isinstance(condition, Sample):
        values = _sampled(condition, batch, where)
        return np.array([sample_place(condition.seed, each) for each in values], np.float64)
    table, column = condition.attribute.split(".", 1)
    return np.asarray(rows[table].column(column).cast(pa.float64()).to_numpy(), np.float64)


def _fails(rule: Rule, batch: pa.RecordBatch, rows: dict[str, pa.Table], where: Path) -> Mask:
    """Which documents of a batch a rule removes."""
    if isinstance(rule, AnyOf):
        fails = np.array([_fails(each, batch, rows, where) for each in rule.any])
        return np.asarray(fails.all(0), bool)
    if isinstance(rule, AllOf):
        fails = np.array([_fails(each, batch, rows, where) for each in rule.all])
        return np.asarray(fails.any(0), bool)
    if isinstance(rule, Replace):
        return np.zeros(batch.num_rows, bool)
    values = _numbers(rule, batch, rows, where)
    if isinstance(rule, Keep):
        fails = np.zeros(len(values), bool)  # NaN is outside of no bound
        if rule.at_least is not None:
            fails |= values < rule.at_least
        if rule.at_most is not None:
            fails |= values > rule.at_most
        return fails
    return np.asarray((values < rule.from_fraction) | (values >= rule.to_fraction), bool)


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
