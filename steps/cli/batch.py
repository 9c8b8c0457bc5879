"""`olmo batch`: the documents that an optimizer step read."""

from __future__ import annotations

from steps.cli.selecting import find, open_named, parser_of


def main(arguments: list[str]) -> int:
    """List the documents that an optimizer step of a training run read, with their text."""
    parser = parser_of("batch", main.__doc__)
    parser.add_argument("what", help="step, run:step, x.jsonnet:step, or the start of an id")
    parser.add_argument("--at", type=int, required=True, help="the optimizer step, from 1")
    parser.add_argument("-n", "--limit", type=int, default=1000, help="rows of the table")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(arguments)
    if options.limit < 0:
        parser.error(f"limit is {options.limit}; it must be at least 0")
    from pipeline.browse.reading import batch
    from pipeline.browse.terminal import print_view
    from pipeline.store.results import Results

    workspace = open_named(options.workspace)
    id = find(workspace, options.what)
    view = batch(Results(workspace.path), id, options.at, options.limit)
    print_view(view, as_json=options.json)
    return 0
