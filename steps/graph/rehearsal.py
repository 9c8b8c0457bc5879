"""The same graph in small: an experiment changed by the types of its values, not by its steps.

A source is cut, a model has two narrow layers, a schedule a few updates; every step and every edge
stays, but to an index file, which orders the whole mix. What a value is follows from the type that
its step or component declares for it, and for a plain number from its name, which says the same
everywhere in this house.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from pipeline.core.artifacts import ReadingOrder
from pipeline.core.engine import Engine, Local
from pipeline.core.fingerprints import OutsideFile
from pipeline.data.rules import Sample
from pipeline.data.sources.cut import Widened
from pipeline.data.sources.rows import Source
from pipeline.eval.benchmarks import TaskSource
from pipeline.model.config import OlmoConfig
from pipeline.tokens.importing import TokenFiles
from pipeline.tokens.order import OrderRule
from pipeline.train.config import TrainConfig
from pipeline.train.ranks.launches import Launch
from pipeline.train.small import Small, kept_step
from steps.graph.wiring import component, described, inner_hint, is_reference, run_hints

Values = dict[str, Any]
Changed = list[tuple[str, Any, Any]]  # path, value in the experiment, value in the rehearsal
LEFT_OUT = ("step_resources", "needs")
OUTSIDE: tuple[Any, ...] = (Source, TaskSource, OutsideFile, TokenFiles)
LOOK_INSIDE = object()


@dataclass(frozen=True)
class Size:
    """How small a rehearsal is.

    Args:
        num_pieces: of each source, such as files.
        num_documents: of each source.
        num_bytes: of the text of each source.
        num_records: read of each piece, to choose documents among.
        num_items: questions and answers of each evaluation, and tokens of a generation.
        num_texts: documents of each domain that perplexity is measured on.
        shard_bytes: so little that there are several shards.
    """

    num_pieces: int = 2
    num_documents: int = 128
    num_bytes: int = 1 << 20
    num_records: int = 10_000
    num_items: int = 4
    num_texts: int = 2
    num_workers: int = 2
    shard_bytes: int = 1 << 15
    num_instances: int = 64
    training: Small = Small()

    def limits(self) -> dict[str, int]:
        """The most that a number of a name is; where the experiment gives none, it is given."""
        length, updates = self.training.sequence_length, self.training.num_updates
        return {
            "sequence_length": length,
            "max_length": length,
            "batch_size": self.training.batch_size,
            "num_steps": updates,
            "limit": self.num_items,
            "max_documents": self.num_texts,
            "max_new_tokens": self.num_items,
            "shard_bytes": self.shard_bytes,
        }


class Found(NamedTuple):
    """A component in an experiment: its step and path, what was asked for and what is written."""

    step: str
    path: str
    hint: Any
    cls: Any
    values: Values


def components(steps: Mapping[str, Values]) -> list[Found]:
    """Every component in the steps, in their order."""
    found: list[Found] = []

    def note(step: str, path: str, hint: Any, cls: Any, value: Any) -> Any:
        if cls is not None:
            found.append(Found(step, path, hint, cls, written(cls, value)))
        return LOOK_INSIDE

    for name, config in steps.items():
        for each, (hint, _) in run_hints(config.get("type")).items():
            if each in config:
                _walk(hint, config[each], f"steps.{name}.{each}", partial(note, name))
    return found


def outside(steps: Mapping[str, Values]) -> list[Found]:
    """The components that read data which is not ours."""
    return [each for each in components(steps) if each.hint in OUTSIDE or each.cls in OUTSIDE]


def rehearsed(
    steps: Mapping[str, Values], size: Size, given: Mapping[str, Values] | None = None
) -> tuple[dict[str, Values], Changed]:
    """The steps in small, and every plain value that differs.

    Args:
        given: path of an outside component -> what is read in its place.

    Raises:
        WiringError: a value that decides the size of something is not of its type.
    """
    return _Rehearsal(steps, size, given or {}).steps()


def in_words(changed: Changed) -> str:
    """What was cut to what, by the names of the values."""
    names: dict[str, tuple[list[str], list[str]]] = {}
    for path, old, new in changed:
        before, after = names.setdefault(path.rpartition(".")[2], ([], []))
        for found, value in ((before, old), (after, new)):
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            if text not in found:
                found.append(text)
    return "; ".join(f"{n} {', '.join(old)} -> {', '.join(new)}" for n, (old, new) in names.items())


class _Rehearsal:
    def __init__(self, steps: Mapping[str, Values], size: Size, given: Mapping[str, Values]):
        self.before, self.size, self.given = steps, size, given
        self.limits, self.changed = size.limits(), Changed()
        found = components(steps)
        built = [(each, self._built(each)) for each in found if each.cls in (TrainConfig, Sample)]
        self.trainings: dict[str, list[TrainConfig]] = {}
        for each, made in built:
            if isinstance(made, TrainConfig):
                self.trainings.setdefault(each.step, []).append(made)
        self.smaller: dict[Any, Callable[[Any], Any]] = {
            OlmoConfig: size.training.model,
            TrainConfig: size.training.training,
            Sample: Widened(made for _, made in built if isinstance(made, Sample)),
            Local: lambda engine: replace(engine, workers=min(engine.workers, size.num_workers)),
        }

    def _built(self, found: Found) -> Any:
        return component(found.hint, found.values, found.path)

    def steps(self) -> tuple[dict[str, Values], Changed]:
        made = {name: self._step(name, config) for name, config in self.before.items()}
        return made, self.changed

    def _step(self, name: str, config: Values) -> Values:
        hints = run_hints(config.get("type"))
        if not hints:  # somebody else's step
            return config
        made = {n: v for n, v in config.items() if n not in LEFT_OUT}
        for each, (hint, default) in hints.items():
            path = f"steps.{name}.{each}"
            if each == "steps" and isinstance(config.get(each), list):
                made[each] = self._kept(config)
                self._note(path, config[each], made[each])
            elif each == "part" and hint is bool:  # of the documents that files are about
                made[each] = True
                self._note(path, config.get(each, default), True)
            elif hint == OrderRule | ReadingOrder and is_reference(config.get(each)):
                made[each] = "feistel"  # an index file is of the whole mix
                self._note(path, config[each], made[each])
            elif each in config:
                made[each] = _walk(hint, config[each], path, self._change)
            elif each in self.limits and default is not inspect.Parameter.empty:
                made[each] = _walk(hint, default, path, self._change)
        return made

    def _change(self, path: str, hint: Any, cls: Any, value: Any) -> Any:
        if hint is Engine and cls is not Local:  # it is of another machine
            new: Any = {"type": "local", "workers": self.size.num_workers}
            self._note(path, value, new)
            return new
        if hint in OUTSIDE or cls in OUTSIDE:
            given = self.given.get(path)
            value = given if given is not None else self._inside(cls, written(cls, value), path)
            return self._cut(value) if hint is Source else value
        if hint is Launch:
            return self._launch(path, cls, value)
        if cls in self.smaller:
            old = component(hint, value, path)
            return self._merged(path, written(cls, value), old, self.smaller[cls](old))
        if cls is None:
            return self._number(path, hint, value)
        return LOOK_INSIDE

    def _launch(self, path: str, cls: Any, value: Any) -> Values:
        """Ranks of this machine, whatever starts them in earnest."""
        old = component(Launch, value, path)
        kept = {each.name for each in dataclasses.fields(Launch)}
        if cls is not Launch:
            self._note(f"{path}.type", cls.TYPE, Launch.TYPE)
        values = {name: each for name, each in written(cls, value).items() if name in kept}
        return self._merged(path, values, old, self.size.training.launch(old))

    def _inside(self, cls: Any, values: Values, path: str) -> Values:
        hints = typing.get_type_hints(cls)
        return {
            n: _walk(hints[n], v, f"{path}.{n}", self._change) if n in hints else v
            for n, v in values.items()
        }

    def _cut(self, source: Values) -> Values:
        return {
            "type": "cut",
            "of": source,
            "max_pieces": self.size.num_pieces,
            "max_documents": self.size.num_documents,
            "max_bytes": self.size.num_bytes,
            "max_records": self.size.num_records,
        }

    def _number(self, path: str, hint: Any, value: Any) -> Any:
        name = path.rpartition(".")[2]
        new = value
        if name == "sample_fraction" and isinstance(value, (int, float)):
            new = 1.0  # a share of so little would be nothing
        elif name == "num_instances" and isinstance(value, int):
            new = min(value, self.size.num_instances)
        elif name in self.limits and int in (hint, *typing.get_args(hint)):
            if value is None or (isinstance(value, (int, float)) and value > self.limits[name]):
                new = self.limits[name]
        else:
            return LOOK_INSIDE
        self._note(path, value, new)
        return new

    def _kept(self, config: Values) -> list[int]:
        """Saved steps as those that the rehearsed training saves."""
        read = _references(config)
        before = [each for name in read for each in self.trainings.get(name, [])]
        if not before:
            return list(config["steps"])
        after = [self.size.training.training(each) for each in before]
        return sorted({kept_step(each, before, after) for each in config["steps"]})

    def _merged(self, path: str, values: Values, old: Any, new: Any) -> Values:
        """What is written, with the fields that differ between two objects of a component."""
        made = dict(values)
        for each in dataclasses.fields(new):
            before, after = getattr(old, each.name), getattr(new, each.name)
            if before == after:
                continue
            below = f"{path}.{each.name}"
            if dataclasses.is_dataclass(after):
                made[each.name] = self._merged(below, values.get(each.name, {}), before, after)
            else:
                made[each.name] = after
                self._note(below, before, after)
        return made

    def _note(self, path: str, old: Any, new: Any) -> None:
        if old != new:
            self.changed.append((path, old, new))


def written(cls: Any, value: Any) -> Values:
    """The fields of a component as an object, also where the experiment has a plain name."""
    if isinstance(value, str):
        text = getattr(cls, "FROM_TEXT", None)
        return {text or "type": value}
    return dict(value)


def _walk(hint: Any, value: Any, path: str, visit: Callable[..., Any]) -> Any:
    """The value with what `visit` makes of its parts: called with path, hint, class and value.

    The class is None for what is no component. A part for which it gives `LOOK_INSIDE` is rebuilt
    of its own parts.
    """
    if is_reference(value):
        return value
    cls = described(hint, value)
    new = visit(path, hint, cls, value)
    if new is not LOOK_INSIDE:
        return new
    if cls is not None:
        hints = typing.get_type_hints(cls)
        return {
            n: _walk(hints[n], v, f"{path}.{n}", visit) if n in hints else v
            for n, v in written(cls, value).items()
        }
    if isinstance(value, dict):
        below = inner_hint(hint, dict)
        return {n: _walk(below, v, f"{path}.{n}", visit) for n, v in value.items()}
    if isinstance(value, list):
        below = inner_hint(hint, list)
        return [_walk(below, v, f"{path}[{i}]", visit) for i, v in enumerate(value)]
    return value


def _references(value: Any) -> Iterator[str]:
    if is_reference(value):
        yield value["ref"]
    elif isinstance(value, dict):
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)
