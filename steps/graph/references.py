"""The steps of an experiment by the names they refer to, before anything in them is looked at."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from tango.common.exceptions import CliRunError

from pipeline.core.errors import nearest

UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # controls, directions, line ends, nothing


class WiringError(CliRunError):
    """The experiment is not one that can run; the message is for its author."""


def ordered_names(steps: Mapping[str, Any]) -> list[str]:
    """The names of steps, each after those that it reads.

    Raises:
        WiringError: a name, a step or a reference is none, or steps wait for each other.
    """
    needs = {}
    for name, config in steps.items():
        shown = ascii(name if len(name) < 60 else name[:60] + "...")
        require_name(name, f"steps has {shown}, which cannot be the name of a step")
        if not isinstance(config, dict):
            raise WiringError(f"steps.{name} is {config!r}; it must be an object with a type")
        if "type" not in config:  # as of an override with a misspelled name
            near = nearest(name, [each for each in steps if each != name])
            near = near if "did you mean" in near else "; it must have one"
            raise WiringError(f"steps.{name} has no type{near}")
    for name, config in steps.items():
        needs[name] = dict(_references(config, f"steps.{name}"))
        for path, target in needs[name].items():
            if not isinstance(target, str):
                raise WiringError(f"{path}.ref is {target!r}; it must be the name of a step")
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


def require_name(name: str, fault: str) -> None:
    """Raises WiringError, with what is at fault, for a name that cannot be shown or asked for.

    It is seen in terminals, is the name of files, and is given to commands as `run:step`: no path,
    no controls, no markup, no colon, and nothing that begins as an option does.
    """
    odd = [each for each in name if unicodedata.category(each) in UNSEEN or each in "/\\[]:"]
    if odd or not name.strip() or name.startswith((".", "-")):
        raise WiringError(
            f"{fault}; it must have characters that can be seen, begin with no dot or dash, and "
            "have no slash, backslash, colon or square bracket"
        )


def is_reference(value: Any) -> bool:
    """Whether a piece of JSON stands for the result of a step."""
    return isinstance(value, dict) and "ref" in value and value.get("type", "ref") == "ref"


def _references(value: Any, path: str) -> Iterable[tuple[str, Any]]:
    if is_reference(value):
        yield path, value["ref"]
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _references(item, f"{path}.{name}")
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _references(item, f"{path}[{place}]")
