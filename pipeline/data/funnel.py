"""What a filter writes beside the documents that it keeps, so that every deletion is explained.

`funnel.json` counts what each rule removed of each source, in documents and in bytes of text;
`removed.parquet` names every removed document, the first rule that it failed and the value it had:
a number, or of a rule on several `language.en 0.1, language.de 0.2`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.files import write_json
from pipeline.core.keys import Json
from pipeline.data.rules import Keep, Replace, Rule, Sample, exact, measures

FUNNEL, REMOVED = "funnel.json", "removed.parquet"
EXCERPT = 500  # characters of a removed document that are kept to look at
EMPTY = "has text after replacement"
REMOVED_SCHEMA = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("rule", pa.string())]
    + [("value", pa.string()), ("text", pa.string())]
)
Counts = dict[str, list[list[int]]]  # source -> [documents, bytes of text] by number


class Tally:
    """Documents and bytes of text by source and by a number below `size`."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._counts: dict[str, npt.NDArray[np.int64]] = {}

    def add(self, table: pa.Table, numbers: npt.NDArray[Any]) -> None:
        """Count the rows whose number is not negative."""
        sources = table.column("source").combine_chunks().dictionary_encode()
        codes = np.asarray(sources.indices.fill_null(-1))
        sizes = np.asarray(pc.binary_length(table.column("text")).fill_null(0))
        for code, source in enumerate(sources.dictionary.to_pylist()):
            here = (codes == code) & (numbers >= 0)
            counts = self._counts.setdefault(source, np.zeros((self._size, 2), np.int64))
            counts[:, 0] += np.bincount(numbers[here], minlength=self._size)
            np.add.at(counts[:, 1], numbers[here], sizes[here])

    def counts(self) -> Counts:
        return {source: each.tolist() for source, each in self._counts.items()}


def totals(parts: Sequence[Counts]) -> Counts:
    """Counts of several shards, added."""
    found: dict[str, npt.NDArray[np.int64]] = {}
    for part in parts:
        for source, counts in part.items():
            found[source] = found.get(source, 0) + np.array(counts, np.int64)
    return {source: each.tolist() for source, each in found.items()}


def removed_rows(
    batch: pa.RecordBatch,
    fate: npt.NDArray[Any],
    rules: Sequence[Rule],
    numbers: Callable[[Keep | Sample], npt.NDArray[np.float64]],
) -> pa.Table:
    """The rows of `removed.parquet` for a batch of documents.

    Args:
        fate: of each document, the number of the first rule that it fails; -1 where it is kept,
            the number of rules where replacement emptied it.
        numbers: what a condition looks at, a number a document; NaN where it is not defined.
    """
    places = np.flatnonzero(fate >= 0)
    gone = batch.take(pa.array(places))
    values: list[str | None] = [None] * len(places)
    for number, rule in enumerate(rules):
        here = np.flatnonzero(fate[places] == number).tolist()
        if here:
            told = {_name(each): numbers(each)[places[here]].tolist() for each in measures(rule)}
            for row, found in zip(here, zip(*told.values(), strict=True), strict=True):
                values[row] = _told(list(told), found)
    names = [*map(str, rules), EMPTY]
    return pa.table(
        {
            "id": gone["id"],
            "source": gone["source"],
            "rule": pa.array([names[number] for number in fate[places]], pa.string()),
            "value": pa.array(values, pa.string()),
            "text": pc.utf8_slice_codeunits(gone["text"], 0, EXCERPT),
        },
        schema=REMOVED_SCHEMA,
    )


def _name(condition: Keep | Sample) -> str:
    if isinstance(condition, Keep):
        return condition.attribute
    return f"hash of {condition.sample_by} with {condition.seed!r}"


def _told(names: Sequence[str], values: Sequence[float]) -> str:
    shown = ["null" if each != each else exact(each) for each in values]
    if len(shown) == 1:
        return shown[0]
    return ", ".join(f"{name} {each}" for name, each in zip(names, shown, strict=True))


def write_funnel(
    out: Path,
    rules: Sequence[Rule],
    given: int,
    kept: int,
    first: Counts,
    alone: Counts,
    changed: Sequence[int],
) -> None:
    """Write `funnel.json`.

    Args:
        given, kept: numbers of documents.
        first: by rule, and last what replacement emptied: those of which it is the first that they
            fail.
        alone: the same of documents that fail no other rule.
        changed: by rule, the documents of which it replaced a span.
    """
    rows: list[dict[str, Json]] = []
    for place, rule in enumerate(rules):
        row: dict[str, Json] = {"rule": str(rule)}
        if isinstance(rule, Replace):
            rows.append(row | {"num_changed": changed[place]})
        else:
            rows.append(row | _removed(place, first, alone))
    if any(isinstance(rule, Replace) for rule in rules):
        rows.append({"rule": EMPTY, **_removed(len(rules), first, alone)})
    write_json(out / FUNNEL, {"num_documents": given, "num_kept": kept, "rules": rows})


def _removed(place: int, first: Counts, alone: Counts) -> dict[str, Json]:
    """What one rule removed: of all sources, and of each of which it removed something."""
    by_source: dict[str, dict[str, int]] = {
        source: {
            "num_removed_first": counts[place][0],
            "bytes_removed_first": counts[place][1],
            "num_removed_alone": alone[source][place][0],
            "bytes_removed_alone": alone[source][place][1],
        }
        for source, counts in sorted(first.items())
        if counts[place][0]
    }
    names = [f"{unit}_removed_{which}" for which in ("first", "alone") for unit in ("num", "bytes")]
    total = {name: sum(each[name] for each in by_source.values()) for name in names}
    return {**total, "sources": by_source}
