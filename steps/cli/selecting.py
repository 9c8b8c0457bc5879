"""What the commands that look at results share: finding one by its name."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pipeline.browse.workspace import Workspace, open_workspace

EXPERIMENT = (".jsonnet", ".json")


def parser_of(command: str, says: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all of them have."""
    parser = argparse.ArgumentParser(prog=f"olmo {command}", description=says)
    parser.add_argument("-w", "--workspace", help="the folder of results; tango.yml's without it")
    return parser


def open_named(path: str | None) -> Workspace:
    """The workspace at `path`, or the one of `tango.yml`.

    Raises:
        FileNotFoundError: nothing was run in it yet.
    """
    from steps.cli.experiment import open_results

    return open_workspace(open_results(path).root)


def open_to_change(path: str | None) -> Workspace:
    """As `open_named`; raises ValueError where nothing can be changed in the workspace."""
    workspace = open_named(path)
    refuse_read_only(workspace.path)
    return workspace


def refuse_read_only(workspace: Path) -> None:
    """Raises ValueError where nothing can be changed in a workspace."""
    if workspace.is_dir() and not os.access(workspace, os.W_OK):
        raise ValueError(f"the workspace {workspace} is read-only; nothing was changed")


def find(workspace: Workspace, name: str) -> str:
    """The id that a name stands for: `step`, `run:step`, `x.jsonnet:step`, the start of an id."""
    experiment, _, step = name.rpartition(":")
    if experiment.endswith(EXPERIMENT):
        from pipeline.core.errors import nearest

        ids = ids_of(experiment)
        if step not in ids:
            raise ValueError(f"{experiment} has no step {step!r}{nearest(step, ids)}")
        return ids[step]
    return workspace.find(name)


def ids_of(experiment: str) -> dict[str, str]:
    """The ids that the steps of an experiment have now, in order."""
    from steps.cli.experiment import build_experiment

    return {name: step.unique_id for name, step in build_experiment(experiment).items()}
