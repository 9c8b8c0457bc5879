"""`olmo discard`: drop the data of an intermediate and keep what it is."""

from __future__ import annotations

import sys

from steps.cli.selecting import find, open_to_change, parser_of


def main(arguments: list[str]) -> int:
    """Drop the data of results; what was made from them stays valid.

    The manifest, the key and the record stay. A step that must run and reads such a result has it
    made again, and its content must be what it was.
    """
    parser = parser_of("discard", main.__doc__)
    parser.add_argument("what", nargs="+", help="step, run:step, or the start of an id")
    options = parser.parse_args(arguments)
    from pipeline.core.errors import PipelineError
    from pipeline.core.terminal import size
    from pipeline.store.cleaning import discard_data
    from pipeline.store.results import inputs_of

    workspace = open_to_change(options.workspace)
    status = 0
    for what in options.what:
        try:
            id = workspace.result(find(workspace, what)).id
            if workspace.results.inventory(id).discarded:
                print(f"{id} is discarded already")
                continue
            num_bytes = discard_data(workspace.results, id)
            print(f"{id}: {size(num_bytes)} came free")
            if num_bytes == 0:
                print("  its files have other names still, in another result or in a copy")
            if not inputs_of(workspace.results.folder(id)):
                print("  it is read from its source again when a step needs it")
        except (PipelineError, ValueError) as fault:
            print(fault, file=sys.stderr)
            status = 1
    return status
