"""A record of somebody else's file becomes a Document, or says what it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pipeline.core.errors import nearest
from pipeline.data.document import DOCUMENT_SCHEMA, ROLES, Document, Message, json_text

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
    id, text, added, created, metadata = [rest.pop(fields.get(n, n), None) for n in FIELDS]
    if name is not None:
        id = name
    for value, each in ((id, "id"), (text, "text")):
        if value is None:
            raise ValueError(f"has no {fields.get(each, each)!r}")
    id, text = _text(id, "id", fields), _text(text, "text", fields)
    added = "" if added is None else _date(added, "added", fields)
    created = "" if created is None else _date(created, "created", fields)
    if not id:
        raise ValueError("'id' is empty")
    if metadata is None:
        metadata = {}
    elif not isinstance(metadata, Mapping):
        raise ValueError(f"'metadata' is a {type(metadata).__name__}; it must be an object")
    if rest and (both := sorted(metadata.keys() & rest.keys())):
        raise ValueError(f"{both[0]!r} stands in the record and in its metadata")
    try:
        told = json_text({**metadata, **rest}) if metadata or rest else "{}"
        require_text(told, "metadata")
    except (TypeError, ValueError) as error:
        raise ValueError(f"'metadata' has no JSON form ({error})") from error
    except RecursionError:
        raise ValueError("'metadata' has no JSON form (nested too deep)") from None
    return Document(id, text, source, added, created, told)


def _text(value: Any, name: str, fields: Mapping[str, str]) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{fields.get(name, name)!r} is {value!r}; it must be text")
    require_text(value, fields.get(name, name))
    return value


def _date(value: Any, name: str, fields: Mapping[str, str]) -> str:
    return _text(value.isoformat() if hasattr(value, "isoformat") else value, name, fields)


def with_conversation(row: Mapping[str, Any], kind: Conversations) -> dict[str, Any]:
    """The record with a text of all that is said in it, and a preference in our own form.

    Ours: `prompt` is a list of messages, `chosen` and `rejected` are the answers alone. Theirs may
    be conversations, which then differ in their last message only: the turns before it, all of
    them, are the prompt, whether or not the record has them, or one of them, as `prompt` too.

    Raises:
        ValueError: it has no such conversation.
    """
    made = dict(row)
    if kind == "messages":
        made["text"] = "\n\n".join(each["content"] for each in _messages(row, "messages"))
        return made
    before: dict[str, list[Message]] = {}
    answers: dict[str, str] = {}
    for side in ("chosen", "rejected"):
        if isinstance(row.get(side), str):
            before[side], answers[side] = [], row[side]
            continue
        *before[side], answer = _messages(row, side)
        if answer["role"] != "assistant":
            raise ValueError(f"the last message of {side!r} is of role {answer['role']!r}")
        answers[side] = answer["content"]
    if before["chosen"] != before["rejected"]:
        raise ValueError("'chosen' and 'rejected' differ before their last messages")
    prompt = _prompt(row, before["chosen"])
    said = [*(each["content"] for each in prompt), *answers.values()]
    return {**made, "prompt": prompt, **answers, "text": "\n\n".join(said)}


def _prompt(row: Mapping[str, Any], turns: list[Message]) -> list[Message]:
    """The messages before the answers: the turns of the conversations, else the prompt itself."""
    prompt = row.get("prompt")
    if isinstance(prompt, str) and turns:
        if prompt.strip() not in (each["content"].strip() for each in turns):
            raise ValueError("'prompt' is no message of 'chosen'")
        return turns
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if prompt is None and turns:
        return turns
    messages = _messages(row, "prompt")
    if turns and turns != messages:
        raise ValueError("'prompt' and the messages of 'chosen' before the last differ")
    return messages


def _messages(row: Mapping[str, Any], name: str) -> list[Message]:
    """A list of messages, each with no more than its role and content."""
    given = row.get(name)
    if not isinstance(given, (list, tuple)) or not given:
        raise ValueError(f"{name!r} is {str(given)[:60]!r}; it must be a list of messages")
    made = []
    for place, each in enumerate(given):
        role = each.get("role") if isinstance(each, Mapping) else None
        if role not in ROLES:
            raise ValueError(
                f"role of message {place} of {name!r} is {role!r}; it must be one of "
                f"{', '.join(ROLES)}"
            )
        if not isinstance(each.get("content"), str):
            raise ValueError(f"content of message {place} of {name!r} is not text")
        made.append({"role": role, "content": each["content"]})
    return made


def require_text(value: str, name: str) -> None:
    """Raises ValueError for half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    if value.isascii():
        return
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name!r} has half a surrogate pair at {error.start}") from None


def check_fields(fields: Mapping[str, str]) -> None:
    """Raises ValueError for a name that is none of a document's own."""
    for each in fields:
        if each not in FIELDS:
            raise ValueError(f"fields has {each!r}{nearest(each, DOCUMENT_SCHEMA.names)}")
