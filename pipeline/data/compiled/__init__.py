"""Loops over bytes that numba compiles.

Only what works on text imports them, and where it works: a plan must not wait for the compiler.
They take a batch of texts as one array of bytes, with where each begins.

What is compiled is kept for the next process beside the source, or in numba's own folder
(`NUMBA_CACHE_DIR`) where that is set or the source cannot be written. numba looks only at the file
of a function to see whether that is still true, though it holds what other files' functions do;
so it is kept in a folder that is named after the content of all files here.

numba's own index of what it kept is a pickle, the one exception to HOUSE's rule: whoever can write
to that folder can change the code beside it, or the machine code that the index is of.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core import config

HERE = Path(__file__).parent
KEPT_SECONDS = 86400.0  # of what another content of these files was compiled to


def kernel(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """A function that is compiled at its first call, and kept; with the options of `numba.njit`."""

    def compiled(function: Callable[..., Any]) -> Any:
        before, config.CACHE_DIR = config.CACHE_DIR, _folder(config.CACHE_DIR)
        try:
            return njit(cache=True, **options)(function)
        finally:
            config.CACHE_DIR = before

    return compiled if function is None else compiled(function)


@cache
def _folder(given: str) -> str:
    """The folder for what is compiled from the files as they are."""
    if given:
        above = Path(given)
    elif os.access(HERE, os.W_OK):
        above = HERE / "__pycache__"
    else:
        return ""  # numba's own choice, which is below the user's home
    content = hashlib.sha256()
    for path in sorted(HERE.glob("*.py")):
        content.update(path.read_bytes())
    name = f"kernels-{content.hexdigest()[:16]}"
    for old in [] if given else above.glob("kernels-*"):  # a given one may be others' as well
        if old.name != name and time.time() - old.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    return str(above / name)
