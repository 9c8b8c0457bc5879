"""Who may read and write what is made in a workspace: at least who may its folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def follow_mode(root: Path) -> None:
    """Have this process and its children withhold nothing from whom a folder is open to.

    People who share a workspace open it once (`chmod g+rws workspace`), and need not agree on a
    umask. A folder that does not exist yet is made with the umask of whoever makes it.
    """
    try:
        mode = stat.S_IMODE(os.stat(root).st_mode)
    except OSError:
        return
    before = os.umask(0o077)
    os.umask(before & ~mode)
