"""`olmo plan`: each step with its state, in order."""

from __future__ import annotations

import argparse
import sys


def main(arguments: list[str]) -> int:
    """Print each step's state; 0 when nothing would run, 2 when something would, 1 on a fault."""
    parser = argparse.ArgumentParser(prog="olmo plan", description=main.__doc__)
    parser.add_argument("experiment")
    parser.add_argument("-w", "--workspace", default="workspace")
    options = parser.parse_args(arguments)
    from steps.cli.experiment import SyntaxFault, read_experiment

    try:
        config = read_experiment(options.experiment)
        import steps  # noqa: F401  registers every step
        from pipeline.store.results import Results
        from steps.wiring import WiringError, build_steps

        try:
            built = build_steps(config["steps"])
        except WiringError as fault:
            print(fault, file=sys.stderr)
            return 1
    except SyntaxFault as fault:
        print(fault, file=sys.stderr)
        return 1
    results = Results(options.workspace)
    missing: set[str] = set()
    for name, step in built.items():
        if step.unique_id in results:
            state = "cached"
        elif any(each.name in missing for each in step.dependencies):
            state = "waits"
        else:
            state = "will run"
        if state != "cached":
            missing.add(name)
        print(f"{state:9} {name:24} {step.unique_id}")
    print(f"{len(built) - len(missing)} of {len(built)} steps are cached")
    return 2 if missing else 0
