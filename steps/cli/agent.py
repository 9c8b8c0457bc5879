"""`olmo agent`: the ranks of this machine in a run that another machine leads."""

from __future__ import annotations

import argparse


def main(arguments: list[str]) -> int:
    """Add this machine's ranks to each training of an experiment that spans machines.

    Another machine runs the experiment, in the same workspace; nothing else is run here and nothing
    committed. It ends when the results of these trainings stand, or with the failure of one.
    """
    parser = argparse.ArgumentParser(prog="olmo agent", description=main.__doc__)
    parser.add_argument("experiment")
    parser.add_argument("-w", "--workspace", help="a folder; as tango.yml says if left out")
    parser.add_argument("-o", "--overrides", default="", help="JSON, as for tango run")
    parser.add_argument("-s", "--step", action="append", help="only this step and what it reads")
    options = parser.parse_args(arguments)
    from steps.cli.experiment import build_experiment, open_results, with_inputs
    from steps.execution.joining import join_trainings, spanning
    from steps.workspace import ResultWorkspace

    steps = build_experiment(options.experiment, options.overrides)
    steps = with_inputs(steps, options.step) if options.step else steps
    if not spanning(steps.values()):
        print(f"no training of {options.experiment} has ranks on several machines")
        return 0
    results = open_results(options.workspace, experiment=options.experiment)
    join_trainings(steps.values(), ResultWorkspace(str(results.root), results.strict))
    return 0
