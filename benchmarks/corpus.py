"""What benchmarks of curation share: a corpus of any size, and what a command costs.

Text is that of the folder that OLMO_TANGO_TEXT names (*.jsonl.gz in Dolma's format), or else the
sources of the Python installation, repeated until it is large enough. A tenth of the documents of a
repetition are as they were; in the others, two lines of three have a word added that names the
repetition.
"""

import gzip
import json
import os
import platform
import random
import subprocess
import sysconfig
import threading
import time
import zlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

NUM_FILES = 8


def texts():
    folder = os.environ.get("OLMO_TANGO_TEXT")
    if folder:
        for path in sorted(Path(folder).glob("*.jsonl.gz")):
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                for line in lines:
                    yield json.loads(line)["text"]
        return
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in path.parts:
            try:
                yield path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def changed(text, repeat):
    if repeat == 0 or zlib.crc32(text[:200].encode(errors="replace")) % 10 == repeat % 10:
        return text
    lines = text.split("\n")
    return "\n".join(
        line if (number * 7 + repeat) % 3 == 0 or not line.strip() else f"{line} again{repeat}"
        for number, line in enumerate(lines)
    )


def write_corpus(folder, megabytes):
    """Write `documents/*.jsonl.gz` of so much text; gives documents, bytes and lines."""
    folder = Path(folder) / "documents"
    folder.mkdir(parents=True, exist_ok=True)
    files = [gzip.open(folder / f"{n}.jsonl.gz", "wb", compresslevel=1) for n in range(NUM_FILES)]
    size = count = lines = repeat = 0
    originals = list(texts())
    random.Random(0).shuffle(originals)  # so that a part of it is of all kinds
    per_file = megabytes * 1e6 / NUM_FILES
    while size < megabytes * 1e6:
        for text in originals:
            text = changed(text, repeat)
            data = text.encode()
            file = files[min(NUM_FILES - 1, int(size / per_file))]
            row = {"id": str(count), "text": text, "source": "bench", "added": "", "created": ""}
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            size, count, lines = size + len(data), count + 1, lines + text.count("\n") + 1
            if size >= megabytes * 1e6:
                break
        repeat += 1
    for file in files:
        file.close()
    return {"documents": count, "bytes": size, "lines": lines}


@dataclass
class Cost:
    """Seconds by the clock and of the processor, and the most memory, of a command and its own."""

    wall: float
    cpu: float
    peak_mb: float
    largest_mb: float  # resident, of the process that has most
    output: str = ""


def cost_of(command, **more):
    """Run a command and say what it cost; memory is the proportional share of all its processes.

    Raises:
        RuntimeError: it fails.
    """
    begun = time.perf_counter()
    before = os.times()
    process = subprocess.Popen(
        [str(each) for each in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **more,
    )
    peak, largest, done = 0, 0, threading.Event()

    def watch():
        nonlocal peak, largest
        while not done.wait(0.05):
            found = _tree(process.pid)
            peak = max(peak, sum(_bytes(each, "smaps_rollup", "Pss:") for each in found))
            largest = max(largest, *(_bytes(each, "status", "VmHWM:") for each in found))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    wall = time.perf_counter() - begun
    done.set()
    watcher.join()
    after = os.times()
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))[:200]} failed:\n{output[-3000:]}")
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return Cost(wall, cpu, peak / 2**20, largest / 2**20, output)


def _tree(pid):
    """A process and all below it."""
    found = [pid]
    for each in found:
        try:
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
        except OSError:  # it has ended
            continue
    return found


def _bytes(pid, file, name):
    """What the system says of a process in one line of a file, in bytes; 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return 0
    lines = (line.split() for line in text.splitlines() if line.startswith(name))
    return next((int(each[1]) << 10 for each in lines), 0)


def middle(values):
    """The one in the middle, or the lower of the two."""
    values = sorted(values)
    return values[(len(values) - 1) // 2]


def surroundings(*packages):
    """The processor, Python and versions of packages, for the head of a result."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    versions = ", ".join(f"{each} {version(each)}" for each in packages)
    return f"{os.cpu_count()} cores, {model}; Python {platform.python_version()}, {versions}"
