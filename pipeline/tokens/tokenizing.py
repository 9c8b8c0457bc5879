"""Documents become Tokens, shard by shard: document shard k is token shard k."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.core.artifacts import (
    Documents,
    Shard,
    Tokenizer,
    Tokens,
    TokenShard,
    write_json,
)
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import CorruptShard
from pipeline.core.shards import read_batches, shard_name
from pipeline.tokens.format import TokenShardWriter, token_dtype
from pipeline.tokens.tokenizer import encode, load_tokenizer

BATCH_DOCUMENTS = 256


def tokenize_documents(
    documents: Documents, tokenizer: Tokenizer, *, out: Path, engine: Engine = LOCAL
) -> Tokens:
    """Tokenize every document and end each with the end token; empty text is just that token.

    Text that spells a special token is ordinary text. Memory is flat: a batch of documents at a
    time. A shard finished by a run that was killed is found in `out`, verified and kept.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    work = _TokenizeShard(documents, tokenizer, out)
    finished = engine.map(work, range(len(documents.shards)), label="tokenize")
    sources: Counter[str] = Counter()
    for _, counts in finished:
        sources.update(counts)
    shards = [shard for shard, _ in finished]
    tokens = Tokens.of(
        out,
        tokenizer=tokenizer.content,
        dtype=token_dtype(tokenizer.vocab_size),
        vocab_size=tokenizer.vocab_size,
        end_id=tokenizer.end_id,
        num_tokens=sum(each.num_tokens for each in shards),
        num_documents=sum(each.num_records for each in shards),
        sources=dict(sorted(sources.items())),
        shards=shards,
    )
    for number in range(len(shards)):
        _record_path(out, number).unlink(missing_ok=True)
    return tokens


@dataclass(frozen=True)
class _TokenizeShard:
    documents: Documents
    tokenizer: Tokenizer
    out: Path

    def __call__(self, number: int) -> tuple[TokenShard, dict[str, int]]:
        shard = self.documents.shards[number]
        inputs = {"documents": shard.content, "tokenizer": self.tokenizer.content}
        found = _finished(self.out, number, inputs)
        if found is None:
            found = self._tokenize(number, shard)
            record = {"inputs": inputs, "shard": asdict(found[0]), "sources": found[1]}
            write_json(_record_path(self.out, number), record)
        return found

    def _tokenize(self, number: int, shard: Shard) -> tuple[TokenShard, dict[str, int]]:
        loaded, end_id = load_tokenizer(self.tokenizer), self.tokenizer.end_id
        counts: Counter[str] = Counter()
        columns = ["source", "id", "text"]
        with TokenShardWriter(self.out, number, token_dtype(self.tokenizer.vocab_size)) as writer:
            for batch in read_batches(self.documents.root, shard, columns, BATCH_DOCUMENTS):
                sources, names, texts = (batch[each].to_pylist() for each in columns)
                if None in texts:
                    path = self.documents.root / shard.path
                    raise CorruptShard(path, names[texts.index(None)], "has no text")
                token_ids = [[*ids, end_id] for ids in encode(loaded, texts)]
                writer.write(sources, names, token_ids)
                for source, ids in zip(sources, token_ids, strict=True):
                    counts[source] += len(ids)
        return writer.shard, dict(counts)


def _record_path(out: Path, number: int) -> Path:
    return out / f".{shard_name(number, '.done.json')}"


def _finished(
    out: Path, number: int, inputs: dict[str, str]
) -> tuple[TokenShard, dict[str, int]] | None:
    """A shard left by an earlier run on the same inputs, if it is whole."""
    try:
        record: dict[str, Any] = json.loads(_record_path(out, number).read_text(encoding="utf-8"))
        if record["inputs"] != inputs:
            return None
        shard = TokenShard(**record["shard"])
        shard.verify(out)
        return shard, record["sources"]
    except (OSError, ValueError, KeyError, TypeError, CorruptShard):
        return None
