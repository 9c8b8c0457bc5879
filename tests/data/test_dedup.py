import itertools
import json
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.artifacts import Documents
from pipeline.core.engine import Local
from pipeline.core.errors import CorruptShard
from pipeline.core.shards import write_shard
from pipeline.data.document import DOCUMENT_SCHEMA
from pipeline.data.duplicates import dedup, first_seen
from pipeline.data.duplicates.dedup import deduplicate
from pipeline.data.ingest import concat_documents, ingest_documents
from pipeline.data.sources.rows import Jsonl
from pipeline.data.text_columns import TextColumn
from tests.data.conftest import column, make_documents

# few letters, so that texts repeat; all kinds of white space, and characters of one to four bytes
hostile = st.text(
    alphabet="ab\n\n \r\0\x0b\x1f\x85\xa0\u1680\u2028\u3000\u200b\u0301é中🙂", max_size=12
)
lines = st.lists(hostile | st.sampled_from(["same line here, long", "é" * 20]), max_size=4)
texts = st.builds(str.join, st.sampled_from(["\n", "\r\n", "\n\n"]), lines)


def expected_paragraphs(all_texts):
    """The marked spans of each text, worked out line by line."""
    seen, found = set(), []
    for text in all_texts:
        at, spans = 0, []
        for line in text.split("\n"):
            end = min(len(text), at + len(line) + 1)
            if line and not line.isspace():
                if line in seen:
                    spans.append((at, end))
                seen.add(line)
            at = end
        found.append(spans)
    return found


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    shards=st.lists(st.lists(texts, max_size=5), max_size=4),
    run_keys=st.integers(1, 6),
    part_keys=st.integers(1, 4),
    batch_rows=st.integers(1, 4),
)
def test_the_first_of_equals_in_corpus_order_is_the_one_not_marked(
    shards, run_keys, part_keys, batch_rows, tmp_path_factory
):
    root = tmp_path_factory.mktemp("dedup")
    documents = make_documents(root / "documents", shards)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_seen, "RUN_KEYS", run_keys)  # many runs
        patch.setattr(dedup, "WRITTEN_ROWS", batch_rows)
        patch.setattr(dedup, "PARAGRAPH_BYTES", 1)
        patch.setattr(first_seen, "PART_KEYS", part_keys)  # many parts
        patch.setattr(first_seen, "LEAST_SLOTS", 2)  # tables that grow
        marked = deduplicate(documents, by=["paragraph", "document"], out=root / "out")
    flat = [text for shard in shards for text in shard]
    kept = [t for t, m in zip(flat, column(marked, "duplicate_document"), strict=True) if not m]
    assert kept == list(dict.fromkeys(flat))
    rows = column(marked, "duplicate_paragraphs")
    assert all(span["score"] == 1 for row in rows for span in row)
    spans = [[(s["start"], s["end"]) for s in row] for row in rows]
    assert spans == expected_paragraphs(flat)
    fractions = column(marked, "duplicate_paragraph_fraction")
    for text, row, fraction in zip(flat, spans, fractions, strict=True):
        assert fraction == (sum(e - s for s, e in row) / len(text) if text else 0)


def test_blank_is_what_python_calls_space(tmp_path):
    points = itertools.chain(range(0xD800), range(0xE000, sys.maxunicode + 1))
    every = [chr(point) for point in points if point != 10]
    doubled = "".join(f"{each}\n{each}\n" for each in every)
    documents = make_documents(tmp_path / "d", [[doubled]])
    marked = deduplicate(documents, by=["paragraph"], out=tmp_path / "o")
    starts = [span["start"] for span in column(marked, "duplicate_paragraphs")[0]]
    assert [doubled[start] for start in starts] == [c for c in every if not c.isspace()]


def test_hashes_are_those_of_the_published_function():
    from pipeline.data.compiled import hashing

    known = {
        "": "00000000000000000000000000000000",
        "hello": "cbd8a7b341bd9b025b1e906a48ae1d19",
        "hello, world": "342fac623a5ebc8e4cdcbc079642414d",
        "The quick brown fox jumps over the lazy dog": "e34bbc7bbc071b6c7a433ca9c49a9347",
    }
    for texts in (list(known), ["x", *known, "y" * 40]):  # at the end of a block and inside of one
        keys = hashing.hash_texts(*TextColumn.of(pa.array(texts)))
        found = {
            t: f"{int(h):016x}{int(low):016x}" for t, (h, low) in zip(texts, keys, strict=True)
        }
        assert known.items() <= found.items()


