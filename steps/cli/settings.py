"""What `tango.yml` here says of the workspace, read without importing Tango."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def workspace_settings(path: str = "tango.yml") -> dict[str, Any]:
    """The fields of `workspace` in `tango.yml`: `dir`, and `remote` where there is one."""
    import yaml

    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        settings = None
    found = settings.get("workspace") if isinstance(settings, dict) else None
    return {"dir": "workspace", **(found if isinstance(found, dict) else {})}
