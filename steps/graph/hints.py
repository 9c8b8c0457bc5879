"""Reading type hints: what they hold, what they may be, and how they are told to a person."""

from __future__ import annotations

import types
import typing
from typing import Annotated, Any


def inner_hint(hint: Any, kind: type) -> Any:
    """The type of what a list (or, by `kind`, a dict) of this type holds."""
    for each in hint_members(hint):
        origin, args = typing.get_origin(each), typing.get_args(each)
        if args and isinstance(origin, type) and issubclass(origin, dict) == (kind is dict):
            return args[-1] if kind is dict else args[0]
    return Any


def shown_hint(hint: Any) -> str:
    """As an author of an experiment would say it."""
    hint = bare_hint(hint)
    if hint is type(None):
        return "null"
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return hint.__name__
    members = hint_members(hint)
    if len(members) > 1:
        return " | ".join(shown_hint(each) for each in members)
    origin = typing.get_origin(hint)
    if origin in (list, dict, tuple):
        inside = ("..." if each is Ellipsis else shown_hint(each) for each in typing.get_args(hint))
        return f"{origin.__name__}[{', '.join(inside)}]"
    return str(hint).replace("typing.", "")


def bare_hint(hint: Any) -> Any:
    """A hint without the notes on what values may be."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def hint_members(hint: Any) -> tuple[Any, ...]:
    """The types that a value may be of."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)