@given(st.binary(max_size=70), st.binary(max_size=20), st.binary(max_size=20))
@settings(deadline=None)
def test_a_hash_depends_on_its_text_alone(text, before, after):
    from pipeline.data.compiled import hashing

    keys = hashing.hash_texts(*TextColumn.of(pa.array([before, text, after, text], pa.binary())))
    assert (keys[1] == keys[3]).all()
    assert (keys[1] == hashing.hash_texts(*TextColumn.of(pa.array([text], pa.binary())))[0]).all()
    assert before == text or (keys[0] != keys[1]).any()


@settings(deadline=None)
@given(
    keys=st.lists(st.integers(0, 30), max_size=60),
    num_runs=st.integers(1, 5),
    num_bits=st.integers(0, 4),
)
def test_first_places_are_found_whatever_the_runs_and_parts(
    keys, num_runs, num_bits, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("runs")
    wide = np.array([(key << 59, key // 7) for key in keys], np.uint64).reshape(-1, 2)  # some are 0
    cuts = np.array_split(np.arange(len(keys)), num_runs)
    runs = [
        first_seen.write_run(folder / f"{n}", wide[at], at, num_bits) for n, at in enumerate(cuts)
    ]
    found = {}
    for places, firsts in first_seen.firsts(runs, num_bits):
        found |= dict(zip(places.tolist(), firsts.tolist(), strict=True))
    pairs = [tuple(row) for row in np.maximum(wide, [[0, 1]]).tolist()]
    assert found == {n: pairs.index(pair) for n, pair in enumerate(pairs)}


def test_a_text_that_is_missing_or_broken_is_named(tmp_path):
    rows = {n: ["x", "y"] for n in DOCUMENT_SCHEMA.names}
    for text, message in ((None, r"record 1: has no text"), (b"\xff", "not readable .*UTF8")):
        root = tmp_path / str(message[0])
        column = pa.array([b"x", text], pa.binary()).view(pa.string())
        table = pa.table({**rows, "text": column}, schema=DOCUMENT_SCHEMA)
        shard = write_shard(root, "00000.parquet", table, DOCUMENT_SCHEMA)
        documents = Documents.of(
            root, num_documents=2, num_text_bytes=1, sources=[], shards=[shard]
        )
        with pytest.raises(CorruptShard, match=message):
            deduplicate(documents, by=["document", "paragraph", "url"], out=tmp_path / "o")


def test_workers_change_no_content_and_scratch_is_gone(tmp_path):
    shards = [[f"{i % 7}\nsame\n" for i in range(k, k + 20)] for k in range(4)]
    documents = make_documents(tmp_path / "d", shards)
    made = [
        deduplicate(documents, by=["document", "paragraph"], out=tmp_path / str(n), engine=Local(n))
        for n in (1, 2)
    ]
    assert made[0].content == made[1].content
    assert sorted(p.name for p in (tmp_path / "2").iterdir()) == ["dedup", "manifest.json"]
    made[1].verify()


def test_urls_are_compared_where_there_is_one(tmp_path):
    metadata = {"a": {"url": "x"}, "b": {"url": "x"}, "c": {}, "d": {}}
    documents = make_documents(tmp_path / "d", [["a", "b", "c", "d"]], metadata=metadata)
    marked = deduplicate(documents, by=["url"], out=tmp_path / "o")
    assert column(marked, "duplicate_url") == [0, 1, 0, 0]


def test_what_is_compared_must_be_known(tmp_path):
    documents = make_documents(tmp_path / "d", [["a"]])
    with pytest.raises(ValueError, match=r"by\[0\] is 'line'; it must be one of document"):
        deduplicate(documents, by=["line"], out=tmp_path / "o")


def test_a_url_that_is_the_id_is_found_again_in_another_source(tmp_path):
    made = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps({"url": "http://a", "text": name}))
        found = Jsonl(str(path), name, fields={"id": "url"})
        made.append(ingest_documents(found, out=tmp_path / name))
    both = concat_documents(made, out=tmp_path / "both")
    marked = deduplicate(both, by=["url"], out=tmp_path / "out")
    assert column(marked, "duplicate_url") == [0, 1]
