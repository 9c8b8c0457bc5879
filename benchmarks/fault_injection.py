"""Faults in a finished workspace: what is found, by whom, and is it made again?

    python benchmarks/fault_injection.py                  a few of each, in a minute or two
    python benchmarks/fault_injection.py --rounds 4 --every-file
    python benchmarks/fault_injection.py --experiment experiments/tiny-offline.jsonnet

1. One byte is flipped, or one cut off, in a file of a result or a checkpoint. Is it found by
   `olmo verify`, by the look before a step reads the result (the next run's reader), and by a
   question whether the result is there (`olmo plan`)? Once as a program would do it, and once with
   the modification time put back, as a disk does that rots.
2. The same, from end to end: a file is damaged, what was made from it is removed, and the graph is
   run again. Does every result have the content that an undisturbed run gave it?

The graph is that of the tests: all of tiny's steps over a small corpus, so that a run takes
seconds; with `--experiment` any other. Kills are in `kills.py`. Prints a table as Markdown.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.core.artifacts import Artifact, Checkpoints, TokenShard  # noqa: E402
from pipeline.core.errors import CorruptShard  # noqa: E402
from pipeline.core.files import Shard  # noqa: E402
from pipeline.core.shards import read_shard  # noqa: E402
from pipeline.store.results import Results  # noqa: E402
from pipeline.store.verifying import find_damage  # noqa: E402
from tests.fixtures.small import (  # noqa: E402
    build,
    contents,
    run_here,
    write_experiment,
)

FAULTS = ("flip", "cut")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--experiment", type=Path, help="instead of the tests' small graph")
    parser.add_argument("--finished", type=Path, help="a workspace in which it was run already")
    parser.add_argument("--rounds", type=int, default=1, help="flips of each file, at other bytes")
    parser.add_argument("--runs", type=int, default=5, help="faults that are mended by a run")
    parser.add_argument("--every-file", action="store_true", help="not only a few of each kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        experiment = options.experiment or write_experiment(folder / "small.jsonnet")
        started = time.monotonic()
        finished = options.finished or folder / "finished"
        if forked(lambda: run(experiment, finished)):
            print("the undisturbed run failed", file=sys.stderr)
            return 1
        seconds = time.monotonic() - started
        print(f"undisturbed: {len(build(experiment))} steps in {seconds:.1f} s\n", flush=True)
        status = forked(
            lambda: damage_files(finished, folder / "damaged", options.rounds, options.every_file)
        )
        status |= forked(
            lambda: mend_by_running(experiment, finished, folder / "mended", options.runs)
        )
    return int(status)


def forked(work: Callable[[], bool]) -> int:
    """Do some work in a fork; gives its exit status, 0 for True.

    This process itself runs no step, so it has no threads whose locks a fork would inherit held.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if work() else 1
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(experiment: Path, workspace: Path) -> bool:
    """Run the experiment; whether every step is there."""
    return set(states_of(experiment, workspace).values()) <= {"ran", "linked", "cached"}


def states_of(experiment: Path, workspace: Path) -> dict[str, str]:
    """Run the experiment, saying nothing; how each step came to its result."""
    sys.stdout.flush()
    said = os.dup(1), os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        return run_here(build(experiment), workspace)
    finally:
        sys.stdout.flush()
        for number, place in enumerate(said, 1):
            os.dup2(place, number)
            os.close(place)


# ---------------------------------------------------------------------------- one file


def targets(results: Results) -> list[tuple[str, Path]]:
    """Every file of a result and of its checkpoints, with the id of the result."""
    found = []
    for id in results:
        folder = results.folder(id)
        found += [(id, each) for each in sorted(folder.rglob("*")) if each.is_file()]
        made = Artifact.load(folder)
        for checkpoint in made.steps if isinstance(made, Checkpoints) else []:
            found += [(id, each) for each in sorted(made.folder(checkpoint).iterdir())]
    return found


def damage(path: Path, fault: str, keep_time: bool) -> None:
    data, found = bytearray(path.read_bytes()), path.stat()
    if fault == "flip" and data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    else:
        del data[-1:]
    path.write_bytes(data)
    times = (found.st_atime_ns, found.st_mtime_ns)
    if keep_time:
        os.utime(path, ns=times)
    else:
        os.utime(path, ns=(times[0], times[1] + 10**9))


