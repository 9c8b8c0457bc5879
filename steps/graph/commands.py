"""What a command line of Tango asked for, held against the experiment before Tango does.

Tango imports our steps between reading an experiment and taking it apart; what is wrong at its top
it would tell as a traceback.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import click
from rich.markup import escape

from pipeline.core.errors import nearest
from steps.cli.experiment import SyntaxFault, require_parts
from steps.graph.references import WiringError


def check_command() -> None:
    """Raises WiringError where the experiment of this command line lacks its steps, or has more."""
    from tango.common.params import Params

    asked = _asked()
    if not isinstance(asked.get("experiment"), str):
        return
    variables = dict(each.split("=", 1) for each in asked.get("ext_var") or () if "=" in each)
    try:
        config = Params.from_file(asked["experiment"], asked.get("overrides") or "", variables)
    except Exception:  # Tango, which read it before, has told that
        return
    try:
        require_parts(config.params, os.path.relpath(asked["experiment"]))
    except SyntaxFault as fault:
        raise WiringError(escape(str(fault))) from fault


def check_asked(steps: Iterable[str]) -> None:
    """Raises WiringError for a step that this command line asks for and that is not there."""
    names, asked = list(steps), _asked()
    for each in asked.get("step_name") or ():
        if each not in names:
            where = os.path.relpath(asked.get("experiment") or "the experiment")
            raise WiringError(f"{each!r} is no step of {where}{nearest(each, names)}")


def _asked() -> dict[str, Any]:
    """The options of the command line that this process carries out, if it is one of Tango's."""
    context = click.get_current_context(silent=True)
    return context.params if context is not None else {}
