"""From the JSON of an experiment to typed arguments, checked before anything runs.

Tango matches JSON to type hints loosely: it ignores `Literal`, takes a string for a list, passes a
step of the wrong kind and a misspelled `key`. Here every value is held against its hint and every
fault is one message with its path in the experiment.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
import typing
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from tango.common.exceptions import CliRunError
from tango.common.params import Params
from tango.step import Step, StepIndexer, StepResources

from pipeline.core.artifacts import Artifact
from pipeline.core.errors import nearest
from pipeline.core.pins import Pin, pins_used, with_pins
from steps.needs import Needs, num_bytes

UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # controls, directions, line ends, nothing
COMPONENTS: dict[Any, dict[str, type]] = {}  # base -> config name -> class; filled by names.py


class WiringError(CliRunError):
    """The experiment is not one that can run; the message is for its author."""


def build_steps(
    steps: Mapping[str, Any], pins: Mapping[str, Pin] | None = None
) -> dict[str, Step[Any]]:
    """The steps of an experiment, in an order in which each follows those that it reads.

    Args:
        pins: what the experiment's lock knows of outside data; it enters the keys.

    Raises:
        WiringError: a type, parameter, value or reference is wrong.
    """
    plain = steps.as_dict(quiet=True) if isinstance(steps, Params) else dict(steps)
    built: dict[str, Step[Any]] = {}
    for name in _ordered(plain):
        built[name] = _step(name, plain[name], built, pins or {})
    return built


def _ordered(steps: dict[str, Any]) -> list[str]:
    needs = {}
    for name, config in steps.items():
        _require_name(name)
        if not isinstance(config, dict):
            raise WiringError(f"steps.{name} is {config!r}; it must be an object with a type")
    for name, config in steps.items():
        needs[name] = dict(_references(config, f"steps.{name}"))
        for path, target in needs[name].items():
            if target not in steps:
                raise WiringError(
                    f"{path}.ref is {target!r}, which is no step{nearest(target, steps)}"
                )
    done: list[str] = []
    left = list(steps)
    while left:
        ready = [name for name in left if set(needs[name].values()) <= set(done)]
        if not ready:
            raise WiringError(f"steps {', '.join(sorted(left))} wait for each other in a circle")
        done += ready
        left = [name for name in left if name not in ready]
    return done


def _require_name(name: str) -> None:
    """A name is seen in terminals, and is the name of files: no path, no controls, no markup."""
    odd = [each for each in name if unicodedata.category(each) in UNSEEN or each in "/\\[]"]
    if odd or not name.strip() or name.startswith("."):
        shown = ascii(name if len(name) < 60 else name[:60] + "...")
        raise WiringError(
            f"steps has {shown}, which cannot be the name of a step; it must have characters that "
            "can be seen, begin with no dot, and have no slash, backslash or square bracket"
        )


def is_reference(value: Any) -> bool:
    """Whether a piece of JSON stands for the result of a step."""
    return isinstance(value, dict) and "ref" in value and value.get("type", "ref") == "ref"


def _references(value: Any, path: str) -> Iterable[tuple[str, str]]:
    if is_reference(value):
        yield path, value["ref"]
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _references(item, f"{path}.{name}")
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _references(item, f"{path}[{place}]")


def _step(
    name: str, config: dict[str, Any], built: dict[str, Step[Any]], pins: Mapping[str, Pin]
) -> Step[Any]:
    config = dict(config)
    path = f"steps.{name}"
    kind = config.pop("type", None)
    if kind not in Step.list_available() or kind == "ref":
        names = [n for n in Step.list_available() if n != "ref"]
        raise WiringError(f"{path}.type is {kind!r}, which is no step type{nearest(kind, names)}")
    cls: Any = Step.resolve_class_name(kind)[0]
    if not hasattr(cls, "UNKEYED"):  # somebody else's step: Tango builds it
        params = Params({"type": kind, **_resolved(config, path, built)})
        return Step.from_params(params, step_name=name)
    resources = config.pop("step_resources", None)
    metadata = config.pop("step_metadata", None)
    needs = _value(Needs, config.pop("needs", {}), f"{path}.needs", built)
    pins = {**pins, **_value(dict[str, Pin], config.pop("pins", {}), f"{path}.pins", built)}
    hints = run_hints(kind)
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


def run_hints(kind: Any) -> dict[str, tuple[Any, Any]]:
    """Parameter -> type and default of a type of step of ours; nothing for somebody else's."""
    if kind == "ref" or kind not in Step.list_available():
        return {}
    cls: Any = Step.resolve_class_name(kind)[0]
    if not hasattr(cls, "UNKEYED"):
        return {}
    parameters = inspect.signature(cls.run).parameters
    hints = typing.get_type_hints(cls.run)
    return {n: (hints[n], parameters[n].default) for n in hints if n != "return"}


