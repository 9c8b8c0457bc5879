"""`olmo <command>`: the console script."""

from __future__ import annotations

import sys

COMMANDS = {
    "run": "run an experiment, as `tango run` does, with configuration faults in three lines",
    "plan": "say which steps are there already and which would run",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in COMMANDS:
        print("usage: olmo COMMAND experiments/tiny.jsonnet ...\n")
        for name, says in COMMANDS.items():
            print(f"  {name:6} {says}")
        return 0 if arguments[:1] in ([], ["-h"], ["--help"]) else 2
    if arguments[0] == "plan":
        from steps.cli.plan import plan

        return plan(arguments[1:])
    from steps.cli.run import run

    return run(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
