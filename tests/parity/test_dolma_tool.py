"""Duplicates, the published Common Crawl filter as it was run, and tokens: equal to the tool's.

The commands `dolma tag`, `dedupe`, `mix` and `tokens` run on the documents that our steps run on.
"""

import csv
import gzip
import itertools
import json
import os
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rjsonnet

from pipeline.core.shards import read_shard
from pipeline.data.duplicates.dedup import deduplicate
from pipeline.data.filtering import filter_documents
from pipeline.data.ingest import ingest_documents
from pipeline.data.rules import Keep, Replace
from pipeline.data.sources.rows import Jsonl
from pipeline.data.taggers.gopher import Gopher
from pipeline.data.taggers.pii import Pii
from pipeline.data.tagging import tag_documents
from pipeline.tokens.format import open_ids, read_index
from pipeline.tokens.tokenizer import train_tokenizer
from pipeline.tokens.tokenizing import tokenize_documents

pytestmark = pytest.mark.parity
RULES = Path(__file__).parents[2] / "experiments" / "lib" / "data.libsonnet"
GOPHER, PII = "gopher_rules__gopher_v1__", "pii_detection__pii_regex_with_counts_fast_v2__"
SPANS, DECON = "bff_duplicate_paragraph_spans", "bff_duplicate_paragraph_spans_decontamination"
# allenai/dolma, configs/dolma-v1_5/mixing/cc-head.yaml; the singular of the n-grams is its own
BOUNDS = [
    ("word_count", "<", 50),
    ("word_count", ">", 100000),
    ("median_word_length", "<", 3),
    ("median_word_length", ">", 10),
    ("symbol_to_word_ratio", ">", 0.1),
    ("fraction_of_words_with_alpha_character", "<", 0.8),
    ("required_word_count", "<", 2),
    ("fraction_of_lines_starting_with_bullet_point", ">", 0.9),
    ("fraction_of_lines_ending_with_ellipsis", ">", 0.3),
    ("fraction_of_duplicate_lines", ">", 0.3),
    ("fraction_of_characters_in_duplicate_lines", ">", 0.3),
    ("fraction_of_characters_in_most_common_2gram", ">", 0.2),
    ("fraction_of_characters_in_most_common_3gram", ">", 0.18),
    ("fraction_of_characters_in_most_common_4gram", ">", 0.16),
    ("fraction_of_characters_in_duplicate_5grams", ">", 0.15),
    ("fraction_of_characters_in_duplicate_6grams", ">", 0.14),
    ("fraction_of_characters_in_duplicate_7grams", ">", 0.13),
    ("fraction_of_characters_in_duplicate_8grams", ">", 0.12),
    ("fraction_of_characters_in_duplicate_9grams", ">", 0.11),
    ("fraction_of_characters_in_duplicate_10grams", ">", 0.10),
]
WORDS = "the be to of and that have with lamps turn slowly over quiet water in towns".split()
CONTACTS = [" a.b@c.org ", " 206-555-0123", "\n(206) 555-0199", " 10.1.2.3", " x@y.org\n", "\u3000"]


def made_up(seed, count):
    """Texts with lines in common, contacts within them, and blank or empty ones."""
    rng = random.Random(seed)

    def line():
        return "".join(
            f"{rng.choice(WORDS)}{rng.choice(CONTACTS) if rng.random() < 0.02 else ' '}"
            for _ in range(rng.randint(1, 25))
        )

    common = [line() for _ in range(40)] + ["", " ", "é\u2028ü"]
    texts = []
    for _ in range(count):
        lines = [rng.choice(common) if rng.random() < 0.3 else line() for _ in range(9)]
        texts.append("\n".join(lines[: rng.randint(0, 9)]) + rng.choice(["", "\n", "\n\n"]))
    return texts


