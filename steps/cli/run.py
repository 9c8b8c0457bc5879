"""`olmo run`: `tango run`, after a look at the experiment's syntax."""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> int:
    """Check that the file parses, then hand all arguments to `tango run`."""
    from steps.cli.experiment import SyntaxFault, read_experiment

    for each in arguments:
        if each.endswith((".jsonnet", ".json")):
            try:
                read_experiment(each)
            except SyntaxFault as fault:
                print(fault, file=sys.stderr)
                return 1
            break
    from tango.__main__ import main as tango

    sys.argv = ["tango", "run", *arguments]
    try:
        tango(args=["run", *arguments], prog_name="tango", standalone_mode=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0
