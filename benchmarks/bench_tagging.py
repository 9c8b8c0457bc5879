"""Gopher, C4 and PII tagging, spans included, against `dolma tag` and datatrove's filters.

    OLMO_TANGO_TEXT=folder python benchmarks/bench_tagging.py --dolma env/bin/python \
        [--datatrove env/bin/python] [--megabytes 240] [--repeats 3] []

Two processes each. `dolma tag` (gopher_v1, c4_v1, pii_regex_with_counts_fast_v2, one command)
reads gzipped JSONL and writes gzipped JSONL; ours reads Documents (Parquet, as `ingest` made them)
and writes Attributes, with the same list of words. Beside it: `ingest` and `tag` together, from the
same gzipped JSONL; the floor, which reads the same Documents and writes the same Attributes without
measuring; and each command on one document, which is its start-up. Commands alternate. Datatrove's
Gopher and C4 filters get `--datatrove-megabytes` of the same text, as they are slow, and are
compared by documents per second; that part is the corpus's first, so give enough for several kinds.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from corpus import cost_of, middle, surroundings, write_corpus

DOLMA_TAGGERS = ["gopher_v1", "c4_v1", "pii_regex_with_counts_fast_v2"]
WORKERS = 2
DATATROVE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

if __name__ == "__main__":
    source, out = sys.argv[1:]
    steps = [
        JsonlReader(source),
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(),
        JsonlWriter(out + "/kept"),
    ]
    LocalPipelineExecutor(steps, tasks=8, workers=2, logging_dir=out + "/logs").run()
"""


# ------------------------------------------------------------------ what a child process runs


def ingest(folder, out):
    from pipeline.core.engine import Local
    from pipeline.data.ingest import ingest_documents
    from pipeline.data.sources.rows import Jsonl

    source = Jsonl(str(folder / "documents" / "*.jsonl.gz"), source="bench")
    return ingest_documents(source, out=out, shard_bytes=8 << 20, engine=Local(WORKERS))


def tag(documents, words, out):
    from pipeline.core.engine import Local
    from pipeline.data.taggers.c4 import C4
    from pipeline.data.taggers.gopher import Gopher
    from pipeline.data.taggers.pii import Pii
    from pipeline.data.tagging import tag_documents

    taggers = [Gopher(), C4(naughty_words=str(words)), Pii()]
    return tag_documents(documents, taggers, out=out, engine=Local(WORKERS))


def child(work, folder, words, out):
    from benchmarks.floors import copy
    from pipeline.core.artifacts import Artifact

    if work == "ingest":
        ingest(folder, out)
    elif work == "ingest_and_tag":
        tag(ingest(folder, out / "documents"), words, out / "attributes")
    elif work == "tag":
        tag(Artifact.load(folder / "ours" / "documents"), words, out)
    elif work == "floor":
        documents = Artifact.load(folder / "ours" / "documents")
        attributes = Artifact.load(folder / "ours" / "attributes")
        copy([documents], attributes, out, WORKERS)


# ------------------------------------------------------------------ what is compared


class Bench:
    """A corpus, and the commands on it by name; each run writes into a folder of its own."""

    def __init__(self, folder, args, megabytes):
        self.folder, self.args, self.runs = folder, args, 0
        if megabytes:
            made = write_corpus(folder, megabytes)
            self.num_documents, self.num_bytes = made["documents"], made["bytes"]
        else:  # what is left of a command without work
            self.num_documents = 1
            (folder / "documents").mkdir(parents=True)
            with gzip.open(folder / "documents" / "0.jsonl.gz", "wt") as file:
                file.write(json.dumps({"id": "0", "text": "One document.\n", "source": "s"}) + "\n")
        self.words = naughty_words(args.dolma)

    def run(self, name):
        self.runs += 1
        out = self.folder / f"run{self.runs}"
        if name == "dolma":
            # it writes beside the documents, and would find an earlier run's there
            command = [self.args.dolma.with_name("dolma"), "tag", "--experiment", f"x{self.runs}"]
            command += ["--documents", str(self.folder / "documents" / "*.jsonl.gz")]
            command += ["--taggers", *DOLMA_TAGGERS, "--processes", WORKERS]
            command += ["--dest", str(out)]
        elif name == "datatrove":
            command = [self.args.datatrove, "-c", DATATROVE, self.folder / "documents", out]
        else:
            command = [sys.executable, __file__, "--child", name, self.folder, self.words, out]
        cost = cost_of(command)
        told = {"work": name, "documents": self.num_documents, "wall": round(cost.wall, 2)}
        told |= {"cpu": round(cost.cpu, 2), "mb": round(cost.peak_mb)}
        print(json.dumps(told), file=sys.stderr, flush=True)
        return cost

    def prepare(self):
        """What `tag` and the floor read; and the compiler has compiled."""
        for name, place in (("ingest", "documents"), ("tag", "attributes")):
            (self.folder / "ours").mkdir(exist_ok=True)
            self.run(name)
            (self.folder / f"run{self.runs}").rename(self.folder / "ours" / place)


def naughty_words(python):
    code = "import importlib.util as i; print(i.find_spec('dolma').submodule_search_locations[0])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip()) / "data" / "naughty_words_en.txt"


def main():
    if sys.argv[1:2] == ["--child"]:
        return child(sys.argv[2], *map(Path, sys.argv[3:]))
    parser = argparse.ArgumentParser()
    parser.add_argument("--dolma", type=Path, required=True, help="Python with dolma 1.2.1")
    parser.add_argument("--datatrove", type=Path, help="Python with datatrove 0.10.1")
    parser.add_argument("--megabytes", type=int, default=240)
    parser.add_argument("--datatrove-megabytes", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    costs, rates = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        large = Bench(Path(folder) / "large", args, args.megabytes)
        small = Bench(Path(folder) / "small", args, 0)
        names = ["dolma", "tag", "ingest_and_tag", "floor"]
        large.prepare()
        small.prepare()
        for _ in range(args.repeats):
            for name in names:
                costs.setdefault(name, []).append(large.run(name))
                costs.setdefault(f"{name}, one document", []).append(small.run(name))
        if args.datatrove:
            part = Bench(Path(folder) / "part", args, args.datatrove_megabytes)
            for _ in range(args.repeats):
                costs.setdefault("datatrove", []).append(part.run("datatrove"))
                costs.setdefault("datatrove, one document", []).append(small.run("datatrove"))
            names.append("datatrove")
        for name in names:
            bench = part if name == "datatrove" else large
            start = middle(each.wall for each in costs[f"{name}, one document"])
            wall = middle(each.wall for each in costs[name])
            rates[name] = {
                "documents_per_second": round(bench.num_documents / wall),
                "without_start": round(bench.num_documents / max(0.01, wall - start)),
            }
        print(surroundings("pyarrow", "numpy", "numba"))
        print(json.dumps({"documents": large.num_documents, "bytes": large.num_bytes}))
    for name, found in costs.items():
        walls = [round(each.wall, 2) for each in found]
        cpu, peak = middle(e.cpu for e in found), middle(e.peak_mb for e in found)
        print(json.dumps({"work": name, "wall": walls, "cpu": round(cpu, 2), "mb": round(peak)}))
    for name, rate in rates.items():
        print(json.dumps({"work": name, **rate}))


if __name__ == "__main__":
    main()
