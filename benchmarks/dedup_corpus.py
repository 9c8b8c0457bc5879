"""A corpus for the benchmarks of dedup: real text, repeated with changes until it is large enough.

Text is that of the folder that OLMO_TANGO_TEXT names (*.jsonl.gz in Dolma's format), or else the
sources of the Python installation. A tenth of the documents of a repetition are as they were; in
the others, two lines of three have a word added that names the repetition.
"""

import gzip
import json
import os
import random
import sysconfig
import zlib
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
    random.Random(0).shuffle(originals)
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
