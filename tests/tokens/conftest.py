import json

import pyarrow as pa
import pytest

from pipeline.core.artifacts import Documents, SourceCount
from pipeline.core.shards import shard_name, write_shard
from pipeline.tokens.tokenizer import train_tokenizer

SCHEMA = pa.schema(
    [(n, pa.string()) for n in ("id", "text", "source", "added", "created", "metadata")]
)


def write_documents(root, shards, metadata=None):
    """Documents of these texts, a list a shard; `metadata` has the same shape."""
    made = []
    for number, texts in enumerate(shards):
        rows = {name: [""] * len(texts) for name in SCHEMA.names}
        rows["id"] = [f"{number}-{place}" for place in range(len(texts))]
        rows["source"] = ["odd" if place % 2 else "even" for place in range(len(texts))]
        rows["text"] = list(texts)
        if metadata is not None:
            rows["metadata"] = [json.dumps(each) for each in metadata[number]]
        made.append(write_shard(root, shard_name(number), rows, SCHEMA))
    texts = [text for shard in shards for text in shard]
    num_bytes = sum(len(text.encode()) for text in texts)
    return Documents.of(
        root,
        num_documents=len(texts),
        num_text_bytes=num_bytes,
        sources=[SourceCount("all", "MIT", "here", len(texts), num_bytes)],
        shards=made,
    )


WORDS = "the quick brown fox jumps over the lazy dog while él niño runs home again".split()


def sentences(count, start=0):
    return [
        " ".join(WORDS[(start + i * k) % len(WORDS)] for k in range(3 + i % 7))
        for i in range(count)
    ]


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    shards = [sentences(40), [], ["", "one", *sentences(30, 5)], sentences(20, 9)]
    return write_documents(tmp_path_factory.mktemp("documents"), shards)


@pytest.fixture(scope="session")
def tokenizer(documents, tmp_path_factory):
    return train_tokenizer(documents, vocab_size=300, out=tmp_path_factory.mktemp("tokenizer"))
