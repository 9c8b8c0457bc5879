"""`olmo provenance`: what a result was made of, as a tree or as an RO-Crate."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.store.results import Results


def main(arguments: list[str]) -> int:
    """Say what a result was made of, down to its sources.

    RESULT is `experiment.jsonnet:step`, `run:step`, a step of the latest run, or the beginning of
    an id. Exit status 1: there is no such result.
    """
    parser = argparse.ArgumentParser(prog="olmo provenance", description=main.__doc__)
    parser.add_argument("result", metavar="RESULT")
    parser.add_argument("-w", "--workspace", default="workspace")
    say = "write an RO-Crate 1.1 (ro-crate-metadata.json) into this folder"
    parser.add_argument("--rocrate", metavar="FOLDER", type=Path, help=say)
    say = "place the results' files in the crate as well, by links where the file system has them"
    parser.add_argument("--files", action="store_true", help=say)
    options = parser.parse_args(arguments)
    import steps  # noqa: F401  registers every step
    from pipeline.report.provenance import provenance_tree
    from pipeline.report.rocrate import write_crate
    from pipeline.store.lineage import lineage
    from pipeline.store.results import Results
    from steps.graph.defaults import chosen_arguments

    results = Results(options.workspace)
    made = lineage(results, _found(results, options.result))
    if made[-1].damage:
        raise ValueError(f"{options.result}: {made[-1].id} is damaged: {made[-1].damage}")
    if not made[-1].is_here:
        raise ValueError(f"{options.result}: {made[-1].id} is not in {options.workspace}")
    if options.rocrate is not None:
        written = write_crate(
            made,
            options.rocrate,
            lambda each: chosen_arguments(each.step, each.args),
            with_files=options.files,
        )
        print(written)
        return 0
    for line in provenance_tree(made, lambda each: chosen_arguments(each.step, each.args)):
        print(line)
    return 0


def _found(results: Results, text: str) -> str:
    """The id of what is asked for; a step of an experiment is one that was run or would be."""
    from pipeline.core.errors import nearest
    from pipeline.store.finding import find_result
    from steps.cli.experiment import build_experiment

    path, sign, step = text.rpartition(":")
    if not sign or not path.endswith((".jsonnet", ".json")):
        return find_result(results, text)
    built = build_experiment(path)
    if step not in built:
        raise ValueError(f"{path} has no step {step!r}{nearest(step, built)}")
    return built[step].unique_id
