"""The row every text stage reads and writes, and the writer that cuts rows into shards."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

import pyarrow as pa

from pipeline.core.files import Shard
from pipeline.core.shards import ShardWriter

DOCUMENT_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "text", "source", "added", "created", "metadata")]
)
SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("score", pa.float64())])
Message = dict[str, str]  # role and content
ROLES = ("system", "user", "assistant")
BATCH_BYTES = 4 << 20  # text held before it is written
BATCH_ROWS = 1024


class Document(NamedTuple):
    """One text; `metadata` is the JSON text of an object.

    Source: allenai/dolma, `docs/data-format.md`; there metadata is a nested object.
    """

    id: str
    text: str
    source: str
    added: str = ""
    created: str = ""
    metadata: str = "{}"


@dataclass(frozen=True)
class MetadataField:
    """A value of documents' metadata, by the name `metadata.<name>`."""

    name: str

    VERSION: ClassVar[str] = "001"
    FROM_TEXT: ClassVar[str] = "name"  # a plain string in an experiment stands for it

    def __post_init__(self) -> None:
        if not self.name.removeprefix("metadata.") or not self.name.startswith("metadata."):
            raise ValueError(f"name is {self.name!r}; it must be metadata.<name>")

    def of(self, metadata: str | None) -> str:
        """The value in a document's metadata; what is no text is its JSON text.

        Raises:
            ValueError: the document has no such value.
        """
        held = json.loads(metadata or "{}")
        value = held.get(self.name.removeprefix("metadata.")) if isinstance(held, dict) else None
        if value is None:
            raise ValueError(f"has no {self.name}")
        return value if isinstance(value, str) else json_text(value)


def attribute_schema(columns: Mapping[str, str]) -> pa.Schema:
    """The Parquet columns of an attribute table, from the kinds its manifest gives."""
    kinds = {"number": pa.float64(), "spans": pa.list_(SPAN)}
    return pa.schema([(name, kinds[kind]) for name, kind in columns.items()])


def json_text(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, characters as they are.

    Dates and times are in ISO 8601, decimals and UUIDs as their text, bytes in base64, and a
    duration is its seconds.

    Raises:
        ValueError: it holds NaN or an infinity, which JSON has no form for.
        TypeError: it holds something else that has none.
    """
    return _JSON.encode(value)


def _plain(value: Any) -> str | float:
    """The JSON form of what a column of a table may hold beside JSON's own types."""
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    raise TypeError(f"a {type(value).__name__} has no JSON form")


_JSON = json.JSONEncoder(
    ensure_ascii=False,
    sort_keys=True,
    separators=(",", ":"),
    allow_nan=False,
    default=_plain,
)


def write_documents(
    documents: Iterable[Document], out: Path, prefix: str, shard_bytes: int
) -> tuple[list[Shard], int]:
    """Write documents to shards `<prefix>00000.parquet` and on, and count the bytes of their text.

    A shard ends with the document that brings it to `shard_bytes` of text; memory stays flat.
    """
    shards: list[Shard] = []
    total = 0
    rest = iter(documents)
    while (first := next(rest, None)) is not None:
        path = f"{prefix}{len(shards):05d}.parquet"
        with ShardWriter(out, path, DOCUMENT_SCHEMA) as writer:
            size, batch, held = 0, [first], _num_bytes(first.text)
            while size + held < shard_bytes and (following := next(rest, None)) is not None:
                batch.append(following)
                held += _num_bytes(following.text)
                if held >= BATCH_BYTES or len(batch) >= BATCH_ROWS:
                    writer.write(as_columns(batch))
                    size, held, batch = size + held, 0, []
            writer.write(as_columns(batch))
            total += size + held
        shards.append(writer.shard)
    return shards, total


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def as_columns(documents: Iterable[Document]) -> dict[str, list[Any]]:
    """Rows as columns in the order of the schema."""
    columns = list(zip(*documents, strict=True)) or [()] * len(DOCUMENT_SCHEMA)
    return {name: list(column) for name, column in zip(DOCUMENT_SCHEMA.names, columns, strict=True)}
