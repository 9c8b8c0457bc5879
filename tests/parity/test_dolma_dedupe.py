"""What `dolma dedupe` marks, we mark: up to its filter's false positives and its final newlines."""

import gzip
import itertools
import json
import random
import subprocess
from pathlib import Path

import pytest

from pipeline.data.duplicates.dedup import deduplicate
from tests.data.conftest import column, make_documents

pytestmark = pytest.mark.parity
FALSE_POSITIVES = 1e-9


def theirs(python, kind, texts, folder):
    """The spans of each text that dolma marks, by its command."""
    documents = folder / "documents"
    documents.mkdir(exist_ok=True)
    with gzip.open(documents / "0.jsonl.gz", "wt", encoding="utf-8") as file:
        for number, text in enumerate(texts):
            row = {"id": str(number), "text": text, "source": "s", "added": "", "created": ""}
            file.write(json.dumps(row) + "\n")
    options = {
        "documents": documents / "*.gz",
        "dedupe.name": kind,
        f"dedupe.{kind}.attribute_name": "repeats",
        "bloom_filter.file": folder / f"{kind}.filter",
        "bloom_filter.estimated_doc_count": sum(text.count("\n") + 1 for text in texts),
        "bloom_filter.desired_false_positive_rate": FALSE_POSITIVES,
    }
    if kind == "documents":
        options["dedupe.documents.key"] = "$.text"
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    # else a blank paragraph counts; but then a blank document does not
    flags = ["--dedupe.skip_empty"] if kind == "paragraphs" else ["--no-dedupe.skip_empty"]
    flags.append("--no-bloom_filter.read_only")
    command = [Path(python).with_name("dolma"), "dedupe", *flags, *given]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with gzip.open(folder / "attributes" / kind / "0.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["attributes"].get("repeats", []) for line in lines]


def ours(texts, folder):
    documents = make_documents(folder / "ours", [texts[:7], texts[7:]])
    return deduplicate(documents, by=["document", "paragraph"], out=folder / "marked")


def hostile(count):
    rng = random.Random(2)
    pieces = [
        *"ab ",
        "\n",
        "\n\n",
        "\r",
        "\t",
        "é",
        "中🙂",
        "\x85",
        "\u3000",
        "same line\n",
        "x" * 33,
    ]
    return ["".join(rng.choices(pieces, k=rng.randint(1, 14))) for _ in range(count)]


def real(paths):
    texts = []
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in itertools.islice(lines, 200)]
    return texts + texts[::5]


def require_equal(dolma, texts, folder):
    marked = ours(texts, folder)
    whole = [bool(each) for each in theirs(dolma, "documents", texts, folder)]
    assert whole == [bool(each) for each in column(marked, "duplicate_document")]
    spans = theirs(dolma, "paragraphs", texts, folder)
    rows = column(marked, "duplicate_paragraphs")
    for text, their, own in zip(texts, spans, rows, strict=True):
        # its last span may leave out the newline that ends the text, or go beyond the end
        found = [text[start:end].removesuffix("\n") for start, end, _ in their]
        assert found == [text[each["start"] : each["end"]].removesuffix("\n") for each in own]
        starts = [start for start, _, _ in their]
        assert starts == [each["start"] for each in own]


def test_hostile_texts_have_the_same_repeats(dolma, tmp_path):
    require_equal(dolma, hostile(3000), tmp_path)


def test_real_documents_have_the_same_repeats(dolma, real_texts, tmp_path):
    texts = real(real_texts)
    assert len(texts) >= 2000
    require_equal(dolma, texts, tmp_path)
