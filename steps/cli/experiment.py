"""Reading an experiment file, with a syntax fault as three lines for its author."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.cli.settings import read_settings as read_file

if TYPE_CHECKING:
    from tango.step import Step

    from pipeline.store.results import Results


PARTS = ("steps", "include_package")


class SyntaxFault(Exception):
    """The file is no experiment that can run; the message is what is wrong, and where."""


def read_experiment(path: str, overrides: str = "") -> dict[str, Any]:
    """The experiment as JSON values, environment variables as external ones, as Tango reads it.

    Args:
        overrides: JSON, as `tango run -o` takes it.

    Raises:
        SyntaxFault: it does not exist, does not parse, or has no `steps`.
    """
    import json

    import rjsonnet

    if not Path(path).is_file():
        raise SyntaxFault(f"{path}: there is no such file")
    try:
        text = rjsonnet.evaluate_file(path, ext_vars=dict(os.environ))
    except RuntimeError as error:
        lines = [line.rstrip() for line in str(error).splitlines() if line.strip()]
        raise SyntaxFault("\n".join(lines[:3])) from error
    config = json.loads(text)
    if overrides:
        from tango.common.params import parse_overrides, with_overrides

        try:
            values = parse_overrides(overrides)
            if says := misplaced(config, values):
                raise SyntaxFault(says)
            config = with_overrides(config, values)
        except (RuntimeError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise SyntaxFault(f"overrides are {overrides!r}: {first}") from error
    require_parts(config, path)
    made: dict[str, Any] = config
    return made


def require_parts(config: Any, path: str) -> None:
    """Raises SyntaxFault unless an experiment has its steps and nothing that is not known."""
    from pipeline.core.errors import nearest

    for each in config if isinstance(config, dict) else ():
        if each not in PARTS:
            raise SyntaxFault(f"{path}: {each} is no part of an experiment{nearest(each, PARTS)}")
    if not isinstance(config, dict) or not isinstance(config.get("steps"), dict):
        raise SyntaxFault(f"{path}: there is no object `steps` in it")


def misplaced(config: Any, overrides: Iterable[str]) -> str:
    """What an override names that is not there, if one does."""
    from pipeline.core.errors import nearest

    for each in overrides:
        place, path = config, ""
        for part in each.split(".")[:-1]:
            if isinstance(place, list) and part.isdigit() and int(part) < len(place):
                place = place[int(part)]
            elif isinstance(place, dict) and part in place:
                place = place[part]
            else:
                names = place if isinstance(place, dict) else ()
                where = f"{path} has no {part!r}" if path else f"there is no {part!r}"
                return f"override {each}: {where}{nearest(part, names)}"
            path = f"{path}.{part}" if path else part
    return ""


def build_experiment(
    path: str, overrides: str = "", *, with_lock: bool = True
) -> dict[str, Step[Any]]:
    """The steps of an experiment, as `tango run` builds them: with its lock, if it has one.

    Raises:
        SyntaxFault: it is no experiment, or a type, value or reference in it is wrong.
    """
    import steps  # noqa: F401  registers every step, and lets Tango start without torch
    from steps.graph.locking import pins_beside
    from steps.graph.wiring import WiringError, build_steps, require_ids

    config = read_experiment(path, overrides)
    import_packages(config.get("include_package"), path)
    import_packages(read_settings(path).get("include_package"), "tango.yml")
    try:
        built = build_steps(config["steps"], pins_beside(path) if with_lock else {})
        if with_lock:
            require_ids(built)
    except WiringError as fault:
        raise SyntaxFault(str(fault)) from fault
    return built


def import_packages(names: Any, where: str) -> list[str]:
    """Import what an experiment or `tango.yml` names, from the working directory too."""
    from tango.common.util import import_extra_module

    names = [] if names is None else names
    if not isinstance(names, list):
        raise SyntaxFault(f"{where}: include_package is {names!r}; it must be a list of modules")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in names:
        try:
            import_extra_module(name)
        except ImportError as error:
            raise SyntaxFault(
                f"{where}: include_package has {name!r}, which cannot be imported ({error})"
            ) from error
    return names


def with_inputs(steps: Mapping[str, Step[Any]], names: Iterable[str]) -> dict[str, Step[Any]]:
    """Some steps and all that they read, in order.

    Raises:
        SyntaxFault: there is no step of a name.
    """
    from pipeline.core.errors import nearest

    kept: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in steps:
            raise SyntaxFault(f"{name!r} is no step{nearest(name, steps)}")
        if name not in kept:
            kept.add(name)
            todo += [each.name for each in steps[name].dependencies]
    return {name: step for name, step in steps.items() if name in kept}


def read_settings(experiment: str | None) -> dict[str, Any]:
    """What the nearest `tango.yml` says; raises SyntaxFault where it is no YAML."""
    try:
        return read_file(experiment)
    except ValueError as error:
        raise SyntaxFault(str(error)) from error


def open_results(
    workspace: str | None, strict: bool = False, experiment: str | None = None
) -> Results:
    """The results in a workspace: the one given, or the one that `tango.yml` names.

    Args:
        experiment: the file for which, where `tango.yml` is not here or above, it is looked for.
    """
    from pipeline.store.results import Results
    from steps.workspace import is_strict

    said = read_settings(experiment).get("workspace")
    said = said if isinstance(said, dict) else {}
    folder = (workspace or str(said.get("dir", "workspace"))).removeprefix("local://")
    if Path(folder).exists() and not Path(folder).is_dir():
        raise SyntaxFault(f"the workspace {folder} is a file; it must be a folder")
    strict = strict or is_strict() or (workspace is None and said.get("strict") is True)
    return Results(Path(folder), strict=strict)
