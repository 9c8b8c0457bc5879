"""Independent one-second steps on a Ray cluster of two processors, and one after the other.

    python benchmarks/bench_ray.py [--steps 8] [--repeats 5]

The cluster runs and its workers have run steps before, as in the middle of a run; the first steps
of a run, which start the workers, are measured apart. One JSON line of output.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
MEMORY = 100 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(cluster.address, Path(folder), options)))
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()


def measure(address: str, folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Times of the steps with each executor."""
    import trivial_ours  # noqa: F401  what is run

    import steps  # noqa: F401  first: Tango comes without torch then
    from steps.execution.executor import LocalExecutor
    from steps.execution.ray_executor import RayExecutor
    from steps.workspace import ResultWorkspace

    workspace = ResultWorkspace(str(folder))
    packages = ["steps", "trivial_ours"]
    on_ray = RayExecutor(workspace, packages, address=address)
    cold, _ = timed(on_ray, options.steps, 0)
    parallel, serial = [], []
    for repeat in range(1, options.repeats + 1):
        parallel.append(timed(on_ray, options.steps, repeat)[0])
        serial.append(timed(LocalExecutor(workspace, packages), options.steps, 500 + repeat)[0])
    median = statistics.median(parallel), statistics.median(serial)
    return {
        "benchmark": "ray",
        "steps": options.steps,
        "cold_seconds": round(cold, 2),
        "ray_seconds": [round(each, 2) for each in parallel],
        "serial_seconds": [round(each, 2) for each in serial],
        "ratio": round(median[0] / median[1], 3),
    }


def timed(executor: object, num_steps: int, repeat: int) -> tuple[float, object]:
    """Run new steps; the time that it took."""
    from tango.step_graph import StepGraph

    from steps.graph.wiring import build_steps

    first = repeat * 1000
    step = {"type": "add", "inputs": [], "seconds": 1.0}
    config = {f"s{n}": {**step, "value": first + n} for n in range(num_steps)}
    graph = StepGraph(build_steps(config))
    started = time.perf_counter()
    output = executor.execute_step_graph(graph)  # type: ignore[attr-defined]
    seconds = time.perf_counter() - started
    if output.failed or output.not_run:
        raise SystemExit("a step failed")
    return seconds, output


if __name__ == "__main__":
    main()
