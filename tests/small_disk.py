"""Work on a disk that is full, or in a process that may do less than this one."""

import json
import os
import subprocess
import warnings
from contextlib import contextmanager

import pytest

ROOT = os.geteuid() == 0


def in_a_child(work, before=lambda: None):
    """Do some work in a fork; gives what it returned as JSON, or the name of its error."""
    read, write = os.pipe()
    with warnings.catch_warnings():  # of threads: those that are left wait for work
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(read)
        try:
            before()
            said = {"made": work()}
        except BaseException as error:
            said = {"error": type(error).__name__, "says": str(error)}
        os.write(write, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    os.waitpid(child, 0)
    return json.loads(said)


@contextmanager
def small_disk(root, options):
    """A file system in memory, where whoever runs the tests may mount one."""
    root.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(root)]
    if not ROOT or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk, and not everywhere")
    try:
        yield root
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def leftovers(folder):
    """The files below a folder that were not written to their ends."""
    return [*folder.rglob(".*.tmp")]
