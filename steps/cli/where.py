"""`olmo where`: when a document was read."""

from __future__ import annotations

from steps.cli.selecting import open_named, parser_of


def main(arguments: list[str]) -> int:
    """Say at which optimizer steps each training run of the workspace read a document."""
    parser = parser_of("where", main.__doc__)
    parser.add_argument("document", help="its id")
    parser.add_argument("-n", "--limit", type=int, default=1000, help="rows of the table")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(arguments)
    if options.limit < 0:
        parser.error(f"limit is {options.limit}; it must be at least 0")
    from pipeline.browse.reading import where
    from pipeline.browse.terminal import print_view
    from pipeline.store.results import Results

    workspace = open_named(options.workspace)
    view = where(Results(workspace.path), options.document, options.limit)
    print_view(view, as_json=options.json)
    return 0
