"""A record of somebody else's file becomes a Document, or says what it lacks."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection, Mapping
from typing import Any, Literal

from pipeline.core.errors import nearest
from pipeline.data.document import ROLES, Document, Message, json_text

Conversations = Literal["messages", "preferences"]
FIELDS = ("id", "text", "added", "created", "metadata")
JSON_KINDS = {"NoneType": "null", "str": "a text", "int": "a number", "float": "a number"}
JSON_KINDS |= {"bool": "true or false", "list": "a list"}


def as_document(
    row: Any,
    source: str,
    fields: Mapping[str, str],
    name: str | None = None,
    conversations: Conversations | None = None,
    leave_out: Collection[str] = (),
) -> Document:
    """The document in a record; what is not a field of its own goes into the metadata.

    A record's own `source` is not kept unless it is another field. A URL that is the id stays in
    the metadata, where repeated URLs are looked for.

    Args:
        leave_out: names that are not kept in the metadata.

    Raises:
        ValueError: the record is no object, lacks its id or text, or has one of a wrong type.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"is {_kind_of(row)}; it must be an object")
    rest = with_conversation(row, conversations) if conversations else dict(row)
    theirs = [fields.get(each, each) for each in FIELDS] if fields else FIELDS
    id, text, added, created, metadata = map(rest.get, theirs)
    for each in (*theirs, "source", *leave_out):
        if each in rest:
            del rest[each]
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
        raise ValueError(f"'metadata' is {_kind_of(metadata)}; it must be an object")
    if leave_out:
        metadata = {name: value for name, value in metadata.items() if name not in leave_out}
    if rest and (both := sorted(metadata.keys() & rest.keys())):
        raise ValueError(f"{both[0]!r} stands in the record and in its metadata")
    if fields.get("id") == "url" and "url" not in (*metadata, *leave_out):
        rest["url"] = row.get("url")
    told = _told(metadata, rest) if metadata or rest else "{}"
    return Document(id, text, source, added, created, told)


def excerpt_of(row: Any) -> str:
    """The beginnings of a record's values, in some 1,000 characters at most."""
    return _SHORT.repr(row)[:1000]


class _Short(reprlib.Repr):
    """Short forms; those of texts and bytes are cut before they are made."""

    def __init__(self) -> None:
        super().__init__()
        self.maxdict, self.maxlevel, self.maxstring = 12, 3, 80

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value[: self.maxstring])


_SHORT = _Short()


def _told(metadata: Mapping[str, Any], rest: Mapping[str, Any]) -> str:
    """The JSON text of what goes into the metadata; names the value that has none."""
    try:
        try:
            told = json_text({**metadata, **rest})
            require_text(told, "metadata")
            return told
        except (TypeError, ValueError) as error:
            for above, values in (("metadata.", metadata), ("", rest)):
                for name, value in values.items():
                    _require_json(value, f"{above}{name}", name)
            raise ValueError(f"'metadata' has no JSON form ({error})") from error
    except RecursionError:
        raise ValueError("'metadata' has no JSON form (nested too deep)") from None


def _require_json(value: Any, path: str, name: str) -> None:
    """Raises ValueError for the first value at or below a path that has no JSON form.

    Args:
        name: by which `leave_out` leaves it out.
    """
    if isinstance(value, str):
        require_text(value, path)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            require_text(str(key), f"{path}.{key}")
            _require_json(each, f"{path}.{key}", name)
    elif isinstance(value, (list, tuple)):
        for place, each in enumerate(value):
            _require_json(each, f"{path}[{place}]", name)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path!r} is {value}, which has no JSON form{_advice(name)}")
    else:
        try:
            json_text(value)
        except TypeError as error:
            raise ValueError(f"{path!r} is {_SHORT.repr(value)}; {error}{_advice(name)}") from None


def _advice(name: str) -> str:
    return f"; leave_out: [{name!r}] leaves it out"


def _kind_of(value: Any) -> str:
    kind = type(value).__name__
    return JSON_KINDS.get(kind, f"a {kind}")


def _text(value: Any, name: str, fields: Mapping[str, str]) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{fields.get(name, name)!r} is {_SHORT.repr(value)}; it must be text")
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


def check_fields(fields: Mapping[str, str], leave_out: Collection[str]) -> None:
    """Raises ValueError for a name that is none of a document's own, or left out and needed."""
    for each in fields:
        if each not in FIELDS:
            raise ValueError(f"fields has {each!r}{nearest(each, FIELDS)}")
    read = {fields.get(own, own): own for own in FIELDS}
    for each in leave_out:
        if each in read and each != "url":  # which is the id, and in the metadata too
            raise ValueError(f"leave_out has {each!r}, which is read as {read[each]!r}")
