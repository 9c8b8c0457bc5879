"""How long `olmo plan` takes: a graph of 200 cached steps, and OLMo 7B's. One JSON line.

The steps are real ones over one document a source, run once into a scratch workspace; each repeat
is a process of its own, as a person would start it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STEPS_OF_A_SOURCE = 8
# what a plan takes once everything is imported, told by the process itself
AFTER_IMPORTS = """
import sys, time
import steps, yaml, rjsonnet
from steps.plan import drawing, planning
from steps.graph import locking
from steps.cli import experiment, plan
from steps.cli.plan import main
wall, cpu = time.perf_counter(), time.process_time()
status = main(sys.argv[1:])
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(f"{wall} {cpu} {status} {'torch' in sys.modules}", file=sys.stderr)
"""


def graph(num_steps: int, folder: Path) -> dict[str, Any]:
    """Curation of as many small sources as make up the steps."""

    def ref(name: str) -> dict[str, str]:
        return {"type": "ref", "ref": name}

    steps: dict[str, Any] = {}
    for number in range(num_steps // STEPS_OF_A_SOURCE):
        path, name = folder / f"{number}.jsonl", f"s{number:02d}"
        path.write_text(json.dumps({"id": "1", "text": f"A document of source {number}.\n"}))
        source = {"type": "jsonl", "path": str(path), "source": name}
        sample = {"sample_by": "id", "from_fraction": 0.0, "to_fraction": 1.0, "seed": name}
        once = {"attribute": "dedup.duplicate_document", "at_most": 0}
        steps |= {
            name: {"type": "ingest", "source": source},
            f"{name}_gopher": {"type": "tag", "documents": ref(name), "taggers": ["gopher"]},
            f"{name}_c4": {"type": "tag", "documents": ref(name), "taggers": ["c4"]},
            f"{name}_lengths": {"type": "tag", "documents": ref(name), "taggers": ["lengths"]},
            f"{name}_repeats": {"type": "dedup", "documents": ref(name), "by": ["document"]},
            f"{name}_kept": {
                "type": "filter",
                "documents": ref(name),
                "attributes": [ref(f"{name}_repeats")],
                "rules": [once],
            },
            f"{name}_part": {"type": "filter", "documents": ref(f"{name}_kept"), "rules": [sample]},
            f"{name}_all": {"type": "concat", "documents": [ref(f"{name}_part")]},
        }
    return {"steps": steps}


def timed(
    command: list[str], folder: Path
) -> tuple[float, float, subprocess.CompletedProcess[str]]:
    """Wall and processor seconds of a process, and how it ended."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return wall, cpu, ended


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    rounded = [round(each, 3) for each in values]
    return {
        "median": round(statistics.median(rounded), 3),
        "min": min(rounded),
        "max": max(rounded),
    }


def measured(experiment: Path, workspace: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """The plan of an experiment: after imports, and as a command in all."""
    arguments = [str(experiment), "-w", str(workspace)]
    after, after_cpu, whole, whole_cpu, status, torch = [], [], [], [], set(), False
    for _ in range(repeats):
        _, _, ended = timed([sys.executable, "-c", AFTER_IMPORTS, *arguments], folder)
        wall, cpu, said, imported = ended.stderr.split()[-4:]
        after.append(float(wall))
        after_cpu.append(float(cpu))
        status.add(int(said))
        torch |= imported == "True"
        seconds, cpu_seconds, _ = timed(
            [sys.executable, "-m", "steps.cli", "plan", *arguments], folder
        )
        whole.append(seconds)
        whole_cpu.append(cpu_seconds)
    return {
        "after_imports_s": spread(after),
        "after_imports_cpu_s": spread(after_cpu),
        "command_s": spread(whole),
        "command_cpu_s": spread(whole_cpu),
        "exit_status": sorted(status),
        "torch_imported": torch,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        experiment, workspace = folder / "cached.json", folder / "workspace"
        experiment.write_text(json.dumps(graph(options.steps, folder)))
        run = [sys.executable, "-m", "tango", "run", str(experiment), "-w", str(workspace)]
        seconds, _, ended = timed(run, folder)
        if ended.returncode:
            sys.exit(ended.stdout + ended.stderr)
        large = ROOT / "experiments" / "olmo7b.jsonnet"
        result = {
            "bench": "plan",
            "num_steps": options.steps,
            "repeats": options.repeats,
            "first_run_s": round(seconds, 1),
            "cached": measured(experiment, workspace, folder, options.repeats),
            "olmo7b": measured(large, folder / "empty", folder, options.repeats),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
