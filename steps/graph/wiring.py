"""From the JSON of an experiment to typed arguments, checked before anything runs.

Tango matches JSON to type hints loosely: it ignores `Literal`, takes a string for a list, passes a
step of the wrong kind and a misspelled `key`. Here every value is held against its hint and every
fault is one message with its path in the experiment.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from tango.common.params import Params
from tango.step import Step, StepIndexer, StepResources

from pipeline.core.artifacts import Artifact
from pipeline.core.errors import PipelineError, nearest
from pipeline.core.pins import Pin, pins_used, with_pins
from steps.execution.needs import Needs, num_bytes
from steps.graph.deferred import WithSteps, holds_steps
from steps.graph.hints import bare_hint, hint_members, shown_hint
from steps.graph.hints import inner_hint as inner_hint
from steps.graph.references import WiringError as WiringError
from steps.graph.references import is_reference as is_reference
from steps.graph.references import ordered_names

COMPONENTS: dict[Any, dict[str, type]] = {}  # base -> config name -> class; filled by names.py


def build_steps(
    steps: Mapping[str, Any], pins: Mapping[str, Pin] | None = None
) -> dict[str, Step[Any]]:
    """The steps of an experiment, in an order in which each follows those that it reads.

    Args:
        pins: what the experiment's lock knows of outside data; it enters the keys.

    Raises:
        WiringError: a type, parameter, value or reference is wrong.
    """
    plain = steps.as_dict(quiet=True) if isinstance(steps, Params) else steps
    if not isinstance(plain, Mapping):
        raise WiringError(f"steps is {plain!r}; it must be an object of steps by their names")
    built: dict[str, Step[Any]] = {}
    for name in ordered_names(plain):
        built[name] = _step(name, plain[name], built, pins or {})
    return built


def _step(
    name: str, config: dict[str, Any], built: dict[str, Step[Any]], pins: Mapping[str, Pin]
) -> Step[Any]:
    config = dict(config)
    path = f"steps.{name}"
    kind = config.pop("type")
    if kind not in Step.list_available() or kind == "ref":
        names = [n for n in Step.list_available() if n != "ref"]
        raise WiringError(f"{path}.type is {kind!r}, which is no step type{nearest(kind, names)}")
    cls: Any = Step.resolve_class_name(kind)[0]
    if not hasattr(cls, "UNKEYED"):  # somebody else's step: Tango builds it
        params = Params({"type": kind, **_resolved(config, path, built)})
        other: Step[Any] = Step.from_params(params, step_name=name)
        if other.cache_results:
            raise WiringError(
                f"{path}.type is {kind!r}, whose result cannot be stored: it is no PipelineStep; "
                "with CACHEABLE = False it runs whenever it is asked for"
            )
        return other
    if not cls.CACHEABLE:
        raise WiringError(f"{path}.type is {kind!r}, a PipelineStep that is not CACHEABLE")
    resources = config.pop("step_resources", None)
    metadata = config.pop("step_metadata", None)
    metadata = _value(dict[str, Any] | None, metadata, f"{path}.step_metadata", built)
    needs = _value(Needs, config.pop("needs", {}), f"{path}.needs", built)
    pins = {**pins, **_value(dict[str, Pin], config.pop("pins", {}), f"{path}.pins", built)}
    hints = run_hints(kind, with_ranges=True)
    for each in config:
        if each not in hints:
            raise WiringError(f"{path}.{each}: {kind} has no such parameter{nearest(each, hints)}")
    for each, (_, default) in hints.items():
        if each not in config and default is inspect.Parameter.empty:
            raise WiringError(f"{path}.{each} is missing; {kind} needs it")
    values = {n: _value(hints[n][0], v, f"{path}.{n}", built) for n, v in config.items()}
    try:
        values = with_pins(values, pins)
    except ValueError as error:
        raise WiringError(f"{path}: the lock is not of this experiment: {error}") from error
    original = {"type": kind, **config}
    if used := pins_used(values, pins):  # so that other processes build the same from it
        original["pins"] = used
    step: Step[Any] = cls(step_name=name, step_config=original, step_metadata=metadata, **values)
    step.needs = needs  # type: ignore[attr-defined]
    if resources is not None:
        _set_resources(step, resources, f"{path}.step_resources")
    check: Callable[[str], None] | None = getattr(step, "check", None)
    if check is not None:
        try:
            check(path)
        except ValueError as error:
            raise WiringError(str(error)) from error
    return step


def require_ids(steps: Mapping[str, Step[Any]]) -> None:
    """Raises WiringError where outside data that a step reads cannot be looked at."""
    for name, step in steps.items():
        try:
            step.unique_id  # noqa: B018  it is kept
        except (PipelineError, OSError, ValueError) as error:
            raise WiringError(f"steps.{name}: {error}") from error


def run_hints(kind: Any, with_ranges: bool = False) -> dict[str, tuple[Any, Any]]:
    """Parameter -> type and default of a type of step of ours; nothing for somebody else's.

    Args:
        with_ranges: keep the notes on the types of what values may be.
    """
    if kind == "ref" or kind not in Step.list_available():
        return {}
    cls: Any = Step.resolve_class_name(kind)[0]
    if not hasattr(cls, "UNKEYED"):
        return {}
    parameters = inspect.signature(cls.run).parameters
    hints = typing.get_type_hints(cls.run, include_extras=with_ranges)
    return {n: (hints[n], parameters[n].default) for n in hints if n != "return"}


def _set_resources(step: Step[Any], resources: Any, path: str) -> None:
    found = typing.get_type_hints(StepResources)
    hints = {each.name: found[each.name] for each in dataclasses.fields(StepResources)}
    if not isinstance(resources, dict):
        raise WiringError(f"{path} is {resources!r}; it must be an object")
    for each in resources:
        if each not in hints:
            raise WiringError(f"{path}.{each} is no resource{nearest(each, hints)}")
    values = {n: _value(hints[n], v, f"{path}.{n}", {}) for n, v in resources.items()}
    for each, value in values.items():
        if isinstance(value, (int, float)) and value < 0:
            raise WiringError(f"{path}.{each} is {value}; it must be at least 0")
    step.step_resources = StepResources(**values)
    for each in ("memory", "shared_memory"):
        try:
            num_bytes(values.get(each) or "0")
        except ValueError as error:
            raise WiringError(f"{path}.{each}: {error}") from error


def _resolved(value: Any, path: str, built: dict[str, Step[Any]]) -> Any:
    if is_reference(value):
        step = built[value["ref"]]
        return StepIndexer(step, value["key"]) if "key" in value else step
    if isinstance(value, dict):
        return {n: _resolved(v, f"{path}.{n}", built) for n, v in value.items()}
    if isinstance(value, list):
        return [_resolved(v, f"{path}[{i}]", built) for i, v in enumerate(value)]
    return value


def _value(hint: Any, value: Any, path: str, built: dict[str, Step[Any]]) -> Any:
    """The typed value for a piece of JSON, or WiringError."""
    if is_reference(value):
        return _reference(hint, value, path, built)
    hint = _written_hint(hint)
    members = hint_members(hint)
    if hint in COMPONENTS:
        return _component(COMPONENTS[hint], _with_kind(hint, value), path, built)
    if len(members) > 1:
        return _one_of(members, hint, value, path, built)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        made = _value(args[0], value, path, built)
        for fault in filter(None, (each.fault(made) for each in args[1:])):
            raise WiringError(f"{path} {fault}")
        return made
    if hint is Any:
        return value
    if hint is type(None):
        if value is None:
            return None
    elif origin is Literal:
        if any(type(value) is type(each) and value == each for each in args):
            return value
        options = ", ".join(repr(each) for each in args)
        raise WiringError(f"{path} is {value!r}; it must be one of {options}")
    elif origin in (list, tuple) or origin is typing.get_origin(typing.Sequence[int]):
        if isinstance(value, list):
            return _sequence(origin, args, value, path, built)
    elif origin is dict or hint is dict:
        if isinstance(value, dict):
            inner = args[1] if args else Any
            return {n: _value(inner, v, f"{path}.{n}", built) for n, v in value.items()}
    elif _is_artifact(hint):
        raise WiringError(
            f"{path} is {value!r}; it must be a reference to a step that makes {shown_hint(hint)}"
        )
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _component({shown_hint(hint): hint}, value, path, built, named=False)
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and value.is_integer():
            return int(value)
    elif isinstance(hint, type) and isinstance(value, hint):
        return value
    raise WiringError(f"{path} is {value!r}; it must be of type {shown_hint(hint)}")


def _sequence(
    origin: Any, args: tuple[Any, ...], value: list[Any], path: str, built: dict[str, Step[Any]]
) -> Any:
    if origin is tuple and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise WiringError(f"{path} has {len(value)} items; it must have {len(args)}")
        return tuple(
            _value(h, v, f"{path}[{i}]", built)
            for i, (h, v) in enumerate(zip(args, value, strict=True))
        )
    items = [_value(args[0], v, f"{path}[{i}]", built) for i, v in enumerate(value)]
    return tuple(items) if origin is tuple else items


def _one_of(
    members: tuple[Any, ...], hint: Any, value: Any, path: str, built: dict[str, Step[Any]]
) -> Any:
    if value is None and type(None) in members:
        return None
    kinds = [each for each in members if each is not type(None)]
    if isinstance(value, dict) and all(dataclasses.is_dataclass(each) for each in kinds):
        _require_type(kinds, value, path)
        return _value(_closest(kinds, value), value, path, built)
    if len(kinds) == 1:
        try:
            return _value(kinds[0], value, path, built)
        except WiringError as fault:
            if str(fault).startswith(f"{path} is {value!r}; it must be "):  # and nothing within it
                raise WiringError(f"{fault}, or null") from fault
            raise
    lists = [each for each in kinds if typing.get_origin(bare_hint(each)) is list]
    if isinstance(value, list) and len(lists) == 1:
        return _value(lists[0], value, path, built)
    for each in kinds:
        try:
            return _value(each, value, path, built)
        except WiringError:
            continue
    raise WiringError(f"{path} is {value!r}; it must be of type {shown_hint(hint)}")


def _require_type(kinds: list[Any], value: dict[str, Any], path: str) -> None:
    """These are told apart by their fields; whoever writes a type too must write a right one."""
    names = [each.__name__.lower() for each in kinds]
    if "type" in value and str(value["type"]).lower() not in names:
        raise WiringError(
            f"{path}.type is {value['type']!r}, which is not known{nearest(value['type'], names)}"
        )


def _closest(kinds: list[Any], value: dict[str, Any]) -> Any:
    """The one that is named, or the one whose fields share most with what was written."""
    for each in kinds:
        if str(value.get("type")).lower() == each.__name__.lower():
            return each

    def shared(kind: Any) -> int:
        names = [f.name for f in dataclasses.fields(kind)]
        required = [
            f.name
            for f in dataclasses.fields(kind)
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        close = sum(bool(difflib.get_close_matches(n, names, 1)) for n in value)
        return 2 * sum(n in names for n in value) + close + 4 * all(n in value for n in required)

    return max(kinds, key=shared)


def described(hint: Any, value: Any) -> Any:
    """The class of the component that a piece of JSON describes; None where it is no component."""
    if is_reference(value) or not isinstance(value, (dict, str)):
        return None
    hint = _written_hint(hint)
    if hint in COMPONENTS:
        value = _with_kind(hint, value)
        return COMPONENTS[hint].get(str(value if isinstance(value, str) else value.get("type")))
    kinds: list[Any] = [each for each in hint_members(hint) if dataclasses.is_dataclass(each)]
    kinds = [each for each in kinds if not issubclass(each, Artifact)]
    if isinstance(value, str):
        return next((each for each in kinds if hasattr(each, "FROM_TEXT")), None)
    return _closest(kinds, value) if kinds else None


def component(hint: Any, value: Any, path: str) -> Any:
    """The component that a piece of JSON describes, built; it holds no reference to a step.

    Raises:
        WiringError: a type, field or value is wrong.
    """
    return _value(hint, value, path, {})


def _written_hint(hint: Any) -> Any:
    """What is written in the place of a component or an artifact: the component."""
    kinds = [each for each in hint_members(hint) if not _is_artifact(each)]
    return kinds[0] if len(kinds) == 1 and kinds[0] in COMPONENTS else hint


def _is_artifact(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Artifact)


def _with_kind(hint: Any, value: Any) -> Any:
    """A component that is not named, where the base is one itself, is of the base."""
    if isinstance(value, dict) and "type" not in value:
        own = [name for name, cls in COMPONENTS[hint].items() if cls is hint]
        return {"type": own[0], **value} if own else value
    return value


def _component(
    classes: dict[str, type], value: Any, path: str, built: dict[str, Step[Any]], named: bool = True
) -> Any:
    only = "" if named else getattr(next(iter(classes.values())), "FROM_TEXT", "")
    as_text = isinstance(value, str)
    if as_text and (named or only):
        value = {only or "type": value}
    if not isinstance(value, dict):
        options = " or ".join(sorted(classes))
        raise WiringError(f"{path} is {value!r}; it must be an object ({options})")
    value = dict(value)
    if named:
        if "type" not in value:
            raise WiringError(f"{path}.type is missing{nearest('', classes)}")
        kind = value.pop("type")
        if not isinstance(kind, str) or kind not in classes:
            raise WiringError(
                f"{path}.type is {kind!r}, which is not known{nearest(kind, classes)}"
            )
        cls = classes[kind]
    else:
        (kind, cls), *_ = classes.items()
        _require_type([cls], value, path)
        value.pop("type", None)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for each in value:
        if each not in fields:
            raise WiringError(f"{path}.{each}: {kind} has no such field{nearest(each, fields)}")
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in value:
            raise WiringError(f"{path}.{name} is missing; {kind} needs it")
    values = {n: _value(hints[n], v, f"{path}.{n}", built) for n, v in value.items()}
    try:
        made = cls(**values)
    except ValueError as error:
        subject, _, fault = str(error).partition(" ")  # `at_least is 5; it must be ...`
        if as_text and subject == only:
            raise WiringError(f"{path} {fault}") from error
        raise WiringError(f"{path}{'.' if subject in fields else ': '}{error}") from error
    return WithSteps(made) if holds_steps(values) else made


def _reference(hint: Any, value: dict[str, Any], path: str, built: dict[str, Step[Any]]) -> Any:
    step = built[value["ref"]]
    extra = set(value) - {"type", "ref", "key"}
    if extra:
        raise WiringError(f"{path}.{min(extra)}: a reference has nothing but ref")
    made = made_by(step)
    if "key" in value:
        name = made.__name__ if made else "its result"
        raise WiringError(f"{path}.key is {value['key']!r}; {name} has no keys: leave it out")
    artifacts = [each for each in hint_members(hint) if _is_artifact(each)]
    if hint is not Any and (
        not artifacts or made is None or not issubclass(made, tuple(artifacts))
    ):
        name = made.__name__ if made else "something unknown"
        raise WiringError(
            f"{path} is the step {value['ref']!r}, which makes {name}; "
            f"it must be {shown_hint(hint)}"
        )
    return step


def made_by(step: Step[Any]) -> type[Artifact] | None:
    """The artifact that a step says it returns."""
    returned = typing.get_type_hints(type(step).run).get("return")
    return returned if isinstance(returned, type) and issubclass(returned, Artifact) else None
