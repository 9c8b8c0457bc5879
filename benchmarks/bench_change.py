"""Cost that follows the change: a curation of 1,000 small shards, run again after a small change.

    python benchmarks/bench_change.py [--shards 1000] [--repeats 3]

The graph ingests JSONL files, measures them with four taggers, marks duplicates and filters. It is
run once; again as it is; with another parameter of one tagger of the four; with that and one file
more; and with another file more. Beside it stands what the touched part took at first: the one
tagger alone over the ingested files, and the whole graph over the one file alone, each less a run
in which all is cached. Once without and once with dedup, whose global part looks at every hash.
Seconds of processor time of the command and its children, which neighbours on the machine hardly
change. Prints one JSON line.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from bench_overhead import ref, run

SETTINGS = """
workspace: {type: local, dir: ws}
executor: {type: olmo}
include_package: [steps]
log_level: warning
"""
WORDS = 4000  # of a document
DOCUMENTS = 4  # of a shard
TAGGERS = ["gopher", "pii", "lengths", "c4"]


def write_shard(path, number):
    rng = random.Random(number)
    vocabulary = [f"{a}{b}" for a in "the of and to in that with for".split() for b in range(500)]
    rows = []
    for place in range(DOCUMENTS):
        words = rng.choices(vocabulary, k=WORDS)
        lines = [" ".join(words[n : n + 40]) + "." for n in range(0, WORDS, 40)]
        rows.append({"id": f"{number}-{place}", "text": "\n".join(lines) + "\n"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def graph(path, c4="v1", dedup=True):
    """Curation of the files that match a pattern."""
    documents = ref("corpus")
    steps = {
        "corpus": {"type": "ingest", "source": {"type": "jsonl", "path": path, "source": "made"}},
        "quality": {"type": "tag", "documents": documents, "taggers": TAGGERS[:-1] + [c4_of(c4)]},
        "kept": {
            "type": "filter",
            "documents": documents,
            "attributes": [ref("quality")],
            "rules": [{"attribute": "lengths.num_words", "at_least": 1}],
        },
    }
    if dedup:
        steps["duplicates"] = {"type": "dedup", "documents": documents, "by": ["paragraph"]}
        steps["kept"]["attributes"].append(ref("duplicates"))
    return steps


def c4_of(variant):
    return {"type": "c4", "variant": variant}


class Bench:
    """A folder with shards and a workspace."""

    def __init__(self, folder, num_shards):
        self.folder, self.runs = folder, 0
        (folder / "tango.yml").write_text(SETTINGS)
        (folder / "data").mkdir()
        for number in range(num_shards):
            write_shard(folder / "data" / f"{number:05d}.jsonl", number)

    def run(self, steps):
        self.runs += 1
        (self.folder / "x.json").write_text(json.dumps({"steps": steps}))
        return run(self.folder, "tango", "run", "x.json", "-n", f"r{self.runs}")[1]

    def fresh(self):
        shutil.rmtree(self.folder / "ws", ignore_errors=True)


def once(folder, num_shards, dedup):
    found = {}
    bench = Bench(folder, num_shards)
    every, alone = str(folder / "data" / "*.jsonl"), str(folder / "alone.jsonl")
    write_shard(folder / "alone.jsonl", num_shards)
    steps = graph(every, dedup=dedup)
    # what is touched later, at first: each less what goes before it and a run of nothing
    corpus = {"corpus": steps["corpus"]}
    bench.run(corpus)
    idle = bench.run(corpus)
    tag = {"type": "tag", "documents": ref("corpus"), "taggers": [c4_of("v2")]}
    found["tagger at first"] = bench.run({**corpus, "quality": tag}) - idle
    bench.fresh()
    found["shard at first"] = bench.run(graph(alone, dedup=dedup)) - idle
    bench.fresh()
    found["all at first"] = bench.run(steps)
    found["no-op"] = bench.run(steps)
    subprocess.run(["cp", "-al", folder / "ws", folder / "kept"], check=True)
    found["tagger changed"] = bench.run(graph(every, "v2", dedup))
    bench.fresh()
    (folder / "kept").rename(folder / "ws")
    write_shard(folder / "data" / f"{num_shards:05d}.jsonl", num_shards)
    found["both"] = bench.run(graph(every, "v2", dedup))
    write_shard(folder / "data" / f"{num_shards + 1:05d}.jsonl", num_shards + 1)
    found["shard added"] = bench.run(graph(every, "v2", dedup))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for dedup in (False, True):
        found = {}
        for _ in range(options.repeats):
            with tempfile.TemporaryDirectory() as name:
                for key, value in once(Path(name), options.shards, dedup).items():
                    found.setdefault(key, []).append(value)
        middle = {name: statistics.median(values) for name, values in found.items()}
        first = middle["tagger at first"] + middle["shard at first"]
        ratios = {
            "both": (middle["both"] - middle["no-op"]) / first,
            "tagger": (middle["tagger changed"] - middle["no-op"]) / middle["tagger at first"],
            "shard, ms a shard that is there": 1000
            * (middle["shard added"] - middle["no-op"])
            / options.shards,
        }
        line = {"shards": options.shards, "dedup": dedup, "cpu_s": middle, "ratios": ratios}
        rounded = json.loads(json.dumps(line), parse_float=lambda text: round(float(text), 2))
        print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    main()
