"""How well a model predicts text: documents whole, answers to prompts, and preferred answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.core.artifacts import (
    Artifact,
    Checkpoints,
    Documents,
    Examples,
    HfModel,
    Pairs,
    Scores,
    Tokenizer,
)
from pipeline.core.errors import CorruptShard
from pipeline.core.estimates import mean, ratio
from pipeline.core.files import Shard
from pipeline.core.shards import read_batches
from pipeline.data.document import MetadataField
from pipeline.eval.scoring import named_models
from pipeline.eval.tables import MODEL, Tables
from pipeline.eval.tasks import sample
from pipeline.model.scoring import BATCH_TOKENS, Row, Scorer, masked_row
from pipeline.tokens.tokenizer import encode, load_tokenizer

ANSWERS, PAIRS = "answers", "pairs"
ITEM = [*MODEL, ("task", pa.string()), ("id", pa.string()), ("group", pa.string())]
TEXT_SCHEMA = pa.schema(
    [*ITEM, ("logprob", pa.float64()), ("num_tokens", pa.int64()), ("num_bytes", pa.int64())]
    + [("value", pa.float64())]
)
PAIR_SCHEMA = pa.schema(
    [*ITEM, ("chosen_logprob", pa.float64()), ("rejected_logprob", pa.float64())]
    + [("chosen_bytes", pa.int64()), ("rejected_bytes", pa.int64())]
    + [("margin", pa.float64()), ("value", pa.float64())]
)
ROWS_AT_ONCE = 4096
ExampleRow = dict[str, Any]  # of `Examples` or `Pairs`


class Text(NamedTuple):
    """A document to be scored, its group, and its ids after the end token."""

    id: str
    group: str
    num_bytes: int
    ids: list[int]


class _Item(NamedTuple):
    id: str
    group: str
    rows: list[Row]
    num_bytes: int


def perplexity(
    models: Mapping[str, Checkpoints | HfModel],
    tokenizer: Tokenizer,
    documents: Mapping[str, Documents],
    *,
    steps: Sequence[int] | str | None = None,
    max_documents: int | None = None,
    group_by: MetadataField | None = None,
    batch_tokens: int = BATCH_TOKENS,
    out: Path,
) -> Scores:
    """Perplexity and bits per byte of each domain's documents, micro-averaged over its documents.

    A document is read alone, the end token in front and not after it. One longer than the model is
    read in windows; the last is extended to the left, so that every token of it has as much context
    as fits, and only its new tokens are scored. Empty documents are left out. `value` of an answer
    row is the document's bits per byte; `num_items` counts documents.

    Args:
        steps: of each series; "all", or without it the latest.
        max_documents: at most so many of each domain, chosen by the hash of source and id.
        group_by: what is equal in documents that are not independent: standard errors count such a
            group once.

    Source: Magnusson et al. 2023, "Paloma", section 3; allenai/ai2-olmo-eval, `perplexity`.
    """
    texts = domain_texts(tokenizer, documents, max_documents, group_by)
    tables = Tables(TEXT_SCHEMA)
    for named in named_models(models, tokenizer.content, steps):
        tables.name_model(named.name, named.step)
        score_domains(texts, Scorer(named.load(), batch_tokens), tables)
    return tables.stored("perplexity", Path(out))


def domain_texts(
    tokenizer: Tokenizer,
    documents: Mapping[str, Documents],
    max_documents: int | None,
    group_by: MetadataField | None,
) -> dict[str, list[Text]]:
    """The texts of each domain; arguments are those of `perplexity`."""
    if max_documents is not None and max_documents < 1:
        raise ValueError(f"max_documents is {max_documents}; it must be at least 1 or null")
    loaded = load_tokenizer(tokenizer)
    found = {}
    for domain, each in documents.items():
        texts = sample(_texts(each, group_by), max_documents, lambda t: f"{t.source}\0{t.id}")
        encoded = encode(loaded, [each.text for each in texts])
        found[domain] = [
            Text(text.id, text.group, len(text.text.encode()), [tokenizer.end_id, *ids])
            for text, ids in zip(texts, encoded, strict=True)
            if ids
        ]
    return found


def score_domains(texts: Mapping[str, Sequence[Text]], scorer: Scorer, tables: Tables) -> None:
    """Add what `perplexity` says of a model's texts, domain by domain."""
    for domain, found in texts.items():
        items = [
            _Item(
                each.id, each.group, windows(each.ids, scorer.max_sequence_length), each.num_bytes
            )
            for each in found
        ]
        _score_texts(scorer, items, domain, tables)


def answer_scores(
    models: Mapping[str, Checkpoints | HfModel],
    examples: Examples,
    *,
    steps: Sequence[int] | str | None = None,
    limit: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    out: Path,
) -> Scores:
    """Bits per byte of the answers in conversations, given all before them.

    The tokens scored are those the examples' mask learns, so the end token of each answer counts in
    the bits, and the bytes are of the answer's text alone.

    Args:
        limit: at most so many examples, chosen by the hash of their ids.
    """
    rows = sampled_rows(examples, limit)
    tables = Tables(TEXT_SCHEMA)
    for named in named_models(models, examples.tokenizer, steps):
        tables.name_model(named.name, named.step)
        score_answers(rows, Scorer(named.load(), batch_tokens), tables)
    return tables.stored("perplexity", Path(out))


def score_answers(rows: Sequence[ExampleRow], scorer: Scorer, tables: Tables) -> None:
    """Add what `answer_scores` says of a model."""
    length = scorer.max_sequence_length
    items = [
        _Item(
            each["id"], each["group"], [masked_row(each["input_ids"], each["mask"], length)], size
        )
        for each in rows
        if (size := each["num_answer_bytes"])
    ]
    _score_texts(scorer, items, ANSWERS, tables)


