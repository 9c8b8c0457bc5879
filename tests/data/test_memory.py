"""A document of 100 MB, of whatever text, takes less than 2 GiB in every stage of curation."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.tokens.tokenizer import train_tokenizer
from tests.data.conftest import make_documents
from tests.data.large import STAGES

SIZE = 100_000_000
KINDS = {  # those that took most, of what was tried
    "letters": "a\n",
    "four bytes": "words of a line with a 👩 in it, which makes all wide\n",
    "addresses": "a@b.cc\n",
}
OFTEN = ["curate", "near"]  # what takes most; `tag` too, and minutes
CASES = [
    pytest.param(
        stage, kind, marks=() if kind == "letters" and stage in OFTEN else pytest.mark.long
    )
    for kind in ("letters", "four bytes")
    for stage in STAGES
]
CASES.append(pytest.param("curate", "addresses", marks=pytest.mark.long))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Gives the folder of a small document and one of 100 MB, of a kind."""
    root = tmp_path_factory.mktemp("large")
    small = make_documents(root / "small", [["some words of a text, to train on"]])
    train_tokenizer(small, vocab_size=300, out=root / "tokenizer")
    told = {each: {"messages": []} for each in KINDS.values()}
    make_documents(root / "evaluation", [[each * 20 for each in KINDS.values()]], metadata=told)

    def made(kind):
        folder = root / kind.replace(" ", "-")
        if not folder.exists():
            text = KINDS[kind]
            whole = text * (SIZE // len(text.encode()))
            make_documents(folder, [["a small one", whole]])
        return folder

    return made


def peak(*arguments):
    if not os.path.exists("/proc/self/status"):
        pytest.skip("there is no /proc to tell the memory of a process")
    command = [sys.executable, "-m", *map(str, arguments)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    return int(done.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "kind"), CASES)
def test_a_document_of_100_megabytes_takes_less_than_two_gibibytes(large, tmp_path, stage, kind):
    assert peak("tests.data.large", stage, large(kind), tmp_path / "out") < 2 << 30


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "parquet", "txt"])
def test_a_file_with_such_a_document_is_read_in_less_than_two_gibibytes(tmp_path, suffix):
    kind = "four bytes"
    whole = KINDS[kind] * (SIZE // len(KINDS[kind].encode()))
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"id": ["a"], "text": [whole]}), path)
    elif suffix == "txt":
        path.write_text(whole, "utf-8")
    else:
        line = json.dumps({"id": "a", "text": whole}).encode()
        path.write_bytes(gzip.compress(line, 1) if suffix == "jsonl.gz" else line)
    assert peak("tests.data.large", "ingest", path, tmp_path / "out") < 2 << 30
