import hashlib
import json
import subprocess
import sys

import pytest

from pipeline.data.made_up import PERIOD, made_up_records, made_up_text, write_made_up
from pipeline.data.sources.records import as_document
from pipeline.data.sources.rows import Jsonl, Malformed, ParquetFiles
from pipeline.data.taggers.gopher import Gopher

COUNT = 3 * PERIOD


def test_the_text_is_the_same_in_every_process():
    code = (
        "import hashlib; from pipeline.data.made_up import made_up_text as t; "
        "print(hashlib.sha256(''.join(t('x', n) for n in range(40)).encode()).hexdigest())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text = "".join(made_up_text("x", n) for n in range(40))
    assert found.stdout.strip() == hashlib.sha256(text.encode()).hexdigest()


def test_most_documents_would_pass_the_usual_rules_and_some_are_what_code_breaks_on():
    texts = [made_up_text("web", n) for n in range(COUNT)]
    measured = [Gopher().measure(each) for each in texts]
    ordinary = [each for each in measured if each["word_count"] >= 50]
    assert len(ordinary) > 0.8 * COUNT
    assert all(3 <= each["median_word_length"] <= 10 for each in ordinary)
    assert "" in texts and max(map(len, texts)) > 5000
    assert len(set(texts)) < len(texts)  # an exact duplicate
    assert any("@example.org" in each for each in texts)
    assert any("<|endoftext|>" in each for each in texts)


def test_documents_share_long_runs_of_words_only_where_they_are_meant_to():
    seen, shared = {}, set()
    for number in range(COUNT):
        words = made_up_text("web", number).split()
        for start in range(len(words) - 12):
            run = tuple(words[start : start + 13])
            if seen.setdefault(run, number) != number:
                shared.add(number % PERIOD)
    assert shared <= {3, 5, 20}


@pytest.mark.parametrize("conversations", [None, "messages", "preferences"])
@pytest.mark.parametrize("kind", ["jsonl.gz", "parquet"])
def test_records_are_documents_in_the_form_that_is_asked_for(tmp_path, conversations, kind):
    fields = {"id": "key"}
    records = made_up_records(
        "x", range(COUNT), conversations=conversations, fields=fields, metadata=["module"]
    )
    path = tmp_path / f"a.{kind}"
    write_made_up(path, records)
    source = {"jsonl.gz": Jsonl, "parquet": ParquetFiles}[kind](
        str(path), "x", fields=fields, conversations=conversations
    )
    found = list(source.read(source.pieces()[0]))
    assert not [each for each in found if isinstance(each, Malformed)]
    assert len({each.id for each in found}) == COUNT
    about = [json.loads(each.metadata) for each in found]
    assert all(each["module"] and each["url"] for each in about)
    if conversations == "messages":
        answers = {message["content"] for each in about for message in each["messages"]}
        assert "" in answers and len(answers) > COUNT
    if conversations == "preferences":
        assert sum(each["chosen"] != each["rejected"] for each in about) > 0.9 * COUNT


def test_records_without_ids_are_numbered():
    record = next(made_up_records("x", range(1), with_ids=False))
    assert as_document(record, "x", {}, "split:1").id == "split:1"


def test_a_file_is_the_same_whenever_it_is_written(tmp_path):
    for name in ("a", "b"):
        write_made_up(tmp_path / f"{name}.jsonl.gz", made_up_records("x", range(5)))
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
