"""Dedup beside `dolma dedupe`, and near duplicates beside datatrove: time, memory, what is marked.

    python benchmarks/bench_dedup.py [--megabytes 250] [--repeats 3] [--folder KEEP]

OLMO_TANGO_DOLMA and OLMO_TANGO_DATATROVE name the Pythons of environments with dolma 1.2.1 and
datatrove 0.10.1, OLMO_TANGO_TEXT a folder of text (see `corpus.py`). Every run is a process
of its own, start-up included, and ours and theirs take turns. Prints one JSON line: of each the
median, least and most of wall and CPU seconds, and of the memory of the largest process in MB.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import pyarrow.parquet as pq  # noqa: E402

from benchmarks.corpus import write_corpus  # noqa: E402
from benchmarks.floors import copy  # noqa: E402
from pipeline.core.artifacts import Artifact  # noqa: E402
from pipeline.core.engine import Local  # noqa: E402

NEAR_MEGABYTES = 60  # of text for datatrove, which takes minutes for more
FALSE_POSITIVES = 0.001  # of dolma's filters; a lower rate has it take more hashes


def ingest(folder, out, workers):
    from pipeline.data.ingest import ingest_documents
    from pipeline.data.sources.rows import Jsonl

    source = Jsonl(f"{folder}/documents/*.jsonl.gz", "bench", licence="none", provenance="made")
    return ingest_documents(source, out=out / "documents", engine=Local(workers))


def exact(folder, out, workers, documents=None):
    from pipeline.data.duplicates.dedup import deduplicate

    documents = documents or Artifact.load(folder / "ingested" / "documents")
    by = ["document", "paragraph"]
    return deduplicate(documents, by=by, out=out / "marks", engine=Local(workers))


def both(folder, out, workers):
    return exact(folder, out, workers, ingest(folder, out, workers))


def near(folder, out, workers):
    from pipeline.data.duplicates.minhash import find_near_duplicates

    documents = Artifact.load(folder / "ingested" / "documents")
    return find_near_duplicates(documents, out=out / "marks", engine=Local(workers))


def floor(folder, out, workers):
    """Read the text, write the tables that dedup writes, and do nothing else."""
    documents = Artifact.load(folder / "ingested" / "documents")
    copy([documents], Artifact.load(folder / "marked" / "marks"), out, workers)


def near_floor(folder, out, workers):
    """The same for near duplicates."""
    documents = Artifact.load(folder / "ingested" / "documents")
    copy([documents], Artifact.load(folder / "near" / "marks"), out, workers)


WORK = {each.__name__: each for each in (ingest, exact, both, near, floor, near_floor)}


def measured(command, **environment):
    """Wall seconds, CPU seconds of a command and its children, MB of the largest of them."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **environment}
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            log.seek(0)
            sys.exit(log.read().decode(errors="replace")[-3000:])
    wall = time.perf_counter() - started
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def ours(work, folder, out, workers, **environment):
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    command = [sys.executable, __file__, "--work", work, "--folder", folder, "--out", out]
    return measured([*map(str, command), "--workers", str(workers)], **environment)


def dolma(kind, folder, num):
    python = Path(os.environ["OLMO_TANGO_DOLMA"])
    shutil.rmtree(folder / "attributes" / kind, ignore_errors=True)
    filter_file = folder / f"{kind}.filter"
    filter_file.unlink(missing_ok=True)
    options = {
        "documents": folder / "documents" / "*.gz",
        "dedupe.name": kind,
        f"dedupe.{kind}.attribute_name": "repeats",
        "bloom_filter.file": filter_file,
        "bloom_filter.estimated_doc_count": num,
        "bloom_filter.desired_false_positive_rate": FALSE_POSITIVES,
        "processes": 2,
    }
    if kind == "documents":
        options["dedupe.documents.key"] = "$.text"
    command = [
        python.with_name("dolma"),
        "dedupe",
        "--dedupe.skip_empty",
        "--no-bloom_filter.read_only",
    ]
    for name, value in options.items():
        command += [f"--{name}", value]
    return measured(list(map(str, command)))


def marked_by_dolma(kind, folder):
    """How many documents, or paragraphs, it marks."""
    import gzip

    total = 0
    for path in (folder / "attributes" / kind).glob("*.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                total += sum(map(len, json.loads(line)["attributes"].values()))
    return total


def marked_by_us(folder):
    marks = Artifact.load(folder / "marked" / "marks")
    documents = paragraphs = 0
    for shard in marks.tables[0].shards:
        table = pq.read_table(marks.root / shard.path)
        documents += sum(table["duplicate_document"].to_pylist())
        paragraphs += sum(
            table["duplicate_paragraphs"].combine_chunks().value_lengths().to_pylist()
        )
    return {"documents": int(documents), "paragraphs": paragraphs}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, default=250)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--work", choices=list(WORK))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    if options.work:
        WORK[options.work](options.folder, options.out, options.workers)
        return
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(compared(options.folder or Path(name), options)))


def compared(folder, options):
    corpus = write_corpus(folder, options.megabytes)
    small = folder / "small"
    near_corpus = write_corpus(small, NEAR_MEGABYTES)
    ingest(folder, folder / "ingested", 2)
    ingest(small, small / "ingested", 2)
    times = {}

    def note(name, found):
        times.setdefault(name, []).append(found)

    cache = str(folder / "numba")
    note(
        "ours, kernels compiled first",
        ours("exact", folder, folder / "o", 1, NUMBA_CACHE_DIR=cache),
    )
    ours("near", small, folder / "o", 1)
    for _ in range(options.repeats):
        for workers in (1, 2):
            note(f"ours, {workers} workers", ours("exact", folder, folder / "marked", workers))
        note("floor", ours("floor", folder, folder / "o", 1))
        note("ours with reading JSONL, 2 workers", ours("both", folder, folder / "o", 2))
        if "OLMO_TANGO_DOLMA" in os.environ:
            two = [dolma("paragraphs", folder, corpus["lines"])]
            two.append(dolma("documents", folder, corpus["documents"]))
            note("dolma paragraphs", two[0])
            note("dolma documents", two[1])
            wall, cpu, _ = map(sum, zip(*two, strict=True))
            note("dolma both", (wall, cpu, max(each[2] for each in two)))
        for workers in (1, 2):
            note(f"near, {workers} workers", ours("near", folder, folder / "near", workers))
            note(f"near small, {workers} workers", ours("near", small, folder / "o", workers))
        note("near floor", ours("near_floor", folder, folder / "o", 1))
        if "OLMO_TANGO_DATATROVE" in os.environ:
            out = folder / "datatrove"
            shutil.rmtree(out, ignore_errors=True)
            script = HERE / "datatrove_minhash.py"
            command = [os.environ["OLMO_TANGO_DATATROVE"], script, small / "documents", out, 2]
            note("datatrove small", measured(list(map(str, command))))
    found = {"corpus": corpus, "near corpus": near_corpus, "repeats": options.repeats}
    found["wall, cpu, MB: median, least, most"] = {
        name: [
            [round(f(each), 2) for f in (statistics.median, min, max)]
            for each in zip(*values, strict=True)
        ]
        for name, values in times.items()
    }
    found["marked"] = marked_by_us(folder)
    if "OLMO_TANGO_DOLMA" in os.environ:
        found["marked by dolma"] = {
            kind: marked_by_dolma(kind, folder) for kind in ("documents", "paragraphs")
        }
    return found


if __name__ == "__main__":
    main()
