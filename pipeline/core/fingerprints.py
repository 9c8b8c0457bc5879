"""Digests of outside files, remembered by path, size and times so that a plan reads none twice."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.artifacts import file_sha256, write_json
from pipeline.core.keys import digest

RACY_SECONDS = 2  # a file this young may change again within one tick of its clock


def fingerprint_files(paths: Sequence[Path], names: Sequence[str]) -> str:
    """Digest of the names and the bytes of files, in the order given.

    Args:
        names: what each file is called in the digest, as paths change with the machine.
    """
    digests = file_digests(paths)
    return digest([[name, each] for name, each in zip(names, digests, strict=True)])


def file_digests(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file; one that has not changed since it was last asked for is not read."""
    memory = _load()
    found, changed = [], False
    for path in paths:
        name = os.path.abspath(path)
        stat = os.stat(path)
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        known = memory.get(name)
        if isinstance(known, dict) and known.get("state") == state:
            found.append(str(known.get("sha256")))
            continue
        found.append(file_sha256(Path(path)))
        if time.time() - max(stat.st_mtime, stat.st_ctime) > RACY_SECONDS:
            memory[name] = {"state": state, "sha256": found[-1]}
            changed = True
    if changed:
        try:
            write_json(_memory_path(), memory)
        except OSError:  # a home that cannot be written costs time, not correctness
            pass
    return found


def cache_folder() -> Path:
    """Where what is fetched or remembered between workspaces is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "olmo-tango"


def _memory_path() -> Path:
    return cache_folder() / "fingerprints.json"


def _load() -> dict[str, object]:
    try:
        memory = json.loads(_memory_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}
