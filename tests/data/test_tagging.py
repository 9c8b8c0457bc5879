from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.artifacts import Artifact
from pipeline.core.engine import Local
from pipeline.core.errors import CorruptShard, TaggerFailed
from pipeline.core.shards import ShardWriter, read_batches, read_shard, write_shard
from pipeline.data import tagging
from pipeline.data.batch import BatchTagger, Spans
from pipeline.data.document import DOCUMENT_SCHEMA
from pipeline.data.taggers.c4 import C4
from pipeline.data.taggers.gopher import Gopher
from pipeline.data.taggers.lengths import Lengths
from pipeline.data.tagging import tag_documents
from pipeline.store.memo import FileMemo
from tests.data.conftest import column, make_documents

TEXTS = [["one two", "", "three\nfour five six."], [], ["a b c d e " * 9]]


@dataclass(frozen=True)
class Fragile:
    name = "fragile"
    VERSION = "001"
    COLUMNS = {"n": "number"}

    def measure(self, text):
        return {"n": 1 / len(text)}


@pytest.fixture
def documents(tmp_path):
    return make_documents(tmp_path / "documents", TEXTS)


def test_row_i_measures_document_i(documents, tmp_path):
    made = tag_documents(documents, [Gopher(), C4(), Lengths()], out=tmp_path / "o")
    for table, tagger in zip(made.tables, (Gopher(), C4(), Lengths()), strict=True):
        for shard, texts in zip(table.shards, TEXTS, strict=True):
            for row, text in zip(read_shard(made.root, shard).to_pylist(), texts, strict=True):
                for name, value in tagger.measure(text).items():
                    if isinstance(value, list):
                        value = [
                            dict(zip(("start", "end", "score"), each, strict=True))
                            for each in value
                        ]
                    assert row[name] == value
    assert Artifact.load(made.root) == made
    made.verify()
    made.require_describes(documents)


def test_workers_change_no_content(documents, tmp_path):
    made = [
        tag_documents(documents, [Gopher(), C4()], out=tmp_path / str(n), engine=Local(n))
        for n in (1, 2)
    ]
    assert made[0].content == made[1].content


def test_only_a_changed_tagger_measures_again(documents, tmp_path, monkeypatch):
    memo, measured = FileMemo(tmp_path / "memo"), []
    for cls in (Gopher, C4):
        real = cls.measure_all
        monkeypatch.setattr(
            cls, "measure_all", lambda self, t, real=real: measured.append(self) or real(self, t)
        )
    first = tag_documents(documents, [Gopher(), C4()], out=tmp_path / "1", memo=memo)
    measured.clear()
    again = tag_documents(documents, [Gopher(), C4()], out=tmp_path / "2", memo=memo)
    assert (again, measured) == (first, [])
    changed = tag_documents(documents, [Gopher("v2"), C4()], out=tmp_path / "3", memo=memo)
    assert set(measured) == {Gopher("v2")}
    assert changed.tables[1] == first.tables[1]
    changed.verify()
    measured.clear()
    monkeypatch.setattr(tagging, "VERSION", "999")
    tag_documents(documents, [C4()], out=tmp_path / "4", memo=memo)
    assert set(measured) == {C4()}


def test_a_tagger_that_fails_names_itself_and_the_document(documents, tmp_path):
    with pytest.raises(
        TaggerFailed, match=r"tagger 'fragile' failed on document '0-1' of 00000.parquet: Zero"
    ):
        tag_documents(documents, [Fragile()], out=tmp_path / "o")


@dataclass(frozen=True)
class FragileInBatches(BatchTagger):
    name = "fragile_in_batches"
    VERSION = "001"
    COLUMNS = {"n": "number"}

    def measure_all(self, texts):
        raise ZeroDivisionError("no")


def test_a_tagger_of_batches_that_fails_names_itself_and_the_file(documents, tmp_path):
    with pytest.raises(TaggerFailed, match=r"tagger 'fragile_in_batches' failed on 00000.parquet"):
        tag_documents(documents, [FragileInBatches()], out=tmp_path / "o")


@dataclass(frozen=True)
class Outside:
    start: int
    end: int

    name = "outside"
    VERSION = "001"
    COLUMNS = {"s": "spans"}

    def measure(self, text):
        return {"s": [(self.start, self.end, 1.0)] if text == "three\nfour five six." else []}


@dataclass(frozen=True)
class OutsideInBatches(BatchTagger):
    start: int
    end: int

    name = "outside"
    VERSION = "001"
    COLUMNS = {"s": "spans"}

    def measure_all(self, texts):
        counts = [int(text == "three\nfour five six.") for text in texts]
        places = [np.array([each] * sum(counts), np.int64) for each in (self.start, self.end)]
        return {"s": Spans(*places, np.array(counts))}


