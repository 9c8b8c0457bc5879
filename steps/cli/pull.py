"""`olmo pull`: results that another machine pushed."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from pipeline.core.errors import PipelineError
from pipeline.store.remote import Remote
from steps.cli.experiment import SyntaxFault, read_experiment
from steps.cli.push import chosen, read_runs, tell
from steps.cli.settings import workspace_settings


def main(arguments: list[str]) -> int:
    """Copy results from a remote cache into the workspace; every byte is checked on the way."""
    parser = argparse.ArgumentParser(prog="olmo pull", description=main.__doc__)
    parser.add_argument(
        "names", nargs="*", help="a run, run:step, a step, an id, an experiment file; else a list"
    )
    parser.add_argument("--from", dest="url", metavar="URL", help="else tango.yml's remote")
    parser.add_argument("-w", "--workspace", help="folder of the results; else tango.yml's")
    options = parser.parse_args(arguments)
    settings = workspace_settings()
    url = options.url or settings.get("remote")
    if url is None:
        print("--from is missing; tango.yml names no remote of the workspace", file=sys.stderr)
        return 2
    try:
        return _pull(Remote(url), options.names, options.workspace or settings["dir"])
    except KeyError as missing:
        print(f"{missing.args[0]} does not stand in {Remote(url).store.shown}", file=sys.stderr)
    except (PipelineError, ValueError, OSError, SyntaxFault) as fault:
        print(fault, file=sys.stderr)
    return 1


def _pull(remote: Remote, names: list[str], root: str) -> int:
    started = time.monotonic()
    runs = dict(sorted(remote.runs().items(), key=lambda each: each[1]["started"]))
    if not names:
        for name, run in runs.items():
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run["started"]))
            print(f"{when}  {name}  {len(run['steps'])} steps")
        return 0
    from steps.workspace import ResultWorkspace

    workspace = ResultWorkspace(root)
    experiments = [name for name in names if Path(name).is_file()]
    named = [name for name in names if name not in experiments]
    ids = chosen(named, {name: run["steps"] for name, run in runs.items()})
    for each in experiments:
        ids += _ids(each)
    there = remote.having(ids)
    moved = remote.pull(workspace.results, [id for id in ids if id in there])
    held = read_runs(workspace.dir)
    for name in named:
        if name not in held and name in runs:
            workspace.note_run(name, runs[name]["steps"])
        elif name in runs and held[name][1] != runs[name]["steps"]:
            print(f"kept: the run {name} here, which has other steps")
    tell(moved, f"pulled from {remote.store.shown}", time.monotonic() - started)
    for id in ids:
        if id not in there:
            print(f"not in the remote: {id}")
    return 0 if there or not ids else 1


def _ids(experiment: str) -> list[str]:
    config = read_experiment(experiment)
    import steps  # noqa: F401  registers every step
    from steps.wiring import build_steps

    return [step.unique_id for step in build_steps(config["steps"]).values()]
