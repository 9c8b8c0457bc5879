"""In what two results differ: their keys, their counts, their rows."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.browse.text import first_rows
from pipeline.browse.views import Block, Cell, Facts, View, grid
from pipeline.browse.workspace import Result
from pipeline.core.artifacts import (
    Artifact,
    Attributes,
    Checkpoints,
    Documents,
    Examples,
    Generations,
    OrderTable,
    Pairs,
    Questions,
    Scores,
    Tokens,
)
from pipeline.core.files import Shard
from pipeline.core.keys import changes
from pipeline.core.shards import read_batches
from pipeline.store.tensors import TensorFiles, tensor_files

KEYS: dict[type[Artifact], tuple[str, ...]] = {  # columns that say which row is which
    Documents: ("source", "id"),
    Questions: ("task", "id"),
    Examples: ("id",),
    Pairs: ("id",),
    Generations: ("checkpoint", "prompt", "seed"),
    OrderTable: ("step", "row", "part", "source", "id", "start"),
}
SHOWN = ("source", "task", "id", "step", "row", "prompt", "text", "contexts", "start", "end")


def diff(left: Result, right: Result, limit: int = 10) -> View:
    """The view of two results beside each other; `old` is the left one.

    Raises:
        CorruptShard: one of them is damaged.
    """
    old, new = left.manifest, right.manifest
    kinds = sorted({type(old).__name__, type(new).__name__})
    title = f"{left.id} -> {right.id}"
    blocks: list[Block] = [
        Facts(
            {
                "kind": " and ".join(kinds),
                "content": "the same" if old.content == new.content else "differs",
            }
        )
    ]
    key_rows = [
        {"key": each.path, "old": each.old, "new": each.new}
        for each in changes(left.key, right.key)
    ]
    blocks.append(grid("keys", key_rows))
    if len(kinds) == 1 and old.content != new.content:
        blocks.append(grid("fields", list(_fields(old, new))))
        if left.discarded or right.discarded:
            blocks.append(Facts({"rows": "not compared: data was discarded"}))
        else:
            left.readable(), right.readable()
            blocks += _rows(old, new, limit)
    return View(title, blocks)


def _fields(old: Artifact, new: Artifact) -> Iterator[dict[str, Cell]]:
    """Numbers and texts of the manifests that differ, those in dicts by name."""
    one, other = _flat(old.to_json()), _flat(new.to_json())
    for name in sorted(one.keys() | other.keys()):
        if name not in one:
            yield {"field": name, "old": None, "new": other[name], "change": None}
        elif name not in other:
            yield {"field": name, "old": one[name], "new": None, "change": None}
        elif one[name] != other[name]:
            yield {
                "field": name,
                "old": one[name],
                "new": other[name],
                "change": _change(one[name], other[name]),
            }


def _flat(form: dict[str, Any]) -> dict[str, Cell]:
    found: dict[str, Cell] = {}
    for name, value in form.items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": each for key, each in _flat(value).items()}
        elif isinstance(value, (int, float, str)) and name not in ("content", "artifact"):
            found[name] = value
        elif isinstance(value, list) and name != "locations":
            found[f"number of {name}"] = len(value)
            for each in value:  # sources of documents, parts of a mix
                if isinstance(each, dict) and isinstance(each.get("source"), str):
                    counts = {n: v for n, v in each.items() if isinstance(v, int)}
                    found |= {f"{name}.{each['source']}.{n}": v for n, v in counts.items()}
    return dict(sorted(found.items()))


def _change(old: Cell, new: Cell) -> float | None:
    numbers = isinstance(old, (int, float)) and isinstance(new, (int, float))
    return new - old if numbers else None


def _rows(old: Artifact, new: Artifact, limit: int) -> Iterator[Block]:
    if isinstance(old, Scores) and isinstance(new, Scores):
        yield grid("scores", list(_scores(old, new)))
    elif isinstance(old, Attributes) and isinstance(new, Attributes):
        yield grid("columns", list(_columns(old, new)))
    elif isinstance(old, Checkpoints) and isinstance(new, Checkpoints):
        yield grid("checkpoints", list(_checkpoints(old, new)))
        yield grid("tensors of the latest", list(_tensors(old, new)))
    elif isinstance(old, Tokens) and isinstance(new, Tokens):
        yield from _keyed(_Table.of(old), _Table.of(new), limit)
    elif type(old) in KEYS:
        yield from _keyed(_Table.of(old), _Table.of(new), limit)


@dataclass(frozen=True)
class _Table:
    """Rows that can be told apart by some of their columns."""

    made: Artifact
    shards: list[Shard]
    keys: tuple[str, ...]

    @classmethod
    def of(cls, made: Artifact) -> _Table:
        if isinstance(made, OrderTable):
            return cls(made, [made.table], KEYS[OrderTable])
        if isinstance(made, Tokens):  # by the number of tokens; the ids are in another file
            parts = [part for shard in made.shards for part in shard.parts()]
            indexes = [each for each in parts if isinstance(each, Shard) and not each.content]
            return cls(made, indexes, ("source", "id"))
        shards: list[Shard] = getattr(made, "shards", [])
        return cls(made, shards, KEYS[type(made)])

    def digests(self) -> np.ndarray[Any, Any]:
        """A record a row: the digest of what tells it apart, of the rest, and its place."""
        kind = [("key", "S16"), ("rest", "S16"), ("place", "<i8")]
        parts = [np.empty(0, kind)]
        place = 0
        for shard in self.shards:
            for batch in read_batches(self.made.root, shard):
                part = np.empty(batch.num_rows, kind)
                rest = [name for name in batch.schema.names if name not in self.keys]
                if isinstance(self.made, Tokens):
                    part["rest"] = _row_digests(_lengths(batch))
                else:
                    part["rest"] = _row_digests([batch.column(name).to_pylist() for name in rest])
                part["key"] = _row_digests([batch.column(name).to_pylist() for name in self.keys])
                part["place"] = np.arange(place, place + batch.num_rows)
                place += batch.num_rows
                parts.append(part)
        return np.sort(np.concatenate(parts), order="key")

    def at(self, places: Iterable[int]) -> list[dict[str, Any]]:
        """The rows at some places, in order."""
        wanted, first = sorted(places), 0
        found: list[dict[str, Any]] = []
        for shard in self.shards:
            inside = [p - first for p in wanted if first <= p < first + shard.num_records]
            if inside:
                start = 0
                for batch in read_batches(self.made.root, shard):
                    here = [p - start for p in inside if start <= p < start + batch.num_rows]
                    found += batch.take(pa.array(here, pa.int64())).to_pylist() if here else []
                    start += batch.num_rows
            first += shard.num_records
        return found


def _lengths(batch: pa.RecordBatch) -> list[list[Any]]:
    starts, ends = batch.column("start").to_pylist(), batch.column("end").to_pylist()
    return [[end - start for start, end in zip(starts, ends, strict=True)]]


def _row_digests(columns: list[list[Any]]) -> list[bytes]:
    return [
        hashlib.blake2b(repr(row).encode(errors="surrogatepass"), digest_size=16).digest()
        for row in zip(*columns, strict=True)
    ]


def _keyed(old: _Table, new: _Table, limit: int) -> Iterator[Block]:
    """Rows that were added, removed and changed, counted, and the first of each."""
    one, other = old.digests(), new.digests()
    both, left, right = np.intersect1d(one["key"], other["key"], return_indices=True)
    differs = one["rest"][left] != other["rest"][right]
    added = np.setdiff1d(np.arange(len(other)), right)
    removed = np.setdiff1d(np.arange(len(one)), left)
    yield Facts(
        {
            "rows that are the same": int(len(both) - differs.sum()),
            "added": len(added),
            "removed": len(removed),
            "changed": int(differs.sum()),
        }
    )
    yield _sample("added", new, other["place"][added], limit)
    yield _sample("removed", old, one["place"][removed], limit)
    changed = other["place"][right[differs]]
    yield _sample("changed, as they are now", new, changed, limit)


def _sample(title: str, table: _Table, places: np.ndarray[Any, Any], limit: int) -> Block:
    rows = table.at(np.sort(places)[:limit].tolist())
    shown = [{name: row[name] for name in SHOWN if name in row} for row in rows]
    return grid(title, shown, len(places))


def _scores(old: Scores, new: Scores) -> Iterator[dict[str, Cell]]:
    names = ("model", "step", "task", "metric")

    def by_name(made: Scores) -> dict[tuple[Any, ...], dict[str, Any]]:
        rows = first_rows(made.root, [made.scores], made.scores.num_records)
        return {tuple(row[name] for name in names): row for row in rows}

    one, other = by_name(old), by_name(new)
    for key in sorted(one.keys() | other.keys(), key=str):
        before, after = one.get(key, {}).get("value"), other.get(key, {}).get("value")
        error = math.hypot(
            one.get(key, {}).get("standard_error") or 0.0,
            other.get(key, {}).get("standard_error") or 0.0,
        )
        change = after - before if before is not None and after is not None else None
        yield {
            **dict(zip(names, key, strict=True)),
            "old": before,
            "new": after,
            "change": change,
            "standard error": error if error > 0 else None,
        }


def _columns(old: Attributes, new: Attributes) -> Iterator[dict[str, Cell]]:
    """By column: rows that differ, where both describe the same documents, else what is there."""
    comparable = old.describes == new.describes

    def columns(made: Attributes) -> dict[str, tuple[list[Shard], str]]:
        return {f"{t.name}.{n}": (t.shards, n) for t in made.tables for n in t.columns}

    one, other = columns(old), columns(new)
    for name in sorted(one.keys() | other.keys()):
        row: dict[str, Cell] = {"column": name, "rows": None, "rows that differ": None}
        if name not in one or name not in other:
            yield {**row, "note": "only new" if name not in one else "only old"}
        elif not comparable:
            yield {**row, "note": "of other documents"}
        else:
            pairs = zip(_values(old, *one[name]), _values(new, *other[name]), strict=True)
            number = [not _alike(a, b) for a, b in pairs]
            yield {**row, "rows": len(number), "rows that differ": sum(number), "note": ""}


def _values(made: Attributes, shards: list[Shard], column: str) -> Iterator[Any]:
    for shard in shards:
        for batch in read_batches(made.root, shard, [column]):
            yield from batch.column(0).to_pylist()


def _alike(one: Any, other: Any) -> bool:
    nan = isinstance(one, float) and isinstance(other, float) and one != one and other != other
    return nan or one == other


def _checkpoints(old: Checkpoints, new: Checkpoints) -> Iterator[dict[str, Cell]]:
    one, other = ({each.step: each for each in made.steps} for made in (old, new))
    for step in sorted(one.keys() | other.keys()):
        before, after = one.get(step), other.get(step)
        same = before is not None and after is not None and before.weights == after.weights
        yield {
            "step": step,
            "old": before.weights[:12] if before else None,
            "new": after.weights[:12] if after else None,
            "weights": "the same" if same else "differ",
        }


def _tensors(old: Checkpoints, new: Checkpoints) -> Iterator[dict[str, Cell]]:
    """How far apart each tensor is, against the norm of the old one."""
    paths = [tensor_files(made.folder(made.latest), "model") for made in (old, new)]
    with TensorFiles(paths[0], "np") as one, TensorFiles(paths[1], "np") as other:
        for name in sorted({*one.names, *other.names}):
            row: dict[str, Cell] = {"tensor": name, "distance": None, "of the old norm": None}
            if name in one and name in other:
                before, after = (np.concatenate([*each.parts(name)]) for each in (one, other))
                if before.shape == after.shape:
                    distance = float(np.linalg.norm(np.subtract(after, before, dtype=np.float64)))
                    norm = float(np.linalg.norm(before.astype(np.float64)))
                    row |= {
                        "distance": distance,
                        "of the old norm": distance / norm if norm else None,
                    }
            yield row
