"""`olmo lock`: what the outside data of an experiment is now, in a file beside the experiment."""

from __future__ import annotations

import argparse


def main(arguments: list[str]) -> int:
    """Write the lock of an experiment; 0 when all of it is locked, 1 when not or on a fault.

    Sizes and states are asked for; only --digest fetches the data, once, to digest it.
    """
    parser = argparse.ArgumentParser(prog="olmo lock", description=main.__doc__)
    parser.add_argument("experiment")
    parser.add_argument("--digest", action="store_true", help="read the data and note its SHA-256")
    options = parser.parse_args(arguments)
    from steps.cli.experiment import SyntaxFault, build_experiment

    steps = build_experiment(options.experiment, with_lock=False)
    from steps.graph.locking import lock, lock_path, shortened
    from steps.graph.wiring import WiringError

    path = lock_path(options.experiment)
    try:
        items = lock(steps.values(), path, with_digests=options.digest)
    except WiringError as fault:
        raise SyntaxFault(f"{fault}; delete it to begin anew") from fault
    if not items:
        print(f"{options.experiment} reads no outside data")
        return 0
    for state in ("moved", "not locked", "unreachable", "contradicted"):
        for line in shortened([each for each in items if each.state == state], most=20):
            print(f"{state}: {line}")
    num_locked = sum(bool(str(each.known)) for each in items)
    print(f"{path}: {num_locked} of {len(items)} pieces of outside data are locked")
    return 0 if all(each.state in ("locked", "moved") for each in items) else 1
