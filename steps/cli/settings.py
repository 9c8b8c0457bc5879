"""`tango.yml` and what it says, read without importing Tango, from anywhere in a repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

NAMES = ("tango.yml", "tango.yaml")


def settings_file(experiment: str | None = None) -> Path | None:
    """The nearest `tango.yml`: here or above, else beside the experiment or above, else the user's.

    Tango itself looks here and in the user's folder alone.
    """
    above = [Path(), *Path.cwd().parents]
    if experiment is not None:
        above += Path(experiment).resolve().parents
    for folder in (*above, Path.home() / ".config"):
        for name in NAMES:
            if (folder / name).is_file():
                return folder / name
    return None


def read_settings(experiment: str | None = None) -> dict[str, Any]:
    """What the nearest `tango.yml` says, its workspace as seen from here; empty without one.

    Raises:
        ValueError: it is no YAML.
    """
    import yaml

    path = settings_file(experiment)
    if path is None:
        return {}
    try:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no YAML ({reason})") from error
    if not isinstance(form, dict):
        return {}
    return {**form, "workspace": seen_from_here(form.get("workspace"), path)}


def seen_from_here(workspace: Any, settings: Path) -> Any:
    """What a `tango.yml` says of the workspace, its folders relative to here and not to itself."""
    if not isinstance(workspace, dict) or settings.parent == Path.home() / ".config":
        return workspace

    def moved(place: Any) -> Any:
        if not isinstance(place, str) or "://" in place or os.path.isabs(place):
            return place
        return os.path.relpath(settings.parent / place)

    return {n: moved(v) if n in ("dir", "remote") else v for n, v in workspace.items()}


def workspace_settings(experiment: str | None = None) -> dict[str, Any]:
    """The fields of `workspace` in `tango.yml`: `dir`, and `remote` where there is one."""
    found = read_settings(experiment).get("workspace")
    return {"dir": "workspace", **(found if isinstance(found, dict) else {})}