def read(made: Artifact) -> None:
    """Open every file of an artifact as the steps do, without a look at modification times."""
    for each in made.files():
        if each.path.endswith(".parquet"):
            rows = each.num_records if isinstance(each, Shard) else None
            if rows is not None and not isinstance(each, TokenShard):
                read_shard(made.root, each)
        else:
            each.place(made.root)


def found_by(results: Results, id: str) -> dict[str, bool]:
    """Who finds that a result is damaged."""
    said = {"plan": id not in results, "next reader": bool(results.unreadable(id))}
    try:
        read(Artifact.load(results.folder(id)))
        said["reading alone"] = False
    except CorruptShard:
        said["reading alone"] = True
    said["verify"] = bool(find_damage(results, id))
    return said


def damage_files(finished: Path, workspace: Path, rounds: int, every: bool) -> bool:
    shutil.copytree(finished, workspace, symlinks=True)
    shutil.rmtree(workspace / "memo")
    results = Results(workspace)
    files = targets(results)
    if not every:
        by_kind: dict[tuple[str, str], tuple[str, Path]] = {}
        for id, path in files:
            by_kind.setdefault((id.split("-")[0], path.name), (id, path))
        files = list(by_kind.values())
    counts: dict[tuple[str, str], Counter[str]] = {}
    missed = []
    for id, path in files:
        whole, times = path.read_bytes(), path.stat()
        for fault in FAULTS * rounds:
            for keep_time in (False, True):
                name = "time kept" if keep_time else "as a program"
                count = counts.setdefault((fault, name), Counter())
                path.unlink()
                path.write_bytes(whole)
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
                results.mark(id, "")
                damage(path, fault, keep_time)
                said = found_by(results, id)
                count.update(name for name, found in said.items() if found)
                count["faults"] += 1
                if not said["verify"] or not (keep_time or said["next reader"]):
                    missed.append((fault, name, id, path.name))
        path.write_bytes(whole)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        find_damage(results, id)
    heads = ["verify", "next reader", "reading alone", "plan"]
    print(f"| fault in {len(files)} files | faults | {' | '.join(heads)} |")
    print("|---|---|---|---|---|---|")
    for (fault, name), count in counts.items():
        cells = " | ".join(str(count[head]) for head in heads)
        print(f"| {fault}, {name} | {count['faults']} | {cells} |")
    for each in missed[:10]:
        print("missed:", *each)
    still = [str(each) for id in results for each in find_damage(results, id)]
    print(f"\nput back: {len(still)} results are still called damaged\n", flush=True)
    shutil.rmtree(workspace)
    return not missed and not still


# ---------------------------------------------------------------------------- end to end


def mend_by_running(experiment: Path, finished: Path, workspace: Path, runs: int) -> bool:
    graph = build(experiment)
    expected = contents(graph, finished)
    readers: dict[str, list[str]] = {}
    for name, step in graph.items():
        for each in step.dependencies:
            readers.setdefault(each.unique_id, []).append(name)
    bad, aside = [], 0
    for number in range(runs):
        shutil.copytree(finished, workspace, symlinks=True)
        results = Results(workspace)
        id, path = random.choice([each for each in targets(results) if each[0] in readers])
        fault = FAULTS[number % len(FAULTS)]
        damage(path, fault, keep_time=False)
        reader = random.choice(readers[id])
        shutil.rmtree(results.folder(graph[reader].unique_id))
        shutil.rmtree(workspace / "memo")
        states = states_of(experiment, workspace)
        aside += len(list((workspace / "damaged").glob("*")))
        left = [str(each) for each in results.standing() if find_damage(results, each)]
        good = set(states.values()) <= {"ran", "linked", "cached"} and not left
        if not good or contents(graph, workspace) != expected:
            unlike = {name: state for name, state in states.items() if state != "cached"}
            bad.append((fault, path.relative_to(workspace), reader, unlike, left))
        shutil.rmtree(workspace)
    print(
        f"damaged and run again: {runs} runs, {runs - len(bad)} ended with the undisturbed "
        f"contents, {aside} results were set aside\n",
        flush=True,
    )
    for each in bad:
        print("differs:", *each)
    return not bad


if __name__ == "__main__":
    sys.exit(main())
