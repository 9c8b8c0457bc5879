"""`olmo diff`: in what two results differ."""

from __future__ import annotations

from steps.cli.selecting import find, open_named, parser_of


def main(arguments: list[str]) -> int:
    """Compare two results: keys, counts and rows; 0 when their content is the same, 2 when not."""
    parser = parser_of("diff", main.__doc__)
    parser.add_argument("old", help="step, run:step, x.jsonnet:step, or the start of an id")
    parser.add_argument("new")
    parser.add_argument("-n", "--limit", type=int, default=10, help="rows of each table")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(arguments)
    from pipeline.browse.differences import diff
    from pipeline.browse.terminal import print_view

    workspace = open_named(options.workspace)
    old, new = (workspace.result(find(workspace, each)) for each in (options.old, options.new))
    print_view(diff(old, new, options.limit), as_json=options.json)
    return 0 if old.manifest.content == new.manifest.content else 2
