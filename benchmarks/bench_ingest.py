"""Raw JSONL.gz to Documents, beside the floor: reading, decompressing, parsing and writing alone.

    python benchmarks/bench_ingest.py FILES... [--repeats 5] [--pages FILE.warc.gz]

Three ways to the same bytes, one after the other in each repeat, in a fresh process each:
`ours` ingests; `floor` decompresses with isal, parses with orjson and writes ids and texts to
Parquet; `plain` decompresses and parses with Python's own gzip and json, and writes nothing. With
`--pages`, the pages of a crawl are ingested too. Prints one JSON line.
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

BATCH_BYTES = 4 << 20


def ours(files, out):
    from pipeline.data.ingest import ingest_documents
    from pipeline.data.sources.rows import Jsonl

    return ingest_documents(Jsonl(files, "web", number_records=True), out=out).num_documents


def floor(files, out):
    import orjson
    import pyarrow as pa
    import pyarrow.parquet as pq
    from isal import igzip

    schema, count = pa.schema([("id", pa.string()), ("text", pa.string())]), 0
    for number, path in enumerate(files):
        with (
            igzip.open(path) as file,
            pq.ParquetWriter(out / f"{number}.parquet", schema, compression="zstd") as writer,
        ):
            held, ids, texts = 0, [], []
            for line in file:
                row = orjson.loads(line)
                ids.append(row["id"])
                texts.append(row["text"])
                held += len(line)
                if held > BATCH_BYTES:
                    writer.write_table(pa.table([ids, texts], schema=schema))
                    count, held, ids, texts = count + len(ids), 0, [], []
            count += len(ids)
            writer.write_table(pa.table([ids, texts], schema=schema))
    return count


def plain(files, out):
    import gzip

    count = 0
    for path in files:
        with gzip.open(path, "rb") as file:
            for line in file:
                count += isinstance(json.loads(line)["text"], str)
    return count


def pages(files, out):
    from pipeline.data.ingest import ingest_documents
    from pipeline.data.sources.pages import WarcFiles

    return ingest_documents(WarcFiles(files, "web"), out=out).num_documents


WAYS = {each.__name__: each for each in (ours, floor, plain, pages)}


def timed(way, files):
    """Seconds of wall and of processor, and the peak of memory in MB, of one way in its process."""
    out = Path(tempfile.mkdtemp())
    environment = {**os.environ, "XDG_CACHE_HOME": str(out / "cache")}
    try:
        command = [sys.executable, __file__, *files, "--way", way, "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return json.loads(done.stdout)
    finally:
        shutil.rmtree(out)


def one(way, files, out):
    (out / "made").mkdir()
    wall, processor = time.perf_counter(), time.process_time()
    count = WAYS[way](files, out / "made")
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) >> 10
    return {"count": count, "wall": wall, "processor": processor, "peak_mb": peak}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="*")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pages")
    parser.add_argument("--way", choices=list(WAYS))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(one(given.way, given.files, given.out)))
        return
    found = {}
    for _ in range(given.repeats):
        for way in ("ours", "floor", "plain"):
            found.setdefault(way, []).append(timed(way, given.files))
        if given.pages:
            found.setdefault("pages", []).append(timed("pages", [given.pages]))
    shown = {}
    for way, runs in found.items():
        shown[way] = {n: round(statistics.median(each[n] for each in runs), 2) for n in runs[0]}
        shown[way]["walls"] = [round(each["wall"], 2) for each in runs]
    print(json.dumps(shown))


if __name__ == "__main__":
    main()
