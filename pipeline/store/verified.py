"""Which weights of a series are known to be whole, so that a view does not read all of them again.

<series>/verified/step000400.json   size, SHA-256 and modification time of each of its files

As `files.json` is for a result (`inventory.py`): what a rank wrote is taken to be what it digested,
a file of up to 16 MiB or whose modification time moved since is digested, and `olmo verify` reads
everything.
"""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from pathlib import Path

from pipeline.core.untrusted import built
from pipeline.store import inventory
from pipeline.store.checkpoints import checkpoint_files
from pipeline.store.inventory import FileState, time_of
from pipeline.store.sealed import read_sealed, write_sealed

FOLDER = "verified"


def note_whole(folder: Path) -> None:
    """Note that the weights of a checkpoint are those that its record names."""
    _write(folder, _weights(folder))


def require_whole(folder: Path) -> None:
    """Hold the weights of a checkpoint against its record, and note that they are whole.

    Raises:
        CorruptShard: a file is missing, or its SHA-256 is not the recorded one.
    """
    noted, noted_ns = _read(folder), time_of(_note_of(folder))
    found = _weights(folder)
    for name, state in found.items():
        fault = state.fault(folder / name, noted_ns if noted.get(name) == state else 0)
        if fault is not None:
            raise fault
    if found != noted or any(state.mtime_ns >= noted_ns for state in found.values()):
        _write(folder, found)


def _weights(folder: Path) -> dict[str, FileState]:
    """The files of weights as they stand, with the digests that the record has of them."""
    files = checkpoint_files(folder, with_state=False)
    return {name: FileState.of(folder / name, sha256) for name, sha256 in files.items() if sha256}


def _note_of(folder: Path) -> Path:
    return folder.parent / FOLDER / f"{folder.name}.json"


def _read(folder: Path) -> dict[str, FileState]:
    """What was noted; nothing where that is missing, damaged, or stands elsewhere."""
    path = _note_of(folder)
    try:
        if not path.parent.is_symlink():
            return dict(built(dict[str, FileState], read_sealed(path)["files"], "files"))
    except (OSError, LookupError, ValueError):
        pass
    return {}


def _write(folder: Path, found: dict[str, FileState]) -> None:
    """Note large files: small ones are digested in any case."""
    path = _note_of(folder)
    large = any(state.num_bytes > inventory.SMALL_BYTES for state in found.values())
    if large and not path.parent.is_symlink():
        files = {name: dataclasses.asdict(state) for name, state in found.items()}
        with suppress(OSError):  # a disk that cannot be written costs time, not correctness
            write_sealed(path, {"files": files})