class Tool:
    """The command `dolma` over one folder of documents."""

    def __init__(self, python, root, texts):
        self.python, self.root = python, root
        self.documents = root / "documents"
        self.documents.mkdir(parents=True)
        for number, part in enumerate(texts[at : at + 500] for at in range(0, len(texts), 500)):
            with gzip.open(self.documents / f"{number:04d}.json.gz", "wt", encoding="utf-8") as out:
                for place, text in enumerate(part):
                    row = {"id": f"{number}-{place}", "text": text, "source": "s"}
                    out.write(json.dumps(row) + "\n")

    def run(self, command, **config):
        path = self.root / f"{command}.json"
        given = {"documents": [f"{self.documents}/*.gz"]} if command != "mix" else {}
        path.write_text(json.dumps({**given, "processes": 1, **config}))
        environment = {**os.environ, "NLTK_DATA": str(self.root)}
        done = subprocess.run(
            [self.python, "-m", "dolma.cli", "-c", path, command],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]

    def dedupe(self, name, **what):
        bloom = {"file": str(self.root / f"{name}.bloom"), "read_only": False}
        bloom |= {"estimated_doc_count": 3_000_000, "desired_false_positive_rate": 1e-9}
        self.run("dedupe", dedupe={"name": name, "skip_empty": True, **what}, bloom_filter=bloom)

    def rows(self, folder):
        for path in sorted((self.root / folder).glob("*.gz")):
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                yield from map(json.loads, lines)

    def mixed(self):
        """What `dolma mix` keeps of the documents with the published filter: text by id."""
        fires = [*((f"{GOPHER}{name}", op, value) for name, op, value in BOUNDS)]
        fires += [(f"{PII}doc_count", ">", 5), (DECON, ">=", 1.0)]
        exclude = [
            f"$.attributes[?(@.{n} && @.{n}[0] && @.{n}[0][2] {op} {v})]" for n, op, v in fires
        ]
        kinds = ("EMAIL_ADDRESS", "PHONE_NUMBER", "IP_ADDRESS")
        replaced = [(SPANS, ""), *((f"{PII}{kind}", f" |||{kind}||| ") for kind in kinds)]
        stream = {
            "name": "cc",
            "documents": [f"{self.documents}/*.gz"],
            "attributes": ["gopher_rules", "pii_detection", "paragraphs"],
            "output": {
                "path": str(self.root / "mixed"),
                "max_size_in_bytes": 1 << 32,
                "discard_fields": ["attributes"],
            },
            "filter": {"include": [], "exclude": exclude},
            "span_replacement": [
                {"span": f"$.attributes.{name}", "min_score": 0.5, "replacement": text}
                for name, text in replaced
            ],
        }
        self.run("mix", streams=[stream])
        return {row["id"]: row["text"] for row in self.rows("mixed")}


@pytest.fixture(scope="module", params=["made up", "real"])
def both(request, dolma, tmp_path_factory):
    """The tool after its taggers and dedupers, our documents with their measures, and the texts."""
    root = tmp_path_factory.mktemp("tool")
    texts = made_up(3, 3000)
    if request.param == "real":
        texts = []
        for path in request.getfixturevalue("real_texts"):
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                texts += [json.loads(line)["text"] for line in itertools.islice(lines, 200)]
        assert len(texts) >= 2000
    tool = Tool(dolma, root, texts)
    tool.run("tag", experiment="gopher_rules", taggers=["gopher_v1"])
    tool.run("tag", experiment="pii_detection", taggers=["pii_regex_with_counts_fast_v2"])
    tool.dedupe("paragraphs", paragraphs={"attribute_name": SPANS})
    tool.dedupe("documents", documents={"attribute_name": "duplicate", "key": "$.text"})
    documents = ingest_documents(Jsonl(f"{tool.documents}/*.gz", "s"), out=root / "d")
    tags = tag_documents(documents, [Gopher(), Pii()], out=root / "t")
    repeats = deduplicate(documents, by=["document", "paragraph"], out=root / "r")
    return tool, documents, [tags, repeats]


def texts_of(documents):
    shards = (read_shard(documents.root, shard, ["id", "text"]) for shard in documents.shards)
    return {row["id"]: row["text"] for shard in shards for row in shard.to_pylist()}


