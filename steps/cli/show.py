"""`olmo show`: what a result holds, for people."""

from __future__ import annotations

from steps.cli.selecting import find, open_named, parser_of


def main(arguments: list[str]) -> int:
    """Show a result: documents and what was removed, tokens decoded, a model's tensors, scores.

    Of a training that was not finished: what its series has so far, and how its segments ended.
    """
    parser = parser_of("show", main.__doc__)
    parser.add_argument("what", help="step, run:step, x.jsonnet:step, or the start of an id")
    parser.add_argument("-n", "--limit", type=int, default=10, help="rows of each table")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(arguments)
    if options.limit < 0:
        parser.error(f"limit is {options.limit}; it must be at least 0")
    from pipeline.browse.series import unfinished
    from pipeline.browse.showing import show
    from pipeline.browse.terminal import print_view

    workspace = open_named(options.workspace)
    id = find(workspace, options.what)
    view = None
    if not workspace.results.folder(id).exists():
        view = unfinished(workspace.results, id, options.limit)
    view = view or show(workspace.result(id), options.limit)
    print_view(view, as_json=options.json)
    return 0
