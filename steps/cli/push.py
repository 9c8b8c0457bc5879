"""`olmo push`: results to a cache that other machines pull from."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from pipeline.core.terminal import counted
from pipeline.store.remote import Moved, Remote
from pipeline.store.results import Results
from pipeline.store.survey import read_runs
from steps.cli.selecting import find, open_named, parser_of
from steps.cli.settings import workspace_settings


def main(arguments: list[str]) -> int:
    """Copy results to a remote cache; what is there is not sent again. Sends the latest run."""
    settings = workspace_settings()
    parser = parser_of("push", main.__doc__)
    parser.set_defaults(workspace=settings["dir"])
    parser.add_argument("names", nargs="*", help="a run, or as in `olmo show`: step, run:step, id")
    parser.add_argument("--to", metavar="URL", help="s3://, gs:// or a folder; else tango.yml's")
    parser.add_argument("--mend", action="store_true", help="send also what stands there already")
    options = parser.parse_args(arguments)
    url = options.to or settings.get("remote")
    if url is None:
        print("--to is missing; tango.yml names no remote of the workspace", file=sys.stderr)
        return 2
    started = time.monotonic()
    workspace = open_named(options.workspace)
    results, remote = workspace.results, Remote(url)
    runs = read_runs(results)
    names = options.names or list(runs)[:1]
    ids: dict[str, None] = {}
    for name in names:
        ids |= dict.fromkeys(runs[name].steps.values() if name in runs else [find(workspace, name)])
    missing = _missing(results, ids)
    moved = remote.push(results, [id for id in ids if id not in missing], mend=options.mend)
    for name in names:
        if name in runs:
            remote.push_run(name, runs[name].steps, runs[name].registered)
    tell(moved, f"pushed to {remote.store.shown}", time.monotonic() - started)
    for id in missing:
        print(f"not there yet: {id}")
    return 0


def _missing(results: Results, ids: Sequence[str] | dict[str, None]) -> list[str]:
    """Those that no step has made yet; damaged ones are not among them."""
    return [id for id in ids if not results.folder(id).is_dir()]


def tell(moved: Sequence[Moved], verb: str, seconds: float) -> None:
    """Say what was moved, what was there, and what the other side keeps."""
    sent = [each for each in moved if each.state == "moved"]
    num_bytes = sum(each.num_bytes for each in sent)
    print(f"{counted(len(sent), 'result')} {verb}: {num_bytes / 1e6:.1f} MB in {seconds:.1f} s")
    if there := sum(each.state == "there" for each in moved):
        print(f"{there} were there")
    for each in moved:
        if each.state == "kept":
            print(f"kept: {each.id}, which stands there with another content")
        if each.state == "discarded":
            print(f"not sent: {each.id}, whose data was discarded here")