def pair_scores(
    models: Mapping[str, Checkpoints | HfModel],
    pairs: Pairs,
    *,
    steps: Sequence[int] | str | None = None,
    limit: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    out: Path,
) -> Scores:
    """The share of pairs whose chosen answer is likelier per byte than the rejected one.

    `preferred_per_byte` counts a tie as half; `margin_per_byte` is the mean difference, in nats per
    byte. Log-probabilities include the answers' end tokens, bytes do not.

    Args:
        limit: at most so many pairs, chosen by the hash of their ids.
    """
    rows = sampled_rows(pairs, limit)
    tables = Tables(PAIR_SCHEMA)
    for named in named_models(models, pairs.tokenizer, steps):
        tables.name_model(named.name, named.step)
        score_pairs(rows, Scorer(named.load(), batch_tokens), tables)
    return tables.stored("rank", Path(out))


def score_pairs(rows: Sequence[ExampleRow], scorer: Scorer, tables: Tables) -> None:
    """Add what `pair_scores` says of a model."""
    length = scorer.max_sequence_length
    asked = [
        masked_row(each[f"{side}_ids"], each[f"{side}_mask"], length)
        for each in rows
        for side in ("chosen", "rejected")
    ]
    sums = _sums(scorer, asked)
    values, margins = [], []
    for place, each in enumerate(rows):
        chosen, rejected = sums[2 * place], sums[2 * place + 1]
        margin = chosen / each["chosen_bytes"] - rejected / each["rejected_bytes"]
        values.append(0.5 if margin == 0 else float(margin > 0))
        margins.append(margin)
        tables.answer(
            task=PAIRS,
            id=each["id"],
            group=each["group"],
            chosen_logprob=chosen,
            rejected_logprob=rejected,
            chosen_bytes=each["chosen_bytes"],
            rejected_bytes=each["rejected_bytes"],
            margin=margin,
            value=values[-1],
        )
    groups = [each["group"] for each in rows]
    for metric, numbers, unit in (
        ("preferred_per_byte", values, "fraction"),
        ("margin_per_byte", margins, "nats per byte"),
    ):
        if not numbers:
            continue
        measured = mean(numbers, groups)
        tables.score(
            task=PAIRS,
            metric=metric,
            value=measured.value,
            unit=unit,
            num_items=len(numbers),
            standard_error=measured.error,
            num_groups=measured.num_groups,
        )


def sampled_rows(artifact: Examples | Pairs, limit: int | None) -> list[ExampleRow]:
    """At most so many examples or pairs, chosen by the hash of their ids."""
    return sample(list(_rows(artifact, artifact.shards)), limit, lambda each: str(each["id"]))


def windows(ids: Sequence[int], max_sequence_length: int) -> list[Row]:
    """Rows that score every id but the first once; the last reaches left to the full length."""
    made = []
    for start in range(1, len(ids), max_sequence_length):
        stop = min(start + max_sequence_length, len(ids))
        left = max(0, stop - 1 - max_sequence_length)
        places = tuple(range(start - left, stop - left))
        made.append(Row(tuple(ids[left:stop]), places))
    return made


def _score_texts(scorer: Scorer, items: Sequence[_Item], task: str, tables: Tables) -> None:
    """Rows for these items, and the measures over them."""
    sums = iter(_sums(scorer, [each for item in items for each in item.rows]))
    nats, tokens, sizes = [], [], []
    for item in items:
        logprob = sum(next(sums) for _ in item.rows)
        nats.append(-logprob)
        tokens.append(sum(len(each.scored) for each in item.rows))
        sizes.append(item.num_bytes)
        tables.answer(
            task=task,
            id=item.id,
            group=item.group,
            logprob=logprob,
            num_tokens=tokens[-1],
            num_bytes=item.num_bytes,
            value=-logprob / (item.num_bytes * math.log(2)),
        )
    if not items:
        return
    groups = [each.group for each in items]
    per_token, per_byte = ratio(nats, tokens, groups), ratio(nats, sizes, groups)
    bits = 1 / math.log(2)
    surprise = math.exp(min(per_token.value, 700.0))  # beyond, a float64 overflows
    for metric, value, unit, error in (
        ("bits_per_byte", per_byte.value * bits, "bits per byte", per_byte.error * bits),
        ("perplexity", surprise, "per token", surprise * per_token.error),
        ("num_tokens", float(sum(tokens)), "tokens", 0.0),
        ("num_bytes", float(sum(sizes)), "bytes", 0.0),
    ):
        tables.score(
            task=task,
            metric=metric,
            value=value,
            unit=unit,
            num_items=len(items),
            standard_error=error,
            num_groups=per_byte.num_groups,
        )


def _sums(scorer: Scorer, rows: Sequence[Row]) -> list[float]:
    """Summed log-probabilities of rows, a bounded number of rows in memory."""
    found: list[float] = []
    for first in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[first : first + ROWS_AT_ONCE]
        found += (float(each.logprobs.sum()) for each in scorer.score(part))
    return found


class _Text(NamedTuple):
    source: str
    id: str
    text: str
    group: str


def _texts(documents: Documents, group_by: MetadataField | None) -> list[_Text]:
    found = []
    for shard in documents.shards:
        for each in _rows(documents, [shard], ["source", "id", "text", "metadata"]):
            try:
                group = group_by.of(each["metadata"]) if group_by else ""
            except ValueError as error:
                raise CorruptShard(documents.root / shard.path, each["id"], str(error)) from error
            found.append(_Text(each["source"], each["id"], each["text"], group))
    return found


def _rows(
    artifact: Artifact, shards: Sequence[Shard], columns: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    for shard in shards:
        for batch in read_batches(artifact.root, shard, columns):
            yield from batch.to_pylist()
