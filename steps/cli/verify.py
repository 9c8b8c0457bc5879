"""`olmo verify`: read every digest anew and name what is damaged."""

from __future__ import annotations

import sys
from typing import Any

from steps.cli.selecting import find, open_named, parser_of, told


@told
def main(arguments: list[str]) -> int:
    """Read all files of results again, or of the whole workspace; 1 when something is damaged.

    What is damaged is marked, so that no run uses it and the next one makes it again.
    """
    parser = parser_of("verify", main.__doc__)
    parser.add_argument("what", nargs="*", help="step, run:step, or the start of an id")
    parser.add_argument("--content", action="store_true", help="digest rows and tokens as well")
    options = parser.parse_args(arguments)
    from tqdm import tqdm

    from pipeline.browse.visible import as_bytes
    from pipeline.core.terminal import visible
    from pipeline.store.verifying import Reader, find_all_damage, find_damage, num_bytes_to_read

    workspace = open_named(options.workspace)
    results = workspace.results
    ids = [find(workspace, each) for each in options.what] or list(results.standing())
    quiet = not sys.stderr.isatty()
    total = num_bytes_to_read(results, ids)
    with tqdm(total=total, unit="B", unit_scale=True, desc="verify", disable=quiet) as shown:
        reader = Reader(lambda num_bytes: _advance(shown, num_bytes))
        if options.what:
            found = [
                each
                for id in ids
                for each in find_damage(results, id, content=options.content, reader=reader)
            ]
        else:
            found = find_all_damage(results, content=options.content, reader=reader)
    for damage in found:
        print(visible(str(damage)))
    read = f"{reader.num_files} files, {as_bytes(reader.num_bytes)}"
    if not found:
        print(f"all is whole: {len(ids)} results, {read}")
        return 0
    owners = sorted({damage.owner for damage in found})
    print(f"damaged: {len(owners)} of {len(ids)} results, {read} read", file=sys.stderr)
    print(
        "to mend it, run the experiment again: what is damaged is set aside and made anew",
        file=sys.stderr,
    )
    return 1


def _advance(shown: Any, num_bytes: int) -> None:
    shown.update(num_bytes)
