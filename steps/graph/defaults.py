"""The arguments of a key that a person chose: those that are not the defaults of their step."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from typing import Any

from tango.step import Step

from pipeline.core.keys import Json, canonical
from steps.graph.wiring import COMPONENTS, inner_hint, run_hints


def chosen_arguments(step: str, args: dict[str, Json]) -> dict[str, Json]:
    """Arguments that differ from the defaults of a step of that class, and so inside components.

    Those of a class that is not known any more are given as they are.
    """
    kinds = (name for name in Step.list_available() if name != "ref")
    kind = next((n for n in kinds if Step.resolve_class_name(n)[0].__name__ == step), None)
    hints = run_hints(kind)
    found = {}
    for name, value in args.items():
        hint, default = hints.get(name, (Any, inspect.Parameter.empty))
        if default is inspect.Parameter.empty or _canonical(default) != value:
            found[name] = _chosen(hint, value)
    return found


def _chosen(hint: Any, value: Json) -> Json:
    if isinstance(value, list):
        return [_chosen(inner_hint(hint, list), each) for each in value]
    if not isinstance(value, dict):
        return value
    cls = _class_of(hint, value)
    if cls is None:
        return {n: _chosen(inner_hint(hint, dict), each) for n, each in value.items()}
    hints = typing.get_type_hints(cls)
    defaults = {each.name: _default(each) for each in dataclasses.fields(cls)}
    return {
        name: _chosen(hints.get(name, Any), each)
        for name, each in value.items()
        if name not in defaults or defaults[name] != (each,)
    }


def _class_of(hint: Any, value: dict[str, Json]) -> Any:
    """The dataclass that a canonical form is of, among those that may stand in its place."""
    members = [hint, *typing.get_args(hint)]
    classes = [each for member in members for each in COMPONENTS.get(member, {}).values()]
    classes += [each for each in members if isinstance(each, type)]
    return next((each for each in classes if each.__name__ == value.get("is")), None)


def _default(field: dataclasses.Field[Any]) -> tuple[Json, ...]:
    """The default of a field in a tuple; an empty one where it has none."""
    if field.default is not dataclasses.MISSING:
        return (_canonical(field.default),)
    if field.default_factory is not dataclasses.MISSING:
        return (_canonical(field.default_factory()),)
    return ()


def _canonical(value: Any) -> Json:
    try:
        return canonical(value)
    except ValueError:  # what has no canonical form stands in no key
        return None
