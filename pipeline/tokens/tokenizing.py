"""Documents become Tokens, shard by shard: document shard k is token shard k."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain, groupby
from pathlib import Path

import numpy as np

from pipeline.core.artifacts import Documents, Tokenizer, Tokens, TokenShard
from pipeline.core.engine import LOCAL, Engine
from pipeline.core.errors import CorruptShard
from pipeline.core.files import Shard
from pipeline.core.keys import Json
from pipeline.core.shards import read_batches
from pipeline.data.text import PIECE
from pipeline.store.memo import FileMemo
from pipeline.tokens.encoder import Encoder, load_encoder
from pipeline.tokens.format import TokenShardWriter, shard_paths, token_dtype

VERSION = "001"
BATCH_DOCUMENTS = 256


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
    time, and a long one in pieces where `Encoder` can cut it. A shard that `memo` remembers is
    linked.

    Args:
        strip: leave out white space at both ends of a text, and documents of nothing else.

    Source: allenai/dolma, `dolma tokens`, which strips.
    Differs: documents stay in their order and in shards of their own; there they are shuffled.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    work = _TokenizeShard(documents, tokenizer, strip, out, memo)
    finished = engine.map(work, range(len(documents.shards)), label="tokenize")
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
        encoder = load_encoder(self.tokenizer)
        counts: Counter[str] = Counter()
        columns = ["source", "id", "text"]
        with TokenShardWriter(self.out, number, token_dtype(self.tokenizer.vocab_size)) as writer:
            for batch in read_batches(self.documents.root, shard, columns, BATCH_DOCUMENTS):
                sources, names, texts = (batch[each].to_pylist() for each in columns)
                if None in texts:
                    path = self.documents.root / shard.path
                    raise CorruptShard(path, names[texts.index(None)], "has no text")
                if self.strip:
                    sources, names, texts = _stripped(sources, names, texts)
                lengths = self._write(writer, encoder, zip(sources, names, texts, strict=True))
                for source, length in zip(sources, lengths, strict=True):
                    counts[source] += length
        return writer.shard, dict(counts)

    def _write(
        self, writer: TokenShardWriter, encoder: Encoder, rows: Iterable[tuple[str, str, str]]
    ) -> list[int]:
        """Write documents, (source, id, text); gives how many tokens each has."""
        end, lengths = np.array([self.tokenizer.end_id]), []
        for is_long, group in groupby(rows, lambda row: len(row[2]) > PIECE):
            if is_long:
                for source, name, text in group:
                    ids = chain(encoder.encode_long(text), [end])
                    lengths.append(writer.write_long(source, name, ids))
                continue
            sources, names, texts = zip(*group, strict=True)
            token_ids = [np.append(ids, end) for ids in encoder.encode(texts)]
            writer.write(sources, names, token_ids)
            lengths += map(len, token_ids)
        return lengths


def _stripped(
    sources: list[str], names: list[str], texts: list[str]
) -> tuple[list[str], list[str], list[str]]:
    """The texts without white space at their ends; those that are nothing else are left out."""
    texts = [each.strip() for each in texts]
    held = [n for n, each in enumerate(texts) if each]
    return [sources[n] for n in held], [names[n] for n in held], [texts[n] for n in held]


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
