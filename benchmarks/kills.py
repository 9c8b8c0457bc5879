"""Kills at random moments of a run: are the contents the same, and what did each kill cost?

    python benchmarks/kills.py                       50 kills of a whole curation, in 5 rounds
    python benchmarks/kills.py --kills 4 --records 400
    python benchmarks/kills.py --graph small --kills 100     tiny's graph over the tests' corpus
    python benchmarks/kills.py --experiment experiments/tiny-offline.jsonnet

The curation (`tests/fixtures/curation.py`) is of made-up documents: every format, tagger and kind
of duplicate, decontamination, a filter with replacement and sampling, token shards, Dolma's
folders. First it runs undisturbed. Then, in an empty workspace, it is killed (-9) again and again,
and goes on after each kill, which is of all of its processes at once, of the run alone, or of one
process below it, which the run may survive. Moments are drawn uniformly from the undisturbed time,
and told by progress, as a run that is killed lags behind: so many results, and so long after the
last of them. At the end of each round every content digest must be that of the undisturbed run,
every result whole, nothing complete written again, and no lease, work folder, temporary file or
process left.

Prints as Markdown what each kind of step had in hand when its whole run was struck: seconds since
its attempt began, files that were finished, and how many of these the result has in the end, as the
same file. Files in a step's scratch folders are in no result.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.corpus import surroundings  # noqa: E402
from pipeline.store.leases import live_leases  # noqa: E402
from pipeline.store.results import Results  # noqa: E402
from pipeline.store.verifying import find_damage  # noqa: E402
from steps.cli.experiment import build_experiment  # noqa: E402
from tests.fixtures.curation import write_graph, write_sources  # noqa: E402
from tests.fixtures.mortal import complete_files  # noqa: E402
from tests.fixtures.small import contents, write_experiment  # noqa: E402

ALL, RUN, BELOW = "all of its processes", "the run alone", "one process below it"
CHANCES = {ALL: 0.5, RUN: 0.2, BELOW: 0.3}
MARK = "OLMO_TANGO_KILLS"  # in the environment of every process of a round
ENDING_SECONDS = 20.0  # for what a killed run had started to end in
NOTES = ("key.json", "failure.json")  # of a work folder, which are no work
SHARDS = 20  # of the curation, about


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--graph", choices=["curation", "small"], default="curation")
    parser.add_argument("--experiment", type=Path, help="instead of such a graph")
    parser.add_argument("--records", type=int, default=4000, help="made-up ones of the curation")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--per-round", type=int, default=10, help="kills of one run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        experiment = options.experiment
        if experiment is None and options.graph == "small":
            experiment = write_experiment(folder / "small.jsonnet")
        elif experiment is None:
            experiment = write_curation(folder, options.records)
        rounds = Rounds(experiment, folder)
        print(surroundings("pyarrow", "numpy"))
        whole, idle = f"{rounds.seconds:.1f} s", f"{rounds.idle:.1f} s where all is there"
        print(f"undisturbed: {len(rounds.graph)} steps in {whole}, {idle}\n", flush=True)
        return int(not rounds.strike(options.kills, options.per_round, options.seed))


def write_curation(folder: Path, num_records: int) -> Path:
    """The curation's sources and its experiment."""
    write_sources(folder / "sources", num_records)
    shard_bytes = max(1 << 14, 1300 * num_records // SHARDS)
    return write_graph(folder / "sources", folder / "curation.json", shard_bytes=shard_bytes)


@dataclass
class Struck:
    """A step that was at work when a kill came; a file is its inode and time."""

    id: str
    seconds: float
    finished: set[tuple[int, int]]
    num_scratch: int


@dataclass
class Kill:
    """One kill: of what, which results were there, what was complete, who was at work."""

    kind: str
    num_results: int
    complete: dict[str, Any]
    struck: list[Struck]


@dataclass
class Totals:
    """What became of several rounds; `faults` are what must not be."""

    kills: list[Kill] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    not_survived: int = 0  # runs that failed after one process below them was killed
    faults: list[str] = field(default_factory=list)
    steps: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


class Rounds:
    """Runs of an experiment that are killed, beside an undisturbed one."""

    def __init__(self, experiment: Path, folder: Path) -> None:
        self.experiment, self.folder = Path(experiment).resolve(), folder
        self.said = folder / "said.txt"
        self.graph = build_experiment(str(self.experiment))
        finished = folder / "finished"
        began = time.time()
        self.seconds, self.idle = self._timed(finished), self._timed(finished)
        self.commits = sorted(each.stat().st_mtime - began for each in _records(finished))
        self.expected = contents(self.graph, finished)

    def strike(self, num_kills: int, per_round: int, seed: int) -> bool:
        """Kill runs until there were so many kills, and tell of it; whether nothing was wrong."""
        chance, totals = random.Random(seed), Totals()
        while len(totals.kills) < num_kills:
            workspace = self.folder / f"round-{len(totals.seconds)}"
            count = min(per_round, num_kills - len(totals.kills))
            moments = sorted(chance.uniform(0, self.seconds) for _ in range(count))
            begun = time.monotonic()
            kills = self._round(workspace, moments, chance, totals)
            totals.seconds.append(time.monotonic() - begun)
            totals.kills += kills
            self._account(workspace, kills, totals)
            shutil.rmtree(workspace)
            seconds = f"{totals.seconds[-1]:.0f} s"
            print(f"{len(totals.kills)} kills, this round {seconds}", file=sys.stderr, flush=True)
        self._tell(totals)
        return not totals.faults

    def _start(self, workspace: Path) -> subprocess.Popen[bytes]:
        variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", MARK: str(workspace)}
        command = [sys.executable, "-m", "steps.cli", "run", self.experiment, "-w", workspace]
        with open(self.said, "ab") as said:
            return subprocess.Popen(
                [*map(str, command), "-j", "2"],
                cwd=ROOT,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def _timed(self, workspace: Path) -> float:
        begun = time.monotonic()
        if self._start(workspace).wait():
            sys.exit(self.said.read_text(errors="replace")[-3000:])
        return time.monotonic() - begun

    def _round(
        self, workspace: Path, moments: list[float], chance: random.Random, totals: Totals
    ) -> list[Kill]:
        """One run with its kills, to its end."""
        kills: list[Kill] = []
        running, begun, below = self._start(workspace), True, False
        for moment in moments:
            if running.poll() is not None:
                running, begun, below = self._start(workspace), True, False
            self._wait(workspace, running, moment, begun)
            begun = False
            if running.poll() is None:
                kills.append(self._kill(workspace, running, chance))
                below = below or kills[-1].kind == BELOW  # it may be ending of an earlier one
            elif running.returncode == 0:
                break
            else:
                self._note_end(below, totals)
        while running.wait():
            if running.returncode > 0:
                self._note_end(below, totals)
                if not below:
                    break
            running, below = self._start(workspace), False
        return kills

    def _wait(
        self, workspace: Path, running: subprocess.Popen[bytes], moment: float, begun: bool
    ) -> None:
        """Wait until a run is where the undisturbed one was at a moment, or has ended."""
        num_results = bisect(self.commits, moment)
        pause = moment - (self.commits[num_results - 1] if num_results else 0.0)
        if begun and num_results and len(_records(workspace)) >= num_results:
            pause += self.idle
        while len(_records(workspace)) < num_results and running.poll() is None:
            time.sleep(0.02)
        with suppress(subprocess.TimeoutExpired):
            running.wait(pause)

    def _note_end(self, below: bool, totals: Totals) -> None:
        """Count a run that failed: after a kill below it, or by itself."""
        if below:
            totals.not_survived += 1
        else:
            said = self.said.read_text(errors="replace")[-500:]
            totals.faults.append(f"a run failed by itself: {said}")

    def _kill(
        self, workspace: Path, running: subprocess.Popen[bytes], chance: random.Random
    ) -> Kill:
        at_work = live_leases(workspace / "leases")
        found = processes_of(workspace)
        below = [each for each in found if each != running.pid]
        (kind,) = chance.choices(list(CHANCES), list(CHANCES.values()))
        if not below:
            kind = ALL
        victims = {ALL: [running.pid, *below], RUN: [running.pid]}.get(kind)
        for pid in victims or [chance.choice(below)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if kind != BELOW:
            running.wait()
        struck = [] if kind == BELOW else _struck(workspace, at_work)
        results = sum(1 for _ in Results(workspace))
        return Kill(kind, results, complete_files(workspace), struck)

    def _account(self, workspace: Path, kills: list[Kill], totals: Totals) -> None:
        """Compare a round's end with the undisturbed run, and with what each kill found."""
        faults, results = totals.faults, Results(workspace)
        found = {}
        with suppress(KeyError):
            found = contents(self.graph, workspace)
        for name, content in self.expected.items():
            if found.get(name) != content:
                faults.append(f"{name} has other content")
        faults += [str(each) for id in results.standing() for each in find_damage(results, id)]
        faults += [f"{each} was left" for each in left_behind(workspace)]
        now = complete_files(workspace)
        for kill in kills:
            for name, state in kill.complete.items():
                if now.get(name) != state:
                    faults.append(f"{name} was complete and was written again")
            for each in kill.struck:
                count = totals.steps[each.id.split("-")[0]]
                final = set(_states(results.folder(each.id)))
                count["struck"] += 1
                count["seconds"] += round(each.seconds)
                count["finished"] += len(each.finished)
                count["kept"] += len(each.finished & final)
                count["scratch"] += each.num_scratch

    def _tell(self, totals: Totals) -> None:
        print("| step | struck at work | s at work | files finished | of them kept | in scratch |")
        print("|---|---|---|---|---|---|")
        for name, count in sorted(totals.steps.items()):
            cells = [count[each] for each in ("struck", "seconds", "finished", "kept", "scratch")]
            print(f"| {name} | {' | '.join(map(str, cells))} |")
        kinds = Counter(each.kind for each in totals.kills)
        told = ", ".join(f"{kinds[each]} of {each}" for each in CHANCES)
        there = [each.num_results for each in totals.kills]
        print(
            f"\n{len(there)} kills in {len(totals.seconds)} rounds: {told}. They struck with "
            f"{min(there)} to {max(there)} of {len(self.graph)} results there. A round took "
            f"{sum(totals.seconds) / len(totals.seconds):.0f} s. {totals.not_survived} runs did "
            f"not survive the kill of a process below. {len(totals.faults)} faults."
        )
        for each in totals.faults[:20]:
            print("-", each)


def _records(workspace: Path) -> list[Path]:
    """A file of every result, written when it was made."""
    return list(workspace.glob("cache/*/run.json"))


def processes_of(workspace: Path) -> list[int]:
    """The processes of a round that live, but for Python's trackers, which do no work."""
    mark, found = f"{MARK}={workspace}\0".encode(), []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            tracks = b"resource_tracker" in (place / "cmdline").read_bytes()
            if mark in (place / "environ").read_bytes() and not tracks:
                found.append(int(place.name))
    return found


def left_behind(workspace: Path) -> list[str]:
    """Leases, work, temporary files and processes of a round that is at its end."""
    deadline = time.monotonic() + ENDING_SECONDS
    while (living := processes_of(workspace)) and time.monotonic() < deadline:
        time.sleep(0.1)
    found = [*workspace.glob("leases/[!.]*"), *workspace.glob("work/*")]
    found += [each for part in ("cache", "memo") for each in (workspace / part).rglob(".*.tmp")]
    return [*map(str, found), *(f"process {each}" for each in living)]


def _struck(workspace: Path, at_work: set[str]) -> list[Struck]:
    found = []
    for folder in sorted(workspace.glob("work/*")):
        if folder.name in at_work and (folder / "key.json").is_file():
            seconds = time.time() - (folder / "key.json").stat().st_mtime
            scratch = sum(1 for _ in folder.glob(".*/*")) + sum(1 for _ in folder.glob(".[!.]*"))
            found.append(Struck(folder.name, seconds, set(_states(folder)), scratch))
    return found


def _states(folder: Path) -> list[tuple[int, int]]:
    """Inode and time of the files that a step finished; hidden ones are not what it makes."""
    every = [each for each in folder.rglob("*") if each.is_file() and each.name not in NOTES]
    plain = [each for each in every if not any(p[0] == "." for p in each.relative_to(folder).parts)]
    return [(each.stat().st_ino, each.stat().st_mtime_ns) for each in plain]


if __name__ == "__main__":
    sys.exit(main())
