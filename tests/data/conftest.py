"""Documents made of lists of texts."""

import json

import pytest

from pipeline.core.artifacts import Attributes, AttributeTable, Documents, SourceCount
from pipeline.core.shards import read_shard, shard_name, write_shard
from pipeline.data.document import DOCUMENT_SCHEMA, Document, as_columns, attribute_schema


def make_documents(root, shards, source="s", metadata=None):
    """One shard a list of texts; `metadata` maps a text to its metadata."""
    made, size = [], 0
    for number, texts in enumerate(shards):
        rows = [
            Document(
                f"{number}-{place}",
                text,
                source,
                metadata=json.dumps((metadata or {}).get(text, {})),
            )
            for place, text in enumerate(texts)
        ]
        size += sum(len(text.encode()) for text in texts)
        made.append(write_shard(root, shard_name(number), as_columns(rows), DOCUMENT_SCHEMA))
    count = sum(map(len, shards))
    return Documents.of(
        root,
        num_documents=count,
        num_text_bytes=size,
        sources=[SourceCount(source, "MIT", "here", count, size)],
        shards=made,
    )


def make_attributes(root, documents, name, columns, rows):
    """A table over documents; `rows` is a list of rows a shard."""
    schema = attribute_schema(columns)
    shards = [
        write_shard(
            root,
            f"{name}/{shard_name(number)}",
            {c: [row[c] for row in each] for c in columns},
            schema,
        )
        for number, each in enumerate(rows)
    ]
    table = AttributeTable(name, columns, shards)
    return Attributes.of(root, describes=documents.content, tables=[table])


def column(artifact, name):
    """The values of a column over all shards."""
    shards = artifact.tables[0].shards if isinstance(artifact, Attributes) else artifact.shards
    return [
        value
        for shard in shards
        for value in read_shard(artifact.root, shard).column(name).to_pylist()
    ]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
