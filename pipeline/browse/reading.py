"""What training read: the documents of an optimizer step, and the steps that read a document.

Both follow from the key of a training alone, which names the data, the batch size and the seed. A
training that was not finished, as it diverged or was killed, has its key where it is in the making.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.browse.ids import decoder
from pipeline.browse.views import Block, Facts, View, grid
from pipeline.core.artifacts import (
    Artifact,
    Checkpoints,
    Examples,
    Pairs,
    ReadingOrder,
    TokenMix,
)
from pipeline.core.errors import UNUSABLE, CorruptShard
from pipeline.core.untrusted import built
from pipeline.store.history import diverged_rows, history_rows
from pipeline.store.inventory import is_id
from pipeline.store.lineage import Made, lineage
from pipeline.store.results import KEY, Results
from pipeline.store.series import read_users, series_of
from pipeline.tokens.batches import ExampleBatches, PairBatches
from pipeline.tokens.olmo_indices import OlmoReplay
from pipeline.tokens.olmo_order import OlmoShuffle
from pipeline.tokens.order import FEISTEL, OrderRule, TokenBatches

MOST_TEXT = 400  # characters of a document shown in a table
DATA = ("mix", "examples", "pairs")  # the arguments that hold what training reads
Read = TokenBatches | ExampleBatches | PairBatches


def batch(results: Results, id: str, step: int, limit: int) -> View:
    """The documents that optimizer step `step`, from 1, of a training read.

    Of one that diverged, the update at which it did can be asked for too.

    Args:
        limit: rows shown; `start` and `end` are token offsets in the document.

    Raises:
        ValueError: the result is not of training, or the step is not one of its steps.
    """
    last = _last_step(results, id)
    if not 1 <= step <= last:
        raise ValueError(f"--at is {step}; it must be from 1 to {last}, the last step")
    batches = batches_of(results, id)
    read = batches.at(step - 1)
    ids = read["input_ids"] if isinstance(read, dict) else read
    decode = decoder(results, _data_of(results, lineage(results, id)[-1]).tokenizer)
    rows: list[dict[str, Any]] = []
    for row, pieces in enumerate(batches.rows(step - 1)):
        begin = 0
        for piece in pieces:
            end = begin + piece.end - piece.start
            text = decode(ids[row][begin:end].tolist())[:MOST_TEXT]
            rows.append({"row": row, **piece._asdict(), "text": text})
            begin = end
    about = {"step": step, "documents": len({each["id"] for each in rows}), "rows": len(ids)}
    return View(f"step {step} of {id}", [Facts(about), grid("read", rows[:limit], len(rows))])


def where(results: Results, document: str, limit: int) -> View:
    """The optimizer steps, from 1, at which each training read a document.

    One that is `skipped` was read, but its update was left out: nothing was learned from it. A
    training that has no result so far is `unfinished`, and looked at up to its last update.

    Args:
        document: its id, or its source and id, as in `books/17`.

    Raises:
        ValueError: no training that is here read it.
    """
    rows: list[dict[str, Any]] = []
    unread = []
    for id in [*results.standing(), *_unfinished(results)]:
        try:
            rows += _readings(results, id, document)
        except (FileNotFoundError, *UNUSABLE):  # it, or what it read, is gone or damaged
            unread.append(id)
    aside = (
        f"; not looked at, as their data are gone or damaged: {', '.join(unread)}" if unread else ""
    )
    if not rows:
        found = f"no training in {results.root} read a document {document!r}"
        raise ValueError(found + aside)
    rows.sort(key=lambda row: (row["result"], row["step"], row["row"]))
    blocks: list[Block] = [grid("read", rows[:limit], len(rows))]
    if unread:
        blocks.append(Facts({"not looked at, data gone or damaged": ", ".join(unread)}))
    return View(f"when {document} was read", blocks)


def batches_of(results: Results, id: str) -> Read:
    """The batches of a training, finished or not, as it read them.

    Raises:
        CorruptShard: its key is not one of a training.
    """
    made = lineage(results, id)[-1]
    data = _data_of(results, made)
    path = _key_path(results, id)
    config = _field(path, made.args, "train", dict[str, Any])
    if (size := _field(path, config, "batch_size", int, "train.")) < 1:
        raise CorruptShard(path, None, f"args.train.batch_size is {size}; it must be at least 1")
    seed = _field(path, config, "seed", int, "train.")
    if isinstance(data, TokenMix):
        return TokenBatches(data, size, seed, _order_of(results, made, path))
    if isinstance(data, Examples):
        return ExampleBatches(data, size, seed)
    return PairBatches(data, size, seed)


def _data_of(results: Results, made: Made) -> TokenMix | Examples | Pairs:
    path = _key_path(results, made.id)
    argument = next((name for name in DATA if name in made.inputs), None)
    if argument is None:
        raise CorruptShard(path, None, f"names none of {', '.join(DATA)}, which training reads")
    data = Artifact.load(results.folder(made.inputs[argument]))
    if not isinstance(data, TokenMix | Examples | Pairs):
        kind = type(data).__name__
        raise CorruptShard(path, None, f"args.{argument} is {kind}; no training reads one")
    return data


def _key_path(results: Results, id: str) -> Path:
    """Where the key of a step stands: of one that was not finished, where it is in the making."""
    path = results.folder(id) / KEY
    return path if path.exists() else results.root / "work" / id / KEY


def _field(path: Path, form: Any, name: str, hint: Any, place: str = "") -> Any:
    """A field of a key's arguments; raises CorruptShard where it is missing or of another type."""
    try:
        return built(hint, form[name], f"args.{place}{name}")
    except KeyError:
        raise CorruptShard(path, None, f"has no args.{place}{name}") from None
    except ValueError as error:
        raise CorruptShard(path, None, str(error)) from error


