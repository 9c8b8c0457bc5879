"""What our layer costs beside bare Tango: a run in which all is cached, a tiny step, two workers.

    python benchmarks/bench_overhead.py [--repeats 5]

Bare Tango is its own workspace and executor on the same graph of trivial steps: 20 chains of 10.
Prints one JSON line: medians, and the least and most of the repeats. CPU seconds are those of the
command and all its children, which neighbours on the machine hardly change.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHAINS, LENGTH = 20, 10
SETTINGS = {
    "bare": "workspace: {type: local, dir: ws}\ninclude_package: [trivial_bare]\n",
    "ours": "workspace: {type: local, dir: ws}\nexecutor: {type: olmo}\n"
    "include_package: [steps, trivial_ours]\nlog_level: warning\n",
}


def ref(name):
    return {"type": "ref", "ref": name}


def chains():
    """200 steps, each but the first of a chain reading the one before."""
    return {
        f"s{row}_{chain}": {
            "type": "add",
            "inputs": [ref(f"s{row - 1}_{chain}")] if row else [],
            "value": row * CHAINS + chain,
        }
        for row in range(LENGTH)
        for chain in range(CHAINS)
    }


def sleepers():
    """Eight steps of a second, once two others have warmed up what runs them."""
    warm = {f"warm{i}": {"type": "add", "inputs": [], "value": i, "seconds": 0.2} for i in (0, 1)}
    reads = [ref(name) for name in warm]
    return warm | {
        f"s{i}": {"type": "add", "inputs": reads, "value": 10 + i, "seconds": 1.0} for i in range(8)
    }


def run(folder, *command):
    """Run a command; gives its wall seconds and the CPU seconds of it and its children."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    started = time.perf_counter()
    with open(folder / "out.txt", "w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, env=environment, stdout=out, stderr=out
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit((folder / "out.txt").read_text())
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def section(folder, run_name):
    """Seconds from the first start to the last end of the one-second steps, by their logs."""
    times = []
    for log in (folder / "ws" / "runs" / run_name / "logs").glob("s*.log"):
        for line in log.read_text().splitlines():
            moment, milliseconds = line[:23].split(",")
            stamp = time.mktime(time.strptime(moment, "%Y-%m-%d %H:%M:%S"))
            times.append(stamp + int(milliseconds) / 1000)
    return max(times) - min(times)


def spread(values):
    return [round(each, 3) for each in (statistics.median(values), min(values), max(values))]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    found = {}

    def note(name, wall, cpu):
        found.setdefault(f"{name} wall", []).append(wall)
        found.setdefault(f"{name} cpu", []).append(cpu)

    for _ in range(repeats):
        for kind in ("bare", "ours"):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                (folder / "tango.yml").write_text(SETTINGS[kind])
                (folder / "x.json").write_text(json.dumps({"steps": chains()}))
                wall, cpu = run(folder, "tango", "run", "x.json", "-n", "first")
                idle, idle_cpu = run(folder, "tango", "run", "x.json", "-n", "second")
                note(f"{kind} no-op", idle, idle_cpu)
                steps = CHAINS * LENGTH
                note(f"{kind} step", (wall - idle) / steps, (cpu - idle_cpu) / steps)
                if kind == "ours":
                    note("olmo no-op", *run(folder, "steps.cli", "run", "x.json", "-n", "third"))
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                (folder / "tango.yml").write_text(SETTINGS["ours"])
                (folder / "x.json").write_text(json.dumps({"steps": sleepers()}))
                command = ("steps.cli", "run", "x.json", "-n", "r", "-j", str(workers))
                note(f"{workers} workers command", *run(folder, *command))
                found.setdefault(f"{workers} workers warm", []).append(section(folder, "r"))
    middle = {name: statistics.median(values) for name, values in found.items()}
    ratios = {
        "no-op cpu": middle["ours no-op cpu"] / middle["bare no-op cpu"],
        "no-op wall": middle["ours no-op wall"] / middle["bare no-op wall"],
        "step cpu": middle["ours step cpu"] / middle["bare step cpu"],
        "step wall": middle["ours step wall"] / middle["bare step wall"],
        "two workers, warm": middle["2 workers warm"] / middle["1 workers warm"],
        "two workers, command": middle["2 workers command wall"] / middle["1 workers command wall"],
    }
    print(
        json.dumps(
            {
                "repeats": repeats,
                "ratios": {name: round(value, 3) for name, value in ratios.items()},
                "seconds (median, least, most)": {n: spread(v) for n, v in found.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
