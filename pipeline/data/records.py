"""A record of somebody else's file becomes a Document, or says what it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pipeline.core.errors import nearest
from pipeline.data.document import DOCUMENT_SCHEMA, Document, json_text

Conversations = Literal["messages", "preferences"]
FIELDS = ("id", "text", "added", "created", "metadata")


def as_document(
    row: Any,
    source: str,
    fields: Mapping[str, str],
    name: str | None = None,
    conversations: Conversations | None = None,
) -> Document:
    """The document in a record; what is not a field of its own goes into the metadata.

    Raises:
        ValueError: the record is no object, lacks its id or text, or has one of a wrong type.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"is a {type(row).__name__}; it must be an object")
    rest = with_conversation(row, conversations) if conversations else dict(row)
    rest.pop("source", None)
    values = {each: rest.pop(fields.get(each, each), None) for each in FIELDS}
    if name is not None:
        values["id"] = name
    for each in ("id", "text"):
        if values[each] is None:
            raise ValueError(f"has no {fields.get(each, each)!r}")
    for each in ("id", "text", "added", "created"):
        value = values[each] if values[each] is not None else ""
        if each not in ("id", "text") and hasattr(value, "isoformat"):
            value = value.isoformat()
        if not isinstance(value, str):
            raise ValueError(f"{fields.get(each, each)!r} is {value!r}; it must be text")
        require_text(value, fields.get(each, each))
        values[each] = value
    if not values["id"]:
        raise ValueError("'id' is empty")
    metadata = values["metadata"] if values["metadata"] is not None else {}
    if not isinstance(metadata, Mapping):
        raise ValueError(f"'metadata' is a {type(metadata).__name__}; it must be an object")
    if both := sorted(metadata.keys() & rest.keys()):
        raise ValueError(f"{both[0]!r} stands in the record and in its metadata")
    try:
        text = json_text({**metadata, **rest})
        require_text(text, "metadata")
    except (TypeError, ValueError) as error:
        raise ValueError(f"'metadata' has no JSON form ({error})") from error
    return Document(values["id"], values["text"], source, values["added"], values["created"], text)


def with_conversation(row: Mapping[str, Any], kind: Conversations) -> dict[str, Any]:
    """The record with a text of all that is said in it, and a preference in our own form.

    Ours: `prompt` is a list of messages, `chosen` and `rejected` are the answers alone.

    Raises:
        ValueError: it has no such conversation.
    """
    made = dict(row)
    try:
        if kind == "messages":
            made["text"] = "\n\n".join(each["content"] for each in made["messages"])
            return made
        prompt = made["prompt"]
        if isinstance(prompt, str):
            made["prompt"] = [{"role": "user", "content": prompt}]
        for side in ("chosen", "rejected"):
            if not isinstance(made[side], str):
                made[side] = made[side][-1]["content"]
        said = [*(each["content"] for each in made["prompt"]), made["chosen"], made["rejected"]]
        made["text"] = "\n\n".join(said)
    except (KeyError, TypeError, IndexError) as error:
        missing = f"{type(error).__name__}: {error}"
        raise ValueError(f"has no conversation of kind {kind!r} ({missing})") from error
    return made


def require_text(value: str, name: str) -> None:
    """Raises ValueError for half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name!r} has half a surrogate pair at {error.start}") from None


def check_fields(fields: Mapping[str, str]) -> None:
    """Raises ValueError for a name that is none of a document's own."""
    for each in fields:
        if each not in FIELDS:
            raise ValueError(f"fields has {each!r}{nearest(each, DOCUMENT_SCHEMA.names)}")
