"""Many runs beside each other on one workspace, some of them killed at random: who does what twice?

    python benchmarks/bench_together.py [--rounds 20] [--runs 8] [--kills 3] [--seed 0]

Each round starts runs of two experiments that share steps, on an empty workspace, with one or two
workers each, and kills -9 some of them or of their workers at random moments. Then one more run
finishes what is left. Prints one JSON line: rounds, kills that struck, and every fault found. A
fault is a run that ends badly though nobody killed it, a step that was made more often than once
and once for each kill, results that differ from those of an undisturbed run, a lease that is still
held, a process that is left.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SETTINGS = """
workspace: {type: local, dir: ws}
executor: {type: olmo}
include_package: [steps, trivial_ours]
log_level: warning
"""


def experiments(generator):
    """Two random graphs that have their first steps in common."""

    def grow(steps, prefix, count):
        for number in range(count):
            known = list(steps)[-6:]
            reads = generator.sample(known, min(len(known), generator.randint(0, 3)))
            steps[f"{prefix}{number}"] = {
                "type": "add",
                "inputs": [{"type": "ref", "ref": each} for each in reads],
                "value": len(steps) + (1000 if prefix == "y" else 0),
                "seconds": round(generator.random() * 0.1, 3),
            }
        return steps

    shared = grow({}, "s", 20)
    return {"x.json": grow(dict(shared), "x", 10), "y.json": grow(dict(shared), "y", 10)}


def start(folder, experiment, name, workers):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    command = ["steps.cli", "run", experiment, "-n", name, "-j", str(workers)]
    out = open(folder / f"{name}.txt", "a")
    return subprocess.Popen(
        [sys.executable, "-m", *command], cwd=folder, env=environment, stdout=out, stderr=out
    )


def below(pid):
    """The workers of a run."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit():
                stat = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                if stat[1] == str(pid):
                    found.append(int(name))
        except OSError:
            pass
    return found


def contents(folder):
    """What was made, by the id of the result."""
    manifests = (folder / "ws" / "cache").glob("*/manifest.json")
    return {path.parent.name: json.loads(path.read_text())["content"] for path in manifests}


def prepare(folder, graphs):
    (folder / "tango.yml").write_text(SETTINGS)
    for name, steps in graphs.items():
        (folder / name).write_text(json.dumps({"steps": steps}))


def undisturbed(graphs):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, graphs)
        for number, experiment in enumerate(graphs):
            assert start(folder, experiment, f"r{number}", 1).wait() == 0
        return contents(folder)


def disturbed(generator, graphs, expected, num_runs, num_kills):
    """One round; gives the kills that struck and the faults."""
    faults, struck = [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, graphs)
        running = [
            start(folder, generator.choice(list(graphs)), f"r{i}", generator.randint(1, 2))
            for i in range(num_runs)
        ]
        killed = set()
        for _ in range(num_kills):
            time.sleep(generator.random() * 1.5)
            victim = generator.randrange(num_runs)
            if running[victim].poll() is not None:
                continue
            workers = below(running[victim].pid)
            if workers and generator.random() < 0.5:
                os.kill(generator.choice(workers), signal.SIGKILL)  # its run starts the step anew
            else:
                running[victim].kill()
                killed.add(victim)
            struck += 1
        for number, run in enumerate(running):
            status = run.wait()
            if status != (-9 if number in killed else 0):
                faults.append(f"run {number} ended with {status}")
        for experiment in graphs:
            if start(folder, experiment, "last", 1).wait():
                faults.append(f"the last run of {experiment} failed")
        if contents(folder) != expected:
            faults.append("other results than those of an undisturbed run")
        times = {}
        for log in (folder / "ws" / "runs").glob("*/logs/*.log"):
            text = log.read_text()
            times[log.stem] = times.get(log.stem, 0) + text.count("Finished step")
        made = sum(times.values())
        if made < len(expected) or made > len(expected) + struck:
            faults.append(f"{made} steps were made for {len(expected)} results, {struck} kills")
        held = [path.name for path in (folder / "ws" / "leases").glob("[!.]*")]
        if held:
            faults.append(f"leases are left: {held}")
        time.sleep(0.2)
        for process in Path("/proc").glob("[0-9]*/cwd"):
            try:
                if process.resolve().is_relative_to(folder):
                    faults.append(f"process {process.parent.name} is left")
            except OSError:
                pass
    return struck, faults


def main():
    parser = argparse.ArgumentParser()
    for name, value in (("rounds", 20), ("runs", 8), ("kills", 3), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    struck, faults, started = 0, [], time.monotonic()
    for number in range(options.rounds):
        graphs = experiments(generator)
        expected = undisturbed(graphs)
        more, found = disturbed(generator, graphs, expected, options.runs, options.kills)
        struck += more
        faults += [f"round {number}: {each}" for each in found]
    print(
        json.dumps(
            {
                "rounds": options.rounds,
                "runs": options.rounds * options.runs,
                "kills": struck,
                "seconds": round(time.monotonic() - started),
                "faults": faults,
            }
        )
    )


if __name__ == "__main__":
    main()
