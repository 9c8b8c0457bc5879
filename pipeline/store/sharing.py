"""Who may read and write what is made in a workspace: as its folder says, whatever the umask is."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def follow_mode(root: Path) -> None:
    """Have this process and its children make files with the permissions of a folder.

    People who share a workspace set them once (`chmod g+rws workspace`), and need not agree on a
    umask. A folder that does not exist yet is made with the umask of whoever makes it.
    """
    try:
        mode = stat.S_IMODE(os.stat(root).st_mode)
    except OSError:
        return
    os.umask(~mode & 0o077)
