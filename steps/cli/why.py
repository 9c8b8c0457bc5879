"""`olmo why`: what makes two results differ, followed upstream to the first cause."""

from __future__ import annotations

import argparse
import sys


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
    from steps.cli.experiment import SyntaxFault, build_experiment, open_results

    try:
        import steps  # noqa: F401  lets Tango start without torch
        from steps.comparing import Comparison, UnknownResult

        experiment = options.a.rpartition(":")[0] or None
        results = open_results(options.workspace, experiment=experiment)
        comparison = Comparison(results, build_experiment)
        try:
            lines = comparison.why(options.a, options.b)
        except UnknownResult as error:
            raise SyntaxFault(str(error)) from error
    except SyntaxFault as fault:
        print(fault, file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0
