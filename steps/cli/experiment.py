"""Reading an experiment file, with a syntax fault as three lines for its author."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class SyntaxFault(Exception):
    """The file is not Jsonnet; the message is what, where and the line itself."""


def read_experiment(path: str) -> dict[str, Any]:
    """The experiment as JSON values, environment variables as external ones, as Tango reads it.

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
    if not isinstance(config, dict) or not isinstance(config.get("steps"), dict):
        raise SyntaxFault(f"{path}: there is no object `steps` in it")
    return config