def _last_step(results: Results, id: str) -> int:
    """The last step of a training result; of one that was not finished, the last that it read."""
    if results.folder(id).exists():
        return _trained(results, id).latest.step
    series = series_of(results.series_root, id)
    last = _last_update(results, id)
    if series is not None and last + 1 in {row["step"] for row in diverged_rows(series)}:
        last += 1
    if last == 0:
        raise ValueError(f"{id} has trained nothing so far")
    return last


def _unfinished(results: Results) -> list[str]:
    """Ids of the trainings that have no result so far, and whose key stands where they are made."""
    named = {id for each in results.series_root.glob("*") for id in read_users(each) or []}
    ids = sorted(named - set(results.standing()))
    return [id for id in ids if is_id(id) and (results.root / "work" / id / KEY).exists()]


def _last_update(results: Results, id: str) -> int:
    """The last update of a training that was not finished; its series may be a longer one's too."""
    series = series_of(results.series_root, id)
    if series is None:
        return 0
    path = _key_path(results, id)
    config = _field(path, lineage(results, id)[-1].args, "train", dict[str, Any])
    stop = _field(path, {"stop_at": None} | config, "stop_at", int | None, "train.")
    last = max(history_rows(series), default=0)
    return last if stop is None else min(last, stop)


def _order_of(results: Results, made: Made, path: Path) -> OrderRule:
    """The order that a run was given; runs of before there was a choice have no such argument."""
    if "order" in made.inputs:
        indices = Artifact.load(results.folder(made.inputs["order"]))
        if not isinstance(indices, ReadingOrder):
            kind = type(indices).__name__
            raise CorruptShard(path, None, f"args.order is {kind}; it must be ReadingOrder")
        return OlmoReplay(indices)
    if "order" not in made.args:
        return FEISTEL
    form = _field(path, made.args, "order", dict[str, Any])
    if _field(path, form, "is", str, "order.") == OlmoShuffle.__name__:
        return OlmoShuffle(_field(path, form, "seed", int | None, "order."))
    return FEISTEL


def _trained(results: Results, id: str) -> Checkpoints:
    made = Artifact.load(results.folder(id))
    keyed = lineage(results, id)[-1]
    if not isinstance(made, Checkpoints) or not any(name in keyed.inputs for name in DATA):
        raise ValueError(f"{id} is {type(made).__name__}; it must be a result of training")
    return made


def _readings(results: Results, id: str, document: str) -> Iterator[dict[str, Any]]:
    """A row for each time that a step, if it is of training, read a document."""
    unfinished = not results.folder(id).exists()
    try:
        last = _last_update(results, id) if unfinished else _trained(results, id).latest.step
    except ValueError:  # another kind of result
        return
    if last == 0:
        return
    batches, skipped = batches_of(results, id), _skipped(results, id)
    order = batches.order
    num_epochs = -(-last * order.batch_instances // order.num_instances)
    cuts = [place for place, sign in enumerate(document) if sign == "/"]
    named = {document, *(document[place + 1 :] for place in cuts)}
    for instance in sorted({n for each in named for n in batches.holding(each)}):
        for epoch in range(num_epochs):
            found = order.when(instance, epoch)
            if found is not None and found[0] < last:
                step, row = found
                for piece in batches.rows(step)[row]:
                    if document in (piece.id, f"{piece.source}/{piece.id}"):
                        at = {"step": step + 1, "row": row, "epoch": epoch}
                        at |= {"skipped": step + 1 in skipped, "unfinished": unfinished}
                        yield {"result": id, "source": piece.source, "id": piece.id, **at}


def _skipped(results: Results, id: str) -> set[int]:
    """The steps of a training, from 1, whose update was left out."""
    if not results.folder(id).exists():
        series = series_of(results.series_root, id)
        rows = history_rows(series) if series is not None else {}
        return {step for step, row in rows.items() if row.get("skipped")}
    made = _trained(results, id)
    path = made.history.place(made.root)
    try:
        table = pq.read_table(path)
        if "skipped" not in table.column_names:  # it had no rule
            return set()
        rows = table.select(["step", "skipped"]).to_pylist()
    except (pa.ArrowInvalid, OSError, LookupError, ValueError) as error:
        raise CorruptShard(path, None, f"not a history ({error})") from error
    return {row["step"] for row in rows if row["skipped"]}