def inner_hint(hint: Any, kind: type) -> Any:
    """The type of what a list (or, by `kind`, a dict) of this type holds."""
    for each in _members(hint):
        origin, args = typing.get_origin(each), typing.get_args(each)
        if args and isinstance(origin, type) and issubclass(origin, dict) == (kind is dict):
            return args[-1] if kind is dict else args[0]
    return Any


def _set_resources(step: Step[Any], resources: Any, path: str) -> None:
    names = [field.name for field in dataclasses.fields(StepResources)]
    if not isinstance(resources, dict):
        raise WiringError(f"{path} is {resources!r}; it must be an object")
    for each in resources:
        if each not in names:
            raise WiringError(f"{path}.{each} is no resource{nearest(each, names)}")
    step.step_resources = StepResources(**resources)
    try:
        num_bytes(step.step_resources.memory or "0")
    except ValueError as error:
        raise WiringError(f"{path}.memory: {error}") from error


def _resolved(value: Any, path: str, built: dict[str, Step[Any]]) -> Any:
    if is_reference(value):
        step = built[value["ref"]]
        return StepIndexer(step, value["key"]) if "key" in value else step
    if isinstance(value, dict):
        return {n: _resolved(v, f"{path}.{n}", built) for n, v in value.items()}
    if isinstance(value, list):
        return [_resolved(v, f"{path}[{i}]", built) for i, v in enumerate(value)]
    return value


def _shown(hint: Any) -> str:
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return hint.__name__
    return str(hint).replace("typing.", "").replace("NoneType", "null")


def _members(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _value(hint: Any, value: Any, path: str, built: dict[str, Step[Any]]) -> Any:
    """The typed value for a piece of JSON, or WiringError."""
    if is_reference(value):
        return _reference(hint, value, path, built)
    members = _members(hint)
    if hint in COMPONENTS:
        return _component(COMPONENTS[hint], value, path, built)
    if len(members) > 1:
        return _one_of(members, hint, value, path, built)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
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
    elif isinstance(hint, type) and issubclass(hint, Artifact):
        raise WiringError(
            f"{path} is {value!r}; it must be a reference to a step that makes {_shown(hint)}"
        )
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, str) and hasattr(hint, "FROM_TEXT"):
            value = {hint.FROM_TEXT: value}
        return _component({_shown(hint): hint}, value, path, built, named=False)
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
    raise WiringError(f"{path} is {value!r}; it must be of type {_shown(hint)}")


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
        return _value(_closest(kinds, value), value, path, built)
    if len(kinds) == 1:
        return _value(kinds[0], value, path, built)
    for each in kinds:
        try:
            return _value(each, value, path, built)
        except WiringError:
            continue
    raise WiringError(f"{path} is {value!r}; it must be of type {_shown(hint)}")


def _closest(kinds: list[Any], value: dict[str, Any]) -> Any:
    """Told apart by their fields: the one that shares most with what was written."""

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
    if hint in COMPONENTS:
        return COMPONENTS[hint].get(str(value if isinstance(value, str) else value.get("type")))
    kinds: list[Any] = [each for each in _members(hint) if dataclasses.is_dataclass(each)]
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


def _component(
    classes: dict[str, type], value: Any, path: str, built: dict[str, Step[Any]], named: bool = True
) -> Any:
    if isinstance(value, str) and named:
        value = {"type": value}
    if not isinstance(value, dict):
        options = " or ".join(sorted(classes))
        raise WiringError(f"{path} is {value!r}; it must be an object ({options})")
    value = dict(value)
    if named:
        kind = value.pop("type", None)
        if kind not in classes:
            raise WiringError(
                f"{path}.type is {kind!r}, which is not known{nearest(kind, classes)}"
            )
        cls = classes[kind]
    else:
        (kind, cls), *_ = classes.items()
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
        return cls(**values)
    except ValueError as error:
        raise WiringError(f"{path}: {error}") from error


def _reference(hint: Any, value: dict[str, Any], path: str, built: dict[str, Step[Any]]) -> Any:
    step = built[value["ref"]]
    extra = set(value) - {"type", "ref", "key"}
    if extra:
        raise WiringError(f"{path}.{min(extra)}: a reference has nothing but ref")
    made = made_by(step)
    if "key" in value:
        name = made.__name__ if made else "its result"
        raise WiringError(f"{path}.key is {value['key']!r}; {name} has no keys: leave it out")
    wanted = [each for each in _members(hint) if isinstance(each, type)]
    artifacts = [each for each in wanted if issubclass(each, Artifact)]
    if hint is not Any and (
        not artifacts or made is None or not issubclass(made, tuple(artifacts))
    ):
        name = made.__name__ if made else "something unknown"
        raise WiringError(
            f"{path} is the step {value['ref']!r}, which makes {name}; it must be {_shown(hint)}"
        )
    return step


def made_by(step: Step[Any]) -> type[Artifact] | None:
    """The artifact that a step says it returns."""
    returned = typing.get_type_hints(type(step).run).get("return")
    return returned if isinstance(returned, type) and issubclass(returned, Artifact) else None
