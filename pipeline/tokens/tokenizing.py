"""Documents become Tokens, shard by shard: document shard k is token shard k."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.artifacts import Documents, Tokenizer, Tokens, TokenShard
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.files import Shard
from pipeline.core.keys import Json
from pipeline.data.text_columns import TextColumn, read_text
from pipeline.store.memo import FileMemo
from pipeline.tokens.encoder import load_encoder
from pipeline.tokens.format import TokenShardWriter, shard_paths, token_dtype

VERSION = "001"
WHITE_SPACE = "".join(filter(str.isspace, map(chr, range(0x3001))))  # there is none beyond


def tokenize_documents(
    documents: Documents,
    tokenizer: Tokenizer,
    *,
    strip: bool = False,
    out: Path,
    engine: Engine = LOCAL,
    memo: FileMemo | None = None,
) -> Tokens:
    """Tokenize every document and end each with the end token; empty text is just that token.

    Text that spells a special token is ordinary text. Memory is flat: a batch of documents at a
    time. A shard that `memo` remembers is linked.

    Args:
        strip: leave out white space at both ends of a text, and documents of nothing else.

    Source: allenai/dolma, `dolma tokens`, which strips.
    Differs: documents stay in their order and in shards of their own; there they are shuffled.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    work = _TokenizeShard(documents, tokenizer, strip, out, memo)
    fast = load_encoder(tokenizer).is_fast
    numbers = range(len(documents.shards))
    finished = engine.map(work, numbers, label="tokenize", threads=fast)
    sources: Counter[str] = Counter()
    for _, counts in finished:
        sources.update(counts)
    shards = [shard for shard, _ in finished]
    return tokens_of(out, tokenizer, shards, sources)


def tokens_of(
    out: Path, tokenizer: Tokenizer, shards: list[TokenShard], sources: Mapping[str, int]
) -> Tokens:
    """The manifest of token shards that stand in `out`; `sources` has the tokens of each."""
    return Tokens.of(
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


@dataclass(frozen=True)
class _TokenizeShard:
    documents: Documents
    tokenizer: Tokenizer
    strip: bool
    out: Path
    memo: FileMemo | None

    def __call__(self, number: int) -> tuple[TokenShard, dict[str, int]]:
        shard = self.documents.shards[number]
        if self.memo is None:
            return self._tokenize(number, shard)
        key = {
            "tokenize": VERSION,
            "tokenizer": self.tokenizer.content,
            "strip": self.strip,
            "shard": shard.content,
        }
        found = remembered_shard(self.memo, key, self.out, number)
        if found is None:
            found = self._tokenize(number, shard)
            paths = [found[0].path, found[0].index_path]
            note = {"shard": asdict(found[0]), "sources": found[1]}
            self.memo.keep_files(key, self.out, paths, note)
        return found

    def _tokenize(self, number: int, shard: Shard) -> tuple[TokenShard, dict[str, int]]:
        encoder, end_id = load_encoder(self.tokenizer), self.tokenizer.end_id
        counts: Counter[str] = Counter()
        with TokenShardWriter(self.out, number, token_dtype(self.tokenizer.vocab_size)) as writer:
            for texts, batch in read_text(self.documents.root, shard, ["source", "id"]):
                if self.strip:
                    batch = _stripped(batch)
                    texts = TextColumn.of(batch["text"])
                begin, every = writer.num_tokens, []
                for ids, some in encoder.blocks(texts, end_id):
                    writer.write_ids(ids)
                    every.append(some)
                ends = np.concatenate([np.empty(0, np.int64), *every])
                lengths = np.diff(ends, prepend=0)
                writer.write_index(batch["source"], batch["id"], begin + ends, lengths)
                for source, num in zip(batch["source"].to_pylist(), lengths.tolist(), strict=True):
                    counts[source] += num
        return writer.shard, dict(counts)


def _stripped(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with text, without white space (`str.isspace`) at its ends."""
    texts = pc.utf8_trim(batch["text"], characters=WHITE_SPACE)
    batch = batch.set_column(batch.schema.get_field_index("text"), "text", texts)
    return batch.filter(pc.not_equal(pc.binary_length(texts), 0))


def remembered_shard(
    memo: FileMemo, key: dict[str, Json], out: Path, number: int
) -> tuple[TokenShard, dict[str, int]] | None:
    """The shard that the same work gave, linked to its place here, and its tokens by source."""
    note = memo.note(key)
    ids, index = shard_paths(number)
    try:
        shard = TokenShard(**{**note["shard"], "path": ids, "index_path": index})
        sources = dict(note["sources"])
    except (TypeError, KeyError, ValueError):
        return None
    return (shard, sources) if memo.place(key, out, [ids, index]) else None
