import json

import pytest

from pipeline.core.artifacts import Documents, SourceCount
from pipeline.core.shards import write_shard
from pipeline.data.document import DOCUMENT_SCHEMA
from pipeline.tokens.tokenizer import train_tokenizer
from tests.model.fakes import tiny_model, write_checkpoints

WORDS = "the quick brown fox jumps over a lazy dog while él niño runs home again at dawn".split()


def write_documents(root, texts, metadata=None, source="words"):
    rows = {name: [""] * len(texts) for name in DOCUMENT_SCHEMA.names}
    rows["id"] = [f"d{place}" for place in range(len(texts))]
    rows["text"] = list(texts)
    rows["source"] = [source] * len(texts)
    rows["metadata"] = [json.dumps(each) for each in metadata or [{}] * len(texts)]
    num_bytes = sum(len(text.encode()) for text in texts)
    return Documents.of(
        root,
        num_documents=len(texts),
        num_text_bytes=num_bytes,
        sources=[SourceCount(source, "MIT", "here", len(texts), num_bytes)],
        shards=[write_shard(root, "00000.parquet", rows, DOCUMENT_SCHEMA)],
    )


def sentence(number, length):
    return " ".join(WORDS[(number * 7 + k * (1 + number % 3)) % len(WORDS)] for k in range(length))


def conversations(count):
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {number}?"},
                {"role": "assistant", "content": sentence(number, 3 + number % 5)},
            ]
        }
        for number in range(count)
    ]


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    texts = [sentence(number, 1 + number * 9 % 50) for number in range(24)]
    return write_documents(tmp_path_factory.mktemp("documents"), [*texts, ""])


@pytest.fixture(scope="session")
def tokenizer(documents, tmp_path_factory):
    return train_tokenizer(documents, vocab_size=300, out=tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def checkpoints(tokenizer, tmp_path_factory):
    models = [tiny_model(0), tiny_model(1)]
    return write_checkpoints(tmp_path_factory.mktemp("workspace"), models, tokenizer.content)
