"""`olmo gc`: remove what no kept run needs."""

from __future__ import annotations

import sys

from pipeline.core.errors import PipelineError
from steps.cli.selecting import open_named, parser_of, refuse_read_only

WORDS = {
    "result": ("result", "results", "that no run names"),
    "series": ("training series", "training series", "that no result shows"),
    "work": ("folder", "folders", "of unfinished work that no run goes on with"),
    "memory": ("memory", "memories", "of work that no result rests on"),
    "damaged": ("damaged result or checkpoint", "damaged results and checkpoints", "set aside"),
    "replaced": ("result", "results", "that others took the place of"),
    "trash": ("leftover", "leftovers", "of a removal"),
}


def main(arguments: list[str]) -> int:
    """Say how much of the workspace no run needs, ask, and remove it.

    A run is kept until `olmo rm run:NAME`. What somebody works on now is never removed.
    """
    parser = parser_of("gc", main.__doc__)
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument("--list", action="store_true", help="name every folder")
    options = parser.parse_args(arguments)
    from pipeline.core.terminal import size, visible
    from pipeline.store.cleaning import came_free, plan_cleaning, remove
    from pipeline.store.survey import Survey

    results = open_named(options.workspace).results
    survey = Survey(results)
    if unknown := survey.unknown:
        raise PipelineError(f"{unknown[0]}; as what it needs is not known, nothing is removed")
    removal = plan_cleaning(survey)
    for kind, places in removal.by_kind().items():
        one, many, which = WORDS[kind]
        print(f"{len(places):6,} {one if len(places) == 1 else many} {which}")
        for place in places if options.list else []:
            print(f"       {visible(str(place.path.relative_to(results.root)))}")
    for id in removal.in_use:
        print(f"in use, and stays: {id}")
    if not removal.places:
        print("every result is needed by a run; there is nothing to remove")
        return 0
    print(f"{size(removal.num_bytes)} would come free of {size(survey.size(survey.places))}")
    if options.dry_run:
        return 0
    refuse_read_only(results.root)
    if not options.yes:
        if not sys.stdin.isatty():
            print("nothing was removed: say --yes, as there is nobody to ask", file=sys.stderr)
            return 1
        if input("remove it? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return 1
    refused = remove(results, removal)
    for each in refused:
        print(f"{each}; it stays", file=sys.stderr)
    print(f"removed; {size(came_free(survey, removal))} came free")
    return 0
