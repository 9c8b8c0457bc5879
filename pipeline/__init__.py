"""The open language-model recipe as a library: everything here is true without Tango."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.browse.workspace import Workspace


def open_workspace(path: str | Path = ".") -> Workspace:
    """What is in a workspace; `path` is its folder, or one with a `workspace/`, or below that one.

    Raises:
        FileNotFoundError: there is no workspace.
    """
    from pipeline.browse import workspace  # so that importing the library imports nothing else

    return workspace.open_workspace(path)
