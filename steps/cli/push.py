"""`olmo push`: results to a cache that other machines pull from."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.errors import PipelineError, nearest
from pipeline.store.remote import Moved, Remote
from pipeline.store.results import ID, Results
from steps.cli.settings import workspace_settings


def main(arguments: list[str]) -> int:
    """Copy results to a remote cache; what is there is not sent again. Sends the latest run."""
    parser = argparse.ArgumentParser(prog="olmo push", description=main.__doc__)
    parser.add_argument("names", nargs="*", help="a run, run:step, a step of the latest run, an id")
    parser.add_argument("--to", metavar="URL", help="s3://, gs:// or a folder; else tango.yml's")
    parser.add_argument("-w", "--workspace", help="folder of the results; else tango.yml's")
    parser.add_argument("--mend", action="store_true", help="send also what stands there already")
    options = parser.parse_args(arguments)
    settings = workspace_settings()
    url = options.to or settings.get("remote")
    if url is None:
        print("--to is missing; tango.yml names no remote of the workspace", file=sys.stderr)
        return 2
    root = Path(options.workspace or settings["dir"])
    try:
        results, runs = Results(root), read_runs(root)
        started = time.monotonic()
        names = options.names or [latest(runs)]
        ids = chosen(names, {name: steps for name, (_, steps) in runs.items()})
        remote = Remote(url)
        here = [id for id in ids if id in results]
        moved = remote.push(results, here, mend=options.mend)
        for name in names:
            if name in runs:
                began, steps = runs[name]
                remote.push_run(name, steps, began)
        tell(moved, f"pushed to {remote.store.shown}", time.monotonic() - started)
        for id in sorted(set(ids) - set(here)):
            print(f"not there yet: {id}")
        return 0
    except (PipelineError, ValueError, OSError) as fault:
        print(fault, file=sys.stderr)
        return 1


def read_runs(root: Path) -> dict[str, tuple[float, dict[str, str]]]:
    """The runs of a workspace, oldest first: when each began, and its steps with their ids."""
    found = []
    for path in (root / "runs").glob("*/steps.json"):
        steps = json.loads(path.read_text(encoding="utf-8"))
        found.append((path.stat().st_mtime, path.parent.name, steps))
    return {name: (began, steps) for began, name, steps in sorted(found, key=lambda each: each[:2])}


def latest(runs: dict[str, tuple[float, dict[str, str]]]) -> str:
    """The name of the run that began last; raises ValueError where there is none."""
    if not runs:
        raise ValueError("there is no run in the workspace; tango run makes one")
    return list(runs)[-1]


def chosen(names: Sequence[str], runs: dict[str, dict[str, str]]) -> list[str]:
    """The ids that names stand for: an id, a run, `run:step`, or a step of the latest run with it.

    Args:
        runs: name of a run -> its steps and their ids, oldest run first.

    Raises:
        ValueError: a name stands for nothing.
    """
    ids: dict[str, None] = {}
    for name in names:
        run, _, step = name.partition(":")
        if ID.fullmatch(name):
            ids.setdefault(name)
        elif name in runs:
            ids |= dict.fromkeys(runs[name].values())
        elif run in runs and step in runs[run]:
            ids.setdefault(runs[run][step])
        else:
            found = [steps[name] for steps in runs.values() if name in steps]
            if not found:
                known = {*runs, *(step for steps in runs.values() for step in steps)}
                raise ValueError(f"{name!r} is no run, step or id{nearest(name, known)}")
            ids.setdefault(found[-1])
    return list(ids)


def tell(moved: Sequence[Moved], verb: str, seconds: float) -> None:
    """Say what was moved, what was there, and what the other side keeps."""
    sent = [each for each in moved if each.state == "moved"]
    num_bytes = sum(each.num_bytes for each in sent)
    print(f"{len(sent)} results {verb}: {num_bytes / 1e6:.1f} MB in {seconds:.1f} s")
    there = sum(each.state == "there" for each in moved)
    if there:
        print(f"{there} were there")
    for each in moved:
        if each.state == "kept":
            print(f"kept: {each.id}, which stands there with another content")
