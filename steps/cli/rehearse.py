"""`olmo rehearse`: the whole graph in small, in a scratch workspace."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

MARK = "rehearsal.json"  # the experiment in small; it also says that a folder is a rehearsal's


def main(arguments: list[str]) -> int:
    """Run a graph with little data, narrow models and few updates, to see whether it would run.

    Every step and every edge is the experiment's own. Exit status 0: all steps were done; 1: one
    failed, or the experiment has a fault; 2: a source is out of reach, and nothing was run.
    """
    options = _options(arguments)
    from steps.cli.experiment import read_experiment

    own = options.workspace is None
    config = read_experiment(options.experiment)
    scratch = _scratch(options.workspace)
    status = 1
    try:
        status = _rehearse(config, options, scratch)
    finally:
        begun = (scratch / "runs").is_dir()
        if own and not (begun and (options.keep or status == 1)):
            shutil.rmtree(scratch)
        elif begun:
            print(f"The workspace of this rehearsal, to look at or go on with -w: {scratch}")
    return status


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="olmo rehearse", description=main.__doc__)
    add = parser.add_argument
    add("experiment")
    say = "read a file in place of the source of a step; NAME may be a pattern, as 'paloma_*'"
    add("--source", action="append", default=[], metavar="NAME=PATH", help=say)
    add("--stand-in", action="store_true", help="make up data that this machine cannot reach")
    say = "scratch workspace, kept; without it, a temporary one"
    add("-w", "--workspace", metavar="SCRATCH", help=say)
    add("--keep", action="store_true", help="keep the temporary workspace of a rehearsal that ran")
    say = "documents of each source (%(default)s)"
    add("--documents", type=int, default=128, metavar="N", help=say)
    add("--compile", action="store_true", help="compile layers where the experiment does")
    return parser.parse_args(arguments)


def _scratch(folder: str | None) -> Path:
    """A folder for the rehearsal; raises ValueError for one that holds something else."""
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="olmo-rehearsal-"))
    path = Path(folder).resolve()
    if path.exists() and not (
        path.is_dir() and (not any(path.iterdir()) or (path / MARK).exists())
    ):
        raise ValueError(f"-w {folder}: it holds something else; give an empty or a new folder")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _rehearse(config: dict[str, Any], options: argparse.Namespace, scratch: Path) -> int:
    from tango.common.util import import_extra_module

    import steps  # noqa: F401  registers every step
    from pipeline.core.files import write_json
    from pipeline.store.provenance import machine
    from pipeline.train.small import Small
    from steps.execution.needs import num_gpus
    from steps.execution.outcome import execute, outcome_table
    from steps.graph.rehearsal import Size, rehearsed
    from steps.graph.stand_in import cuts_in_words, missing_in_words, supply

    if options.documents < 1:
        raise ValueError(f"--documents is {options.documents}; it must be at least 1")
    for package in config.get("include_package", []):
        import_extra_module(package)
    # two ranks cannot share one GPU, and without a GPU they work on the cores
    one_gpu = bool(machine()["gpus"]) and num_gpus() == 1
    training = Small(num_ranks=1 if one_gpu else 2, compile=options.compile)
    size = Size(num_documents=options.documents, training=training)
    write_json(scratch / MARK, {})
    supplied = supply(
        config["steps"],
        size,
        _files(options.source),
        folder=scratch / "stand-in",
        make_up=options.stand_in,
    )
    if supplied.missing:
        print(missing_in_words(supplied.missing), file=sys.stderr)
        return 2
    small, changed = rehearsed(config["steps"], size, supplied.values)
    write_json(scratch / MARK, {"steps": small})
    outcomes = execute(small, scratch)
    print(outcome_table(outcomes))
    print("\n".join(cuts_in_words(supplied, size, changed)))
    if one_gpu:
        print("On one GPU ranks share nothing; CUDA_VISIBLE_DEVICES= rehearses them on the cores.")
    return int(any(each.state in ("failed", "not run") for each in outcomes))


def _files(given: list[str]) -> dict[str, str]:
    files = {}
    for each in given:
        name, sign, path = each.partition("=")
        if not name or not sign or not path:
            raise ValueError(f"--source {each}: it must be NAME=PATH")
        files[name] = path if "://" in path else os.path.abspath(path)
    return files