def as_ours(text, start, end):
    """A span of the tool's deduper where it means ours: it is a byte short at the end of a text of
    ASCII that ends in a newline, and a byte long at the end of any other."""
    short = end == len(text) - 1 and text[end] == "\n" != text[end - 1]
    return start, len(text) if short else min(end, len(text))


def test_the_same_documents_and_paragraphs_are_duplicates(both):
    tool, documents, (_, repeats) = both
    texts = texts_of(documents)
    [table] = repeats.tables
    marked = [row for s in table.shards for row in read_shard(repeats.root, s).to_pylist()]
    rows = dict(zip(texts, marked, strict=True))
    found = 0
    for row in tool.rows("attributes/paragraphs"):
        text = texts[row["id"]]
        theirs = [as_ours(text, *span[:2]) for span in row["attributes"].get(SPANS, [])]
        ours = [(each["start"], each["end"]) for each in rows[row["id"]]["duplicate_paragraphs"]]
        assert ours == theirs, row["id"]
        found += len(ours)
    assert found > 100
    for row in tool.rows("attributes/documents"):
        if texts[row["id"]].strip():  # blank ones are skipped there
            theirs = float(bool(row["attributes"].get("duplicate")))
            assert rows[row["id"]]["duplicate_document"] == theirs, row["id"]


def rule_set(name):
    text = f"(import '{RULES}').dolma_as_run.{name}"
    return [
        (Keep if "attribute" in each else Replace)(**each)
        for each in json.loads(rjsonnet.evaluate_snippet("rules", text))
        if each.get("spans", "").split(".")[0] not in ("toxicity", "nsfw")  # whose models are away
    ]


def test_the_published_filter_as_it_was_run_keeps_the_same_and_writes_the_same_text(both, tmp_path):
    tool, documents, attributes = both
    rules = rule_set("common_crawl")
    ours = texts_of(filter_documents(documents, attributes, rules, out=tmp_path))
    theirs, given = tool.mixed(), texts_of(documents)
    assert ours.keys() == theirs.keys()
    assert len(given) / 10 < len(ours) < len(given)
    unlike = [id for id, text in ours.items() if text != theirs[id]]
    # a last line of ASCII that is a duplicate leaves its newline behind there
    assert [id for id in unlike if ours[id] + "\n" != theirs[id] or not given[id].isascii()] == []
    assert sum(text != given[id] for id, text in ours.items()) > 20


def test_tokens_are_equal(both, tmp_path):
    tool, documents, _ = both
    tokenizer = train_tokenizer(documents, vocab_size=600, sample_fraction=0.2, out=tmp_path / "t")
    tokens = tokenize_documents(documents, tokenizer, strip=True, out=tmp_path / "tokens")
    form = json.loads((tokenizer.root / tokenizer.file.path).read_text(encoding="utf-8"))
    form["model"].pop("ignore_merges", None)  # its `tokenizers` is an older one
    form["model"]["merges"] = [" ".join(pair) for pair in form["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(form), encoding="utf-8")
    tool.run(
        "tokens",
        destination=str(tmp_path / "theirs"),
        dtype=tokens.dtype,
        max_size=1 << 28,
        tokenizer={
            "name_or_path": str(tmp_path / "tokenizer.json"),
            "eos_token_id": tokenizer.end_id,
            "pad_token_id": tokenizer.pad_id,
            "encode_special_tokens": True,
        },
    )
    theirs = {}
    for path in (tmp_path / "theirs").glob("*.npy"):
        ids = np.memmap(path, tokens.dtype, "r")
        with gzip.open(path.with_suffix(".csv.gz"), "rt", newline="") as lines:
            for start, end, id, *_ in csv.reader(lines):
                theirs[id] = ids[int(start) : int(end)].tolist()
    ours = {}
    for shard in tokens.shards:
        ids = open_ids(tokens.root, shard, tokens.dtype)
        for row in read_index(tokens.root, shard).to_pylist():
            ours[row["id"]] = ids[row["start"] : row["end"]].tolist()
    assert ours == theirs and len(ours) > 1000
