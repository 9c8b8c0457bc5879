"""Attributes equal those of the package `dolma` itself, to its own five decimals."""

import gzip
import itertools
import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from pipeline.data.taggers.c4 import C4
from pipeline.data.taggers.code import Code
from pipeline.data.taggers.gopher import Gopher
from pipeline.data.taggers.pii import Pii

SCRIPT = Path(__file__).with_name("dolma_tags.py")
PIECES = [
    *"abcABC019 \n\n\n\t .,;:?!\"'()[]{}#*-_@/\\…•éßñ",
    *"İıſﬁ中文字🙂\u200b\u0301\u2028\x00\r\x0b\x85\xa0",
    "the ",
    "and ",
    "lorem ipsum ",
    "JavaScript ",
    "a.b@c.org ",
    "a@b@c.org\n",
    " (206) 555-0123",
    " 2065550123",
    "192.168.1.254",
    "999.1.1.1",
    "/* Copyright */",
    "/* a */",
    "\n- ",
    "\n* ",
    "…\n",
    "same line\n",
    "one two three four five six seven ",
]
# where we mean to differ: C4's docstring says how
DIFFERS = {("c4_v2", "lines_with_no_ending_punctuation"), ("c4_v2", "lines_with_too_few_words")}
CODE = {  # each is a part of our one table
    "code_redpajama_taggers_v1": [
        "max_line_length",
        "avg_line_length",
        "alnum_prop",
        "alpha_token_prop",
    ],
    "code_copyright_comments_v1": ["copyright_notice"],  # the block ends otherwise
}
pytestmark = pytest.mark.parity


def hostile(seed, count):
    rng = random.Random(seed)
    return ["".join(rng.choices(PIECES, k=rng.randint(0, 120))) for _ in range(count)]


def column_of(name):
    return name.lower().removesuffix("_doc")


def tags_of(python, texts, folder):
    source, target = folder / "texts.jsonl", folder / "tags.jsonl"
    source.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    environment = {**os.environ, "NLTK_DATA": str(folder)}
    done = subprocess.run(
        [python, SCRIPT, source, target], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]


def ours(python):
    code = "import importlib.util as i; print(i.find_spec('dolma').submodule_search_locations[0])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    words = str(Path(done.stdout.strip()) / "data" / "naughty_words_en.txt")
    return {
        "gopher_v1": Gopher(),
        "gopher_v2": Gopher("v2"),
        "c4_v1": C4("v1", words),
        "c4_v2": C4("v2", words),
        "pii_regex_with_counts_fast_v2": Pii(),
        "code_redpajama_taggers_v1": Code(),
        "code_copyright_comments_v1": Code(),
    }


def unequal(taggers, texts, tags):
    """Tagger, column, place and both values of everything that is not equal."""
    for place, (text, theirs) in enumerate(zip(texts, tags, strict=True)):
        for name, tagger in taggers.items():
            if theirs[name] is None:
                continue
            measured = tagger.measure(text)
            found = {column_of(column): spans for column, spans in theirs[name].items()}
            wanted = CODE.get(name, tagger.COLUMNS)
            assert found.keys() - {"doc"} <= tagger.COLUMNS.keys(), name
            for column in wanted:
                kind = tagger.COLUMNS[column]
                own, their = measured[column], found.get(column)
                if kind == "spans":
                    same = [list(each) for each in own] == (their or [])
                elif their is None:  # a measure that is 0 or not defined is left out there
                    same = not own
                else:
                    same = own is not None and abs(own - their[0][2]) <= 1e-5
                if not same and not ((name, column) in DIFFERS and len(text.lower()) != len(text)):
                    yield name, column, place, own, their


def test_every_attribute_of_hostile_text_is_equal(dolma, tmp_path):
    texts = hostile(1, 4000)
    tags = tags_of(dolma, texts, tmp_path)
    assert list(itertools.islice(unequal(ours(dolma), texts, tags), 5)) == []
    failed = {name: sum(each[name] is None for each in tags) for name in tags[0]}
    assert max(failed.values()) < len(texts) / 10, failed


def test_every_attribute_of_real_documents_is_equal(dolma, real_texts, tmp_path):
    texts = []
    for path in real_texts:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in itertools.islice(lines, 300)]
    assert len(texts) >= 2000
    tags = tags_of(dolma, texts, tmp_path)
    assert list(itertools.islice(unequal(ours(dolma), texts, tags), 5)) == []
