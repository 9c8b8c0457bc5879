"""`olmo pull`: results that another machine pushed."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.core.errors import nearest
from pipeline.core.terminal import counted
from pipeline.store.inventory import is_id
from pipeline.store.remote import Remote
from pipeline.store.survey import read_runs
from steps.cli.push import tell
from steps.cli.selecting import ids_of, parser_of, refuse_read_only
from steps.cli.settings import workspace_settings


def main(arguments: list[str]) -> int:
    """Copy results from a remote cache into the workspace; every byte is checked on the way."""
    settings = workspace_settings()
    parser = parser_of("pull", main.__doc__)
    parser.set_defaults(workspace=settings["dir"])
    parser.add_argument(
        "names",
        nargs="*",
        help="a run, run:step, a step of the latest run with it, an id, an experiment file; "
        "without any, the runs that are there are listed",
    )
    parser.add_argument("--from", dest="url", metavar="URL", help="else tango.yml's remote")
    options = parser.parse_args(arguments)
    url = options.url or settings.get("remote")
    if url is None:
        print("--from is missing; tango.yml names no remote of the workspace", file=sys.stderr)
        return 2
    started = time.monotonic()
    remote = Remote(url)
    runs = dict(sorted(remote.runs().items(), key=lambda each: -each[1]["started"]))
    if not options.names:
        if not runs:
            print(f"no run is in {remote.store.shown}", file=sys.stderr)
        for name, run in runs.items():
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run["started"]))
            print(f"{when}  {name}  {counted(len(run['steps']), 'step')}")
        return 0 if runs else 1
    ids = dict.fromkeys(id for name in options.names for id in _ids(name, runs))
    from steps.workspace import ResultWorkspace

    workspace = ResultWorkspace(options.workspace)
    refuse_read_only(workspace.dir)
    there = remote.having(ids)
    moved = remote.pull(workspace.results, [id for id in ids if id in there])
    held = read_runs(workspace.results)
    for name in options.names:
        if name not in held and name in runs:
            workspace.note_run(name, runs[name]["steps"])
        elif name in runs and held[name].steps != runs[name]["steps"]:
            print(f"kept: the run {name} here, which has other steps")
    tell(moved, f"pulled from {remote.store.shown}", time.monotonic() - started)
    for id in ids:
        if id not in there:
            print(f"not in the remote: {id}")
    refused = [each for each in moved if each.state == "refused"]
    for each in refused:
        print(f"refused: {each.id}: {each.reason}", file=sys.stderr)
    if refused:
        mend = shlex.join(["olmo", "push", "--mend", *(each.id for each in refused)])
        print(f"where it was made, {mend} sends it again", file=sys.stderr)
    return 0 if (there or not ids) and not refused else 1


def _ids(name: str, runs: dict[str, dict[str, Any]]) -> list[str]:
    """The ids that a name stands for, of the runs in the remote, the newest first."""
    if is_id(name):
        return [name]
    if Path(name).is_file():
        return list(ids_of(name).values())
    if name in runs:
        return list(runs[name]["steps"].values())
    above, _, step = name.rpartition(":")
    for run, found in runs.items():
        if above in ("", run) and step in found["steps"]:
            return [found["steps"][step]]
    known = {*runs, *(step for run in runs.values() for step in run["steps"])}
    raise ValueError(f"{name!r} is no run, step or id in the remote{nearest(name, known)}")
