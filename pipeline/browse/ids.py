"""Views of integers: tokens decoded, the order of training, examples and pairs with their masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

from pipeline.browse.text import first_rows
from pipeline.browse.views import Block, Bytes, Facts, Marked, Prose, grid
from pipeline.core.artifacts import (
    Artifact,
    Examples,
    OrderTable,
    Pairs,
    Tokenizer,
    TokenMix,
    Tokens,
)
from pipeline.core.errors import UNUSABLE
from pipeline.store.results import Results
from pipeline.tokens.format import open_ids, read_index
from pipeline.tokens.tokenizer import decode, load_tokenizer

MOST_IDS = 256  # of one document
Decode = Callable[[Sequence[int]], str]


def decoder(results: Results, tokenizer: str) -> Decode:
    """How ids are read as text: by the tokenizer of that content, if the workspace has it."""
    for id in results.standing():
        try:
            made = Artifact.load(results.folder(id))
            if isinstance(made, Tokenizer) and made.content == tokenizer:
                loaded = load_tokenizer(made)
                return lambda ids: decode(loaded, ids)
        except UNUSABLE:
            continue
    return lambda ids: " ".join(str(each) for each in ids)


def tokenizer(made: Tokenizer, limit: int) -> Iterator[Block]:
    loaded = load_tokenizer(made)
    yield Facts(
        {
            "vocabulary": made.vocab_size,
            "end token": f"{made.end_id} {loaded.id_to_token(made.end_id)}",
            "padding token": f"{made.pad_id} {loaded.id_to_token(made.pad_id)}",
            "file": str(made.root / made.file.path),
        }
    )
    step = max(1, made.vocab_size // max(1, limit))
    rows = [
        {"id": id, "token": loaded.id_to_token(id), "text": decode(loaded, [id])}
        for id in range(0, made.vocab_size, step)
        if loaded.id_to_token(id) is not None
    ]
    yield grid("tokens, evenly over the vocabulary", rows[:limit])


def tokens(made: Tokens, limit: int, results: Results) -> Iterator[Block]:
    yield Facts(
        {
            "tokens": made.num_tokens,
            "documents": made.num_documents,
            "shards": len(made.shards),
            "type": made.dtype,
            "size": Bytes(sum(each.num_bytes for each in made.files())),
            "tokenizer": made.tokenizer[:12],
        }
    )
    shares = [
        {"source": name, "tokens": number, "share": number / (made.num_tokens or 1)}
        for name, number in sorted(made.sources.items(), key=lambda item: -item[1])
    ]
    yield grid("sources", shares)
    read = decoder(results, made.tokenizer)
    rows = list(islice(_decoded(made, read), limit))
    yield grid("documents", rows, made.num_documents)


def _decoded(made: Tokens, read: Decode) -> Iterator[dict[str, Any]]:
    for shard in made.shards:
        ids = open_ids(made.root, shard, made.dtype)
        for row in read_index(made.root, shard).to_pylist():
            part = ids[row["start"] : row["end"]][:MOST_IDS].tolist()
            yield {
                "source": row["source"],
                "id": row["id"],
                "tokens": row["end"] - row["start"],
                "first ids": " ".join(str(each) for each in part[:8]),
                "text": read(part),
            }


def mix(made: TokenMix) -> Iterator[Block]:
    drawn = sum(part.num_drawn for part in made.parts)
    yield Facts(
        {
            "instances of an epoch": drawn,
            "tokens of an instance": made.sequence_length,
            "tokens of an epoch": drawn * made.sequence_length,
            "tokenizer": made.tokenizer[:12],
        }
    )
    rows = [
        {
            "part": part.name,
            "instances": part.num_instances,
            "drawn": part.num_drawn,
            "repeats": part.num_drawn / part.num_instances if part.num_instances else 0.0,
            "share": part.num_drawn / drawn if drawn else 0.0,
            "stands in": place,
        }
        for part, place in zip(made.parts, made.locations, strict=True)
    ]
    yield grid("parts", rows)


def order(made: OrderTable, limit: int) -> Iterator[Block]:
    yield Facts({"optimizer steps": made.num_steps, "rows": made.table.num_records})
    rows = first_rows(made.root, [made.table], limit)
    yield grid("what is read, and when", rows, made.table.num_records)


def examples(made: Examples, limit: int, results: Results) -> Iterator[Block]:
    yield Facts({"examples": made.num_examples, "skipped": made.num_skipped})
    read = decoder(results, made.tokenizer)
    for row in first_rows(made.root, made.shards, limit):
        learned = sum(row["mask"])
        title = f"{row['id']}: {len(row['input_ids'])} tokens, {learned} learned (marked)"
        yield Prose(title, _masked(row["input_ids"], row["mask"], read))
    yield _left("examples", made.num_examples, limit)


def pairs(made: Pairs, limit: int, results: Results) -> Iterator[Block]:
    yield Facts(
        {
            "pairs": made.num_pairs,
            "skipped": made.num_skipped,
            "reference": made.reference[:12] or "not computed",
        }
    )
    read = decoder(results, made.tokenizer)
    for row in first_rows(made.root, made.shards, limit):
        for name in ("chosen", "rejected"):
            likely = row.get(f"{name}_logprob")
            said = "" if likely is None else f", {likely:.1f} nats under the reference"
            title = f"{row['id']}: {name}, {row[f'{name}_bytes']} bytes{said}"
            yield Prose(title, _masked(row[f"{name}_ids"], row[f"{name}_mask"], read))
    yield _left("pairs", made.num_pairs, limit)


def _masked(ids: list[int], mask: list[int], read: Decode) -> Marked:
    pieces = []
    pairs = list(zip(ids, mask, strict=True))[: 4 * MOST_IDS]
    for learned, group in groupby(pairs, key=lambda pair: bool(pair[1])):
        pieces.append((read([id for id, _ in group]), learned))
    return Marked(pieces)


def _left(name: str, total: int, limit: int) -> Block:
    left = total - limit
    return Facts({f"more {name}": f"{left:,}; --limit shows more of them"} if left > 0 else {})
