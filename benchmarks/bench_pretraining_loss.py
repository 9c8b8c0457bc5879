"""Time and memory of the loss over a large vocabulary on a CPU, beside F.cross_entropy.

    python benchmarks/bench_pretraining_loss.py [--tokens 2048] [--vocabulary 50304] [--width 256]

Forward and backward in fp32, each way in a process of its own. Prints one JSON line a way: the
median seconds of three, and the megabytes by which the first raised the process's peak.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from pipeline.train.stages.chunked_loss import summed_loss, token_losses

WAYS = {
    "F.cross_entropy": lambda h, w, t: F.cross_entropy(F.linear(h, w), t, reduction="sum"),
    "summed_loss": lambda h, w, t: summed_loss(h, w, t)[0],
    "token_losses": lambda h, w, t: token_losses(h, w, t).sum(),
}


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(way, options):
    hidden = torch.randn(options.tokens, options.width, requires_grad=True)
    weight = torch.randn(options.vocabulary, options.width, requires_grad=True)
    targets = torch.randint(options.vocabulary, (options.tokens,))
    WAYS[way](hidden[:8], weight[:64], targets[:8] % 64).backward()  # libraries are loaded
    hidden.grad = weight.grad = None
    before, seconds, added = peak_mb(), [], 0.0
    for _ in range(3):
        started = time.perf_counter()
        WAYS[way](hidden, weight, targets).backward()
        seconds.append(time.perf_counter() - started)
        added = added or peak_mb() - before
        hidden.grad = weight.grad = None
    print(
        json.dumps(
            {"way": way, "seconds": round(statistics.median(seconds), 2), "peak_mb": round(added)}
        )
    )


def main():
    parser = argparse.ArgumentParser()
    for name, value in (("tokens", 2048), ("vocabulary", 50304), ("width", 256)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        measure(options.way, options)
        return
    for way in WAYS:
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--way", way], check=True)


if __name__ == "__main__":
    main()
