"""What `olmo show` shows of a result: its own view for each kind of artifact."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.browse import ids, models, text
from pipeline.browse.views import Block, Bytes, Facts, View, grid
from pipeline.browse.visible import as_age
from pipeline.browse.workspace import Result
from pipeline.core.artifacts import (
    Artifact,
    Attributes,
    Checkpoints,
    Documents,
    Examples,
    Generations,
    HfModel,
    OrderTable,
    Pairs,
    Questions,
    Report,
    Scores,
    Tokenizer,
    TokenMix,
    Tokens,
)
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.terminal import duration
from pipeline.store.results import Results
from pipeline.store.survey import look_at


def show(result: Result, limit: int = 10) -> View:
    """The view of a result.

    Args:
        limit: rows that are shown of each table.

    Raises:
        CorruptShard: it is damaged.
    """
    made = result.manifest
    title = f"{type(made).__name__} {result.id}"
    facts = Facts(_about(result, made))
    if result.discarded:
        said = "discarded; it is made again when a step reads it"
        return View(title, [Facts({**facts.values, "data": said})])
    result.readable()
    try:
        blocks = [facts, *_blocks(made, limit, result.results)]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"its files are not what its manifest says ({type(error).__name__}: {error})"
        raise CorruptShard(result.path, None, reason) from error
    return View(title, [each for each in blocks if not isinstance(each, Facts) or each.values])


def _about(result: Result, made: Artifact) -> dict[str, object]:
    record = result.record
    standing = look_at(result.results, result.id)
    about: dict[str, object] = {
        "folder": str(result.path),
        "content": made.content[:12],
        "made": f"{as_age(standing.made)} ago",
    }
    if isinstance(record.get("linked_from"), str):
        about["linked from"] = record["linked_from"]
    if isinstance(record.get("seconds"), (int, float)):
        about["took"] = duration(float(record["seconds"]))
    if standing.inputs:
        about["made from"] = ", ".join(standing.inputs)
    return about


def _blocks(made: Artifact, limit: int, results: Results) -> Iterator[Block]:
    if isinstance(made, Documents):
        yield from text.documents(made, limit)
    elif isinstance(made, Attributes):
        yield from text.attributes(made, limit)
    elif isinstance(made, Questions):
        yield from text.questions(made, limit)
    elif isinstance(made, Tokenizer):
        yield from ids.tokenizer(made, limit)
    elif isinstance(made, Tokens):
        yield from ids.tokens(made, limit, results)
    elif isinstance(made, TokenMix):
        yield from ids.mix(made)
    elif isinstance(made, OrderTable):
        yield from ids.order(made, limit)
    elif isinstance(made, Examples):
        yield from ids.examples(made, limit, results)
    elif isinstance(made, Pairs):
        yield from ids.pairs(made, limit, results)
    elif isinstance(made, Checkpoints):
        yield from models.checkpoints(made, limit)
    elif isinstance(made, HfModel):
        yield from models.hf_model(made)
    elif isinstance(made, Scores):
        yield from models.scores(made, limit)
    elif isinstance(made, Generations):
        yield from models.generations(made, limit)
    elif isinstance(made, Report):
        yield from models.report(made)
    else:
        yield from _any(made, limit)


def _any(made: Artifact, limit: int) -> Iterator[Block]:
    """A kind without a view of its own: its fields, its files and the rows of its tables."""
    form = made.to_json()
    yield Facts({n: v for n, v in form.items() if isinstance(v, (str, int, float))})
    files = list(made.files())
    yield grid("files", [{"file": each.path, "size": Bytes(each.num_bytes)} for each in files])
    for each in files:
        if isinstance(each, Shard) and each.path.endswith(".parquet"):
            rows = text.first_rows(made.root, [each], limit)
            yield grid(each.path, rows, each.num_records)
