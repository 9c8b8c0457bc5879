"""`olmo verify`: read every digest anew and name what is damaged."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from pipeline.core.errors import Inaccessible
from pipeline.core.terminal import counted, size, visible
from pipeline.store.inventory import is_id
from pipeline.store.verifying import (
    MEMO,
    Damage,
    Reader,
    find_all_damage,
    find_damage,
    num_bytes_to_read,
)
from steps.cli.selecting import find, open_named, parser_of


def main(arguments: list[str]) -> int:
    """Read all files of results again, or of the whole workspace; 1 when something is damaged.

    What is damaged is marked, so that no run uses it and the next one makes it again.
    """
    parser = parser_of("verify", main.__doc__)
    parser.add_argument("what", nargs="*", help="step, run:step, or the start of an id")
    parser.add_argument("--content", action="store_true", help="digest rows and tokens as well")
    options = parser.parse_args(arguments)
    from tqdm import tqdm

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
    read = f"{counted(reader.num_files, 'file')}, {size(reader.num_bytes)}"
    if not found:
        print(f"all is whole: {counted(len(ids), 'result')}, {read}")
        return 0
    for line in _told(found, ids, read):
        print(line, file=sys.stderr)
    return 1


def _told(found: list[Damage], ids: list[str], read: str) -> Iterator[str]:
    """How much is damaged, by what it is, and how it is mended; and what could not be read."""
    if kept_from := sum(isinstance(each.fault, Inaccessible) for each in found):
        yield f"not read: {counted(kept_from, 'result or part of one', 'results or parts of some')}"
        found = [each for each in found if not isinstance(each.fault, Inaccessible)]
        if not found:
            return
    owners = {each.owner for each in found}
    damaged = owners & {*ids, *(each for each in owners if is_id(each))}
    memories = {each.fault.path for each in found if each.owner == MEMO}
    parts = [f"{len(damaged)} of {counted(len(ids), 'result')}"] if damaged else []
    if series := owners - damaged - {MEMO}:
        parts.append(f"{len(series)} training series")
    if memories:
        parts.append(f"{counted(len(memories), 'memory', 'memories')} of work (forgotten now)")
    yield f"damaged: {', '.join(parts)}; {read} read"
    if damaged or series:
        yield "to mend it, run the experiment again: what is damaged is set aside and made anew"


def _advance(shown: Any, num_bytes: int) -> None:
    shown.update(num_bytes)