@pytest.mark.parametrize("kind", [Outside, OutsideInBatches])
@pytest.mark.parametrize(("start", "end"), [(-3, 5), (8, 400), (9, 2)])
def test_a_span_outside_of_its_text_names_the_tagger_the_document_and_itself(
    documents, kind, start, end, tmp_path
):
    with pytest.raises(TaggerFailed) as told:
        tag_documents(documents, [kind(start, end)], out=tmp_path / "o")
    assert "tagger 'outside' failed on document '0-2' of 00000.parquet" in str(told.value)
    assert f"s has the span [{start}, {end}) in 20 characters of text" in str(told.value)


@dataclass(frozen=True)
class Unbounded:
    number: str
    score: str

    name = "unbounded"
    VERSION = "001"
    COLUMNS = {"n": "number", "s": "spans"}

    def measure(self, text):
        odd = text == "three\nfour five six."
        number, score = (float(self.number), float(self.score)) if odd else (None, 1.0)
        return {"n": number, "s": [(0, min(3, len(text)), score)]}


@dataclass(frozen=True)
class UnboundedInBatches(BatchTagger):
    number: str
    score: str

    name = "unbounded"
    VERSION = "001"
    COLUMNS = {"n": "number", "s": "spans"}

    def measure_all(self, texts):
        odd = np.array([text == "three\nfour five six." for text in texts], bool)
        ends = np.minimum(3, texts.num_characters)
        spans = Spans(
            0 * ends, ends, np.ones(len(texts), int), np.where(odd, float(self.score), 1.0)
        )
        return {"n": np.where(odd, float(self.number), 1.0), "s": spans}


@pytest.mark.parametrize("kind", [Unbounded, UnboundedInBatches])
@pytest.mark.parametrize(
    ("number", "score", "fault"),
    [
        ("inf", "1", "n is inf; it must be a finite number or None"),
        ("-inf", "1", "n is -inf"),
        ("1", "nan", r"s has the span \[0, 3\) with a score of nan"),
        ("1", "inf", r"s has the span \[0, 3\) with a score of inf"),
    ],
)
def test_what_is_not_finite_names_the_tagger_the_document_and_itself(
    documents, kind, number, score, fault, tmp_path
):
    with pytest.raises(TaggerFailed, match=f"'unbounded' failed on document '0-2' of .*{fault}"):
        tag_documents(documents, [kind(number, score)], out=tmp_path / "o")


def test_no_number_is_nan_but_a_measure_that_is_not_defined_is_null(documents, tmp_path):
    with pytest.raises(TaggerFailed, match="document '0-2' of .*n is nan; it must be a finite"):
        tag_documents(documents, [Unbounded("nan", "1")], out=tmp_path / "o")
    made = tag_documents(documents, [Unbounded("2", "1")], out=tmp_path / "p")
    assert column(made, "n") == [None, None, 2, None]


def broken(root, text):
    """Documents of which the second has this column of text instead of its own."""
    made = make_documents(root, [["a", "b"]])
    columns = {name: ["x", "y"] for name in DOCUMENT_SCHEMA.names}
    table = pa.table(columns | {"text": text}, schema=DOCUMENT_SCHEMA)
    return replace(made, shards=[write_shard(root, "00000.parquet", table, DOCUMENT_SCHEMA)])


def test_a_document_without_text_or_with_bytes_that_are_none_is_named(tmp_path):
    with pytest.raises(CorruptShard, match=r"00000.parquet record y: has no text"):
        tag_documents(broken(tmp_path / "a", ["a", None]), [Lengths()], out=tmp_path / "o")
    text = pa.array([b"a", b"\xff\xfe"]).view(pa.string())
    with pytest.raises(CorruptShard, match=r"00000.parquet: has text that is no UTF-8"):
        tag_documents(broken(tmp_path / "b", text), [Lengths()], out=tmp_path / "o")


def test_rows_stay_in_order_over_many_groups_of_the_shard(tmp_path, monkeypatch):
    texts = ["x" * (n % 7) for n in range(3000)]
    root = tmp_path / "d"
    made = make_documents(root, [texts])
    with ShardWriter(root, "00000.parquet", DOCUMENT_SCHEMA) as writer:
        for batch in read_batches(root, made.shards[0], batch_rows=500):
            writer.write(batch)
    assert writer.shard.content == made.shards[0].content
    monkeypatch.setattr("pipeline.data.tagging.GROUP_BYTES", 10_000)
    documents = replace(made, shards=[writer.shard])
    tagged = tag_documents(documents, [Lengths()], out=tmp_path / "o")
    assert column(tagged, "num_characters") == [len(text) for text in texts]


def test_two_taggers_of_one_name_are_refused(documents, tmp_path):
    with pytest.raises(ValueError, match=r"taggers\[1\] writes the table 'gopher', as tag"):
        tag_documents(documents, [Gopher(), Gopher("v2")], out=tmp_path / "o")
