"""Dolma's commands read the folders that we write, and we read those that they write."""

import gzip
import json
import os
import subprocess

import pytest

from pipeline.core.shards import read_shard
from pipeline.data.dolma.attributes import import_attributes
from pipeline.data.dolma.export import export_dolma
from pipeline.data.filtering import filter_documents
from pipeline.data.ingest import ingest_documents
from pipeline.data.rules import Keep, Replace
from pipeline.data.sources.rows import Jsonl
from pipeline.data.taggers.gopher import Gopher
from pipeline.data.taggers.pii import Pii
from pipeline.data.tagging import tag_documents
from pipeline.tokens.format import open_ids, read_index
from pipeline.tokens.importing import TokenFiles, import_tokens
from pipeline.tokens.tokenizer import decode, load_tokenizer, train_tokenizer
from tests.data.conftest import column
from tests.parity.test_dolma_taggers import hostile

pytestmark = pytest.mark.parity


def run(python, folder, *arguments):
    command = [python.with_name("dolma"), *arguments]
    environment = {**os.environ, "NLTK_DATA": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def lines_of(folder):
    return [
        json.loads(line)
        for path in sorted(folder.glob("*.gz"))
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]


@pytest.fixture
def corpus(tmp_path):
    """Documents of hostile text in a few files of Dolma's format."""
    folder = tmp_path / "theirs" / "documents"
    folder.mkdir(parents=True)
    texts = [text for text in hostile(7, 600) if text.strip()]
    for number in range(3):
        rows = [
            {"id": f"{number}-{place}", "text": text, "source": "s", "metadata": {"n": place}}
            for place, text in enumerate(texts[number::3])
        ]
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(content))
    source = Jsonl(str(folder / "*.gz"), "s")
    return ingest_documents(source, out=tmp_path / "corpus", shard_bytes=20_000)


def test_what_dolma_tags_is_read_as_what_we_measure(dolma, corpus, tmp_path):
    taggers = ["gopher_v1", "pii_regex_with_counts_fast_v2"]
    run(
        dolma, tmp_path, "tag", "--documents", "theirs/documents/*.gz",
        "--experiment", "exp", "--taggers", *taggers,
    )  # fmt: skip
    folder = tmp_path / "theirs" / "attributes" / "exp"
    made = import_attributes(corpus, {"exp": folder}, out=tmp_path / "imported")
    assert [each.name for each in made.tables] == taggers
    ours = tag_documents(corpus, [Gopher(), Pii()], out=tmp_path / "ours")
    words = [each for each in column_of(made, 0, "word_count")]
    assert [each or 0 for each in words] == column_of(ours, 0, "word_count")
    theirs = column_of(made, 1, "EMAIL_ADDRESS")
    assert theirs == [
        [{**span, "score": 1.0} for span in spans] for spans in column_of(ours, 1, "email_address")
    ]
    assert any(theirs)


def test_paragraphs_that_dolma_deduplicates_are_read_as_spans_of_their_text(
    dolma, corpus, tmp_path
):
    config = {
        "documents": ["theirs/documents/*.gz"],
        "dedupe": {
            "name": "dups",
            "paragraphs": {"attribute_name": "dups"},
            "skip_empty": True,
        },
        "bloom_filter": {
            "file": str(tmp_path / "bloom.bin"),
            "estimated_doc_count": 100_000,
            "desired_false_positive_rate": 1e-6,
            "read_only": False,
        },
        "processes": 1,
    }
    (tmp_path / "dedupe.json").write_text(json.dumps(config))
    run(dolma, tmp_path, "-c", "dedupe.json", "dedupe")
    folder = tmp_path / "theirs" / "attributes" / "dups"
    made = import_attributes(corpus, {"dups": folder}, out=tmp_path / "imported")
    assert [(each.name, each.columns) for each in made.tables] == [("dups", {"dups": "spans"})]
    texts, ours = column(corpus, "text"), column_of(made, 0, "dups")
    assert sum(map(bool, ours)) > 20
    for text, spans in zip(texts, ours, strict=True):
        assert all(0 <= span["start"] <= span["end"] <= len(text) for span in spans)


def test_dolma_mixes_what_we_export_as_we_filter_it(dolma, corpus, tmp_path):
    ours = tag_documents(corpus, [Gopher(), Pii()], out=tmp_path / "ours")
    made = export_dolma(corpus, {"exp": ours}, out=tmp_path / "dolma")
    config = {
        "streams": [
            {
                "name": "kept",
                "documents": [str(made.root / "documents" / "*.gz")],
                "attributes": ["exp"],
                "output": {"path": str(tmp_path / "mixed"), "max_size_in_bytes": 10_000_000},
                "filter": {
                    "include": [],
                    "exclude": ["$@.attributes[?(@.exp__gopher__word_count[0][2] < 20.0)]"],
                },
                "span_replacement": [
                    {
                        "span": "$.attributes.exp__pii__email_address",
                        "min_score": 0.5,
                        "replacement": "|||EMAIL|||",
                    }
                ],
            }
        ],
        "processes": 1,
    }
    (tmp_path / "mix.json").write_text(json.dumps(config))
    run(dolma, tmp_path, "-c", "mix.json", "mix")
    rules = [
        Keep("gopher.word_count", at_least=20),
        Replace("pii.email_address", "|||EMAIL|||", min_score=0.5),
    ]
    kept = filter_documents(corpus, [ours], rules, out=tmp_path / "kept")
    mixed = {each["id"]: each["text"] for each in lines_of(tmp_path / "mixed")}
    assert mixed == dict(zip(column(kept, "id"), column(kept, "text"), strict=True))
    assert 0 < len(mixed) < corpus.num_documents
    assert any("|||EMAIL|||" in text for text in mixed.values())


def test_what_dolma_tokenizes_is_imported_document_by_document(dolma, corpus, tmp_path):
    tokenizer = train_tokenizer(corpus, vocab_size=400, out=tmp_path / "tokenizer")
    form = json.loads((tokenizer.root / tokenizer.file.path).read_text())
    merges = form["model"]["merges"]  # the older `tokenizers` that dolma takes has them as text
    form["model"]["merges"] = [each if isinstance(each, str) else " ".join(each) for each in merges]
    (tmp_path / "old.json").write_text(json.dumps(form))
    run(
        dolma, tmp_path, "tokens", "--documents", "theirs/documents/*.gz",
        "--destination", "tokens", "--dtype", "uint16", "--processes", "1",
        "--tokenizer.name_or_path", "old.json",
        "--tokenizer.eos_token_id", str(tokenizer.end_id),
        "--tokenizer.pad_token_id", str(tokenizer.pad_id),
    )  # fmt: skip
    files = TokenFiles(str(tmp_path / "tokens" / "*.npy"), "theirs", offsets=True)
    made = import_tokens(files, tokenizer, out=tmp_path / "imported")
    loaded, found = load_tokenizer(tokenizer), {}
    for shard in made.shards:
        ids = open_ids(made.root, shard, made.dtype)
        for row in read_index(made.root, shard).to_pylist():
            found[row["id"]] = decode(loaded, ids[row["start"] : row["end"] - 1].tolist())
    texts = zip(column(corpus, "id"), column(corpus, "text"), strict=True)
    assert found == {id: text.strip() for id, text in texts if text.strip()}


def column_of(attributes, table, name):
    return [
        value
        for shard in attributes.tables[table].shards
        for value in read_shard(attributes.root, shard).column(name).to_pylist()
    ]
