"""Any batch of the order, against a shuffled array of all instances.

    python benchmarks/bench_order.py [--instances 100000000] [--batch 2048]

The array is NumPy's `Generator.permutation`, made once, which is what a start or a resume waits
for; the order is asked for one batch in the middle of an epoch, and for its inverse; seconds, the
best of five (of one for the array). Prints a table as Markdown.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.tokens.order import FeistelOrder


def best(times, call):
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return min(taken)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=100_000_000, help="of the array")
    parser.add_argument("--batch", type=int, default=2048)
    options = parser.parse_args()
    print("| | instances | seconds | MB held |\n|---|---|---|---|")
    size = options.instances
    taken = best(1, lambda: np.random.default_rng(0).permutation(size))
    print(f"| NumPy's permutation | {size:,} | {taken:.2f} | {size * 8 / 1e6:,.0f} |")
    for size in (options.instances, 1_200_000_000):
        order = FeistelOrder(size, options.batch, 0)
        step = size // options.batch // 2
        instances = order.at(step)
        for name, call in (
            ("a batch of the order", lambda order=order, step=step: order.at(step)),
            ("its inverse", lambda order=order, ids=instances: order.place(ids, 0)),
        ):
            print(f"| {name} | {size:,} | {best(5, call):.5f} | 0 |")


if __name__ == "__main__":
    main()
