"""The data of an intermediate can go and come back: its manifest, key and record stay.

What is discarded still counts as there, so nothing below it runs; when a step that must run reads
it, it is made again under the same id, and its content must be what it was.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.artifacts import MANIFEST, Artifact, Checkpoints
from pipeline.core.errors import UNUSABLE, PipelineError
from pipeline.store.inventory import FILES, Inventory, is_note
from pipeline.store.memo import place_file
from pipeline.store.results import Results


class ChangedContent(PipelineError):
    """What was made again is not what it was."""


def discard(results: Results, id: str) -> None:
    """Drop the data of a result, and what the memo keeps of it; the caller holds its lease.

    Raises:
        ValueError: it is a training series, or it has no data of its own.
        CorruptShard: it is damaged.
    """
    if (fault := results.fault(id)) is not None:
        raise fault
    artifact = Artifact.load(results.folder(id))
    if isinstance(artifact, Checkpoints):
        raise ValueError(
            f"{id} is a training series, which cannot be made again bit for bit on any machine; "
            "only what is made from data can be discarded"
        )
    inventory = results.inventory(id)
    if inventory.discarded:
        return
    if all(is_note(name) for name in inventory.files):
        raise ValueError(f"{id} has no data of its own; there is nothing to discard")
    folder = results.folder(id)
    if not (folder / FILES).exists():  # it came without a list: first learn what there is
        inventory = Inventory.take(artifact, results.series_root)
    dataclasses.replace(inventory, discarded=True).write(folder)
    results.forget_files_of(folder)
    _drop_data(folder)


def restore(results: Results, id: str) -> Artifact:
    """Give a discarded result the data that was made again in its work folder.

    Until the last file is in its place it is discarded.

    Raises:
        ChangedContent: what was made is not what was discarded.
    """
    work, folder = results.work(id), results.folder(id)
    made, before = Artifact.load(work), Artifact.load(folder)
    if made.content != before.content:
        raise ChangedContent(
            f"{id} was made again and is of other content ({made.content[:12]}, was "
            f"{before.content[:12]}): its code or what it reads changed and its id did not; "
            f"run `olmo rm {id}`, and it and what stands below it are made anew"
        )
    results.sweep(work)
    taken = Inventory.take(made, results.series_root)
    data = {name: state for name, state in taken.files.items() if not is_note(name)}
    _drop_data(folder)
    for name in data:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(work / name, folder / name)
    if (work / MANIFEST).read_bytes() != (folder / MANIFEST).read_bytes():
        os.replace(work / MANIFEST, folder / MANIFEST)  # the same content in other files
    Inventory.take(Artifact.load(folder), results.series_root).write(folder)
    shutil.rmtree(work)
    return results.load(id)


def refill(results: Results, id: str) -> bool:
    """Give a discarded result the data of another result of the same content, if there is one."""
    wanted = Artifact.load(results.folder(id))
    data = {name for name in results.inventory(id).files if not is_note(name)}
    for other in _equals(results, wanted):
        if other == id or results.unreadable(other):
            continue
        if {n for n in results.inventory(other).files if not is_note(n)} != data:
            continue  # by chance of equal content, as where a filter removed nothing
        source, work = results.folder(other), results.work(id)
        for name in (*data, MANIFEST):
            place_file(source / name, work / name)
        restore(results, id)
        return True
    return False


def _equals(results: Results, wanted: Artifact) -> Iterator[str]:
    for id in results.standing():
        try:
            if Artifact.load(results.folder(id)).content == wanted.content:
                yield id
        except UNUSABLE:
            continue


def _drop_data(folder: Path) -> None:
    for each in sorted(folder.rglob("*"), reverse=True):
        if each.is_dir() and not each.is_symlink():
            each.rmdir()
        elif each.parent != folder or not (is_note(each.name) or each.name == FILES):
            each.unlink()
