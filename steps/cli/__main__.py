"""`olmo <command>`: the console script. A command is imported when it is asked for."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from steps.cli.faults import DEBUG, tell

COMMANDS = {  # name: what it does; the code is `main` of `steps/cli/<name>.py`
    "run": "run an experiment, as `tango run` does, with configuration faults in three lines",
    "agent": "add this machine's ranks to the trainings of a run on another machine",
    "plan": "say which steps are there already, which would run, and why",
    "why": "say what makes two results differ, followed to the first cause",
    "lock": "note what the outside data of an experiment is, so that it cannot move unseen",
    "rehearse": "run the whole graph in small: few documents, narrow models, a few updates",
    "provenance": "say what a result was made of, down to its sources; or write it as RO-Crate",
    "ls": "list runs, or the steps of one, with sizes, ages and who needs them",
    "show": "open a result: documents, tokens, checkpoints, scores and so on",
    "diff": "say in what two results differ",
    "rm": "remove a result, or let a run go",
    "gc": "remove what no kept run needs",
    "discard": "drop the data of an intermediate and keep what was made from it valid",
    "verify": "read every digest anew and name what is damaged",
    "push": "copy results to a remote cache: s3://, gs:// or a folder",
    "pull": "copy results from a remote cache into the workspace",
}

BROKEN_PIPE = 141  # as a shell says of a command that SIGPIPE ended


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in COMMANDS:
        print("usage: olmo COMMAND ... (olmo COMMAND --help says more)\n")
        for name, says in COMMANDS.items():
            print(f"  {name:10} {says}")
        print(f"\n{DEBUG}, with any of them, shows where a fault was raised")
        if arguments[:1] in ([], ["-h"], ["--help"]):
            return 0
        from pipeline.core.errors import nearest

        print(f"\n{arguments[0]!r} is no command{nearest(arguments[0], COMMANDS)}", file=sys.stderr)
        return 2
    name, *rest = arguments
    debug = DEBUG in rest
    if debug and name != "run":  # which has it among its own options
        rest.remove(DEBUG)
    try:
        status: int = import_module(f"steps.cli.{name}").main(rest)
        sys.stdout.flush()
    except BrokenPipeError:  # `olmo plan … | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return BROKEN_PIPE
    except (Exception, KeyboardInterrupt) as error:
        return tell(error, debug)
    return status


if __name__ == "__main__":
    sys.exit(main())
