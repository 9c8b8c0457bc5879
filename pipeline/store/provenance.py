"""Where and with what a result is made: the state of the code's repository, and the machine.

A run never depends on git. Without git, without a repository, without a commit or a remote there is
less to record, and nothing fails or waits.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.temporary import temporary_for

DIFF = "code.diff"  # beside a result, what its code differs from its commit in
MAX_DIFF_BYTES = 1 << 18
MAX_UNTRACKED = 50
GIT_SECONDS = 5.0


class Repository(NamedTuple):
    """What `run.json` says of a repository, and the text of its diff."""

    record: dict[str, Any]
    diff: bytes


@cache
def machine() -> dict[str, Any]:
    """The processor, the cores that this process may use, the memory and the GPUs."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    record: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": cores,
    }
    try:
        pages = os.sysconf("SC_PHYS_PAGES")
        record["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * pages
    except (AttributeError, ValueError, OSError):
        pass
    return record | {"gpus": _gpus()}


@cache
def repository(folder: Path) -> Repository | None:
    """The commit and the changes of the repository that a folder of code is in; asked for once.

    None where there is no repository, or none whose git can be asked. Code that was installed, as
    in a virtual environment, is of no repository, whatever stands around it.
    """
    folder = folder.resolve()
    if {"site-packages", "dist-packages"} & set(folder.parts):
        return None
    root = next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)
    if root is None:
        return None
    said = _git(root, "status", "--porcelain=v2", "--branch", "--untracked-files=normal", "-z")
    if said is None:
        return None
    commit, changed, untracked = None, False, []
    for line in said.decode(errors="replace").split("\0"):
        if line.startswith("# branch.oid "):
            found = line.removeprefix("# branch.oid ")
            commit = None if found == "(initial)" else found
        elif line.startswith("? "):
            untracked.append(line[2:])
        elif line[:2] in ("1 ", "2 ", "u "):
            changed = True
    record: dict[str, Any] = {"commit": commit, "dirty": changed or bool(untracked)}
    if untracked:
        record["untracked"] = untracked[:MAX_UNTRACKED]
        record["num_untracked"] = len(untracked)
    diff = b""
    if changed and commit is not None:
        arguments = ("--no-color", "--no-ext-diff", "--no-textconv", "--binary")
        diff = _git(root, "diff", *arguments, "HEAD") or b""
    if diff:
        record["diff_sha256"] = hashlib.sha256(diff).hexdigest()
        record["diff_bytes"] = len(diff)
    return Repository(record, diff)


def record_provenance(folder: Path, code: Path) -> dict[str, Any]:
    """What to add to a result's record; the diff of the code is written into its folder.

    A diff above `MAX_DIFF_BYTES` is known by its digest and size alone.

    Args:
        code: where the code is; if that is no repository, the working directory is looked at, as
            experiments may be in one where the code is not.
    """
    record: dict[str, Any] = {"hardware": machine()}
    for name, place in (("code", code), ("working directory", Path.cwd())):
        found = repository(place)
        if found is not None:
            record["git"] = {"of": name, **found.record}
            break
    (folder / DIFF).unlink(missing_ok=True)  # of an earlier attempt
    if found is not None:
        if found.diff and len(found.diff) <= MAX_DIFF_BYTES:
            temporary = temporary_for(folder / DIFF)
            try:
                temporary.write_bytes(found.diff)
                os.replace(temporary, folder / DIFF)
            finally:
                temporary.unlink(missing_ok=True)
    return record


def _git(root: Path, *arguments: str) -> bytes | None:
    """What git prints; None where it cannot be asked, fails or takes too long."""
    # neither locks nor hooks: looking must not change the repository or start a program of its own
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # as within a hook
        environment.pop(name, None)
    command: Sequence[str] = ("git", "-C", str(root), "-c", "core.fsmonitor=false", *arguments)
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=GIT_SECONDS, env=environment, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.lower().startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Names of the GPUs, as the driver has them: a library that knows them loads in seconds."""
    names = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        found = dict(line.split(":", 1) for line in lines if ":" in line)
        names.append(found.get("Model", "GPU").strip())
    return names
