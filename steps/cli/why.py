"""`olmo why`: what makes two results differ, followed upstream to the first cause."""

from __future__ import annotations

import argparse


def main(arguments: list[str]) -> int:
    """Say why A is not B; without B, why it is not its nearest earlier result. 1 on a fault."""
    parser = argparse.ArgumentParser(
        prog="olmo why",
        description=main.__doc__,
        epilog="Each is experiment.jsonnet:step, a step of the latest run, run:step, or the "
        "beginning of an id.",
    )
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B", nargs="?")
    parser.add_argument("-w", "--workspace", help="a folder; as tango.yml says if left out")
    options = parser.parse_args(arguments)
    import steps  # noqa: F401  lets Tango start without torch
    from steps.cli.experiment import build_experiment, open_results
    from steps.plan.comparing import Comparison

    experiment = options.a.rpartition(":")[0] or None
    results = open_results(options.workspace, experiment=experiment)
    print("\n".join(Comparison(results, build_experiment).why(options.a, options.b)))
    return 0
