import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.engine import Local
from pipeline.core.errors import CorruptShard, MismatchedInputs
from pipeline.data import filtering, replacing
from pipeline.data.filtering import filter_documents
from pipeline.data.funnel import FUNNEL, REMOVED
from pipeline.data.ingest import concat_documents
from pipeline.data.replacing import Replacement
from pipeline.data.rules import AllOf, AnyOf, Keep, Replace, Sample, check_rules, sample_place
from pipeline.store.memo import FileMemo
from tests.data.conftest import column, make_attributes, make_documents

TEXTS = [["a", "bb", "ccc"], ["dddd", "eeeee"]]


@pytest.fixture
def measured(tmp_path):
    documents = make_documents(tmp_path / "d", TEXTS)
    rows = [[{"n": float(len(t)), "half": None if t == "a" else 0.5} for t in s] for s in TEXTS]
    columns = {"n": "number", "half": "number"}
    return documents, make_attributes(tmp_path / "a", documents, "t", columns, rows)


def test_no_rules_delete_nothing(measured, tmp_path):
    documents, _ = measured
    kept = filter_documents(documents, [], [], out=tmp_path / "o")
    assert kept.content == documents.content


def test_bounds_are_included_and_what_is_not_defined_passes(measured, tmp_path):
    documents, table = measured
    kept = filter_documents(documents, [table], [Keep("t.n", 2, 4)], out=tmp_path / "1")
    assert column(kept, "text") == ["bb", "ccc", "dddd"]
    assert (kept.num_documents, kept.num_text_bytes) == (3, 9)
    undefined = filter_documents(documents, [table], [Keep("t.half", 0.7)], out=tmp_path / "2")
    assert column(undefined, "text") == ["a"]
    kept.verify()


def test_every_removal_is_counted_and_explained(measured, tmp_path):
    documents, table = measured
    rules = [Keep("t.n", at_least=3), Keep("t.n", at_least=2, at_most=4)]
    filter_documents(documents, [table], rules, out=tmp_path / "o", engine=Local(2))
    funnel = json.loads((tmp_path / "o" / FUNNEL).read_text())
    assert funnel["num_documents"] == 5
    assert funnel["num_kept"] == 2
    names = ["num_removed_first", "bytes_removed_first", "num_removed_alone", "bytes_removed_alone"]
    first, second = (dict(zip(names, counts, strict=True)) for counts in ([2, 3, 1, 2], [1, 5] * 2))
    assert funnel["rules"] == [
        {"rule": "t.n at least 3", **first, "sources": {"s": first}},
        {"rule": "t.n at least 2 and at most 4", **second, "sources": {"s": second}},
    ]
    removed = pq.read_table(tmp_path / "o" / REMOVED).to_pylist()
    assert [(row["text"], row["rule"], row["value"]) for row in removed] == [
        ("a", "t.n at least 3", "1"),
        ("bb", "t.n at least 3", "2"),
        ("eeeee", "t.n at least 2 and at most 4", "5"),
    ]


def test_a_removal_by_several_values_or_by_a_hash_has_what_decided(measured, tmp_path):
    documents, table = measured
    some = AnyOf([Keep("t.n", at_least=3), AllOf([Keep("t.half", 0.7), Keep("t.n", 2)])])
    rules = [some, Sample("text", 0, 0, "s")]
    filter_documents(documents, [table], rules, out=tmp_path / "o")
    removed = pq.read_table(tmp_path / "o" / REMOVED).to_pylist()
    places = {text: repr(sample_place("s", text)) for text in ("ccc", "dddd", "eeeee")}
    assert {row["text"]: row["value"] for row in removed} == {
        "a": "t.n 1, t.half null",
        "bb": "t.n 2, t.half 0.5",
        **places,
    }


def test_rules_are_told_with_all_their_digits():
    assert str(Keep("t.n", 1234567, 1234568.5)) == "t.n at least 1234567 and at most 1234568.5"
    assert str(Keep("t.n", 0.1, 1e300)) == "t.n at least 0.1 and at most 1e+300"
    assert str(Sample("id", 0, 0.1234567, "s")) == "hash of id with 's' in [0, 0.1234567)"


def test_a_rule_of_the_wrong_kind_is_shown_the_columns_of_its_table():
    columns = {f"gopher.n{each}": "number" for each in range(20)} | {"pii.ip_address": "spans"}
    with pytest.raises(ValueError, match="the rule needs number; there is pii.doc_count$"):
        check_rules([Keep("pii.ip_address", 5)], columns | {"pii.doc_count": "number"})


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(cuts=st.lists(st.floats(0, 1), max_size=4), seed=st.text(max_size=3))
def test_samples_that_share_no_hash_part_the_corpus(cuts, seed, tmp_path_factory):
    root = tmp_path_factory.mktemp("sample")
    texts = [f"text {i}" for i in range(30)]
    documents = make_documents(root / "d", [texts])
    edges = sorted({0.0, *cuts, 1.0})
    found = []
    for number, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        rule = Sample("text", low, high, seed)
        found += column(filter_documents(documents, [], [rule], out=root / str(number)), "text")
    assert sorted(found) == sorted(texts)


def test_the_place_of_a_value_is_fixed_for_ever():
    # xxhash.xxh3_64_intdigest(b"heldout\0asyncio") >> 11, over 2**53
    assert sample_place("heldout", "asyncio") == pytest.approx(GOLDEN_PLACE, abs=1e-15)


GOLDEN_PLACE = 0.9877853904959912


def test_documents_are_sampled_by_their_metadata_and_the_lack_of_it_is_an_error(tmp_path):
    metadata = {text: {"module": text[0]} for text in ("a1", "a2", "b1")}
    documents = make_documents(tmp_path / "d", [["a1", "b1", "a2"]], metadata=metadata)
    low = Sample("metadata.module", 0, 0.5, "s")
    kept = column(filter_documents(documents, [], [low], out=tmp_path / "o"), "text")
    assert ("a1" in kept) == ("a2" in kept)
    bare = make_documents(tmp_path / "b", [["x"]])
    with pytest.raises(CorruptShard, match=r"record 0-0: has no metadata\.module"):
        filter_documents(bare, [], [low], out=tmp_path / "o2")


def spans(*found):
    return [{"start": s, "end": e, "score": score} for s, e, score in found]


@pytest.mark.parametrize(
    ("first", "second", "text", "as_dolma"),
    [
        ([(0, 5, 1)], [(3, 8, 1)], "A89", "A56789"),
        ([(2, 4, 1)], [(2, 8, 1)], "01A89", "01A456789"),
        ([(0, 6, 1), (5, 8, 1)], [(1, 3, 1), (7, 9, 1)], "A9", "A6B9"),
        ([(0, 2, 0.4)], [(8, 10, 1)], "01234567B", "01234567B"),
        ([(0, 5, 1), (5, 10, 1)], [], "AA", "AA"),
    ],
)
def test_spans_that_overlap_are_one_or_leave_a_tail_as_in_dolma(
    first, second, text, as_dolma, tmp_path
):
    documents = make_documents(tmp_path / "d", [["0123456789"]])
    columns = {"a": "spans", "b": "spans"}
    rows = [[{"a": spans(*first), "b": spans(*second)}]]
    table = make_attributes(tmp_path / "a", documents, "t", columns, rows)
    for merge, expected in ((True, text), (False, as_dolma)):
        rules = [Replace(f"t.{each}", each.upper(), merge=merge) for each in "ab"]
        made = filter_documents(documents, [table], rules, out=tmp_path / str(merge))
        assert column(made, "text") == [expected]


SPANS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted), max_size=6)


@given(st.text("ab é👩", min_size=9, max_size=9), st.lists(SPANS, min_size=2, max_size=2))
def test_however_few_spans_are_held_the_text_is_the_same(text, spans):
    rules = [Replace("t.a", "[A]"), Replace("t.b", "", merge=False)]
    order = [(start, n, end) for n, own in enumerate(spans) for start, end in own]
    at, left = 0, ""
    for start, number, end in sorted(each for each in order if each[0] < each[2]):
        if start >= at:
            left, at = left + text[at:start] + rules[number].replace_with, end
        elif rules[number].merge:
            at = max(at, end)
    bounds = [np.array([0, len(own)]) for own in spans]
    placed = [np.array(own, np.int32).reshape(-1, 2).T for own in spans]
    held = [
        Replacement(n, rule, *places, bound)
        for n, (rule, places, bound) in enumerate(zip(rules, placed, bounds, strict=True))
    ]
    table = pa.table({"text": [text]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replacing, "BLOCK", 1)
        made, _, _ = replacing.replaced(table, 0, held, 2, np.array([True]), Path("a"))
    assert made["text"].to_pylist() == [left + text[at:]]


@pytest.mark.parametrize(("start", "end"), [(-3, 5), (8, 400), (9, 2)])
def test_a_span_outside_of_its_text_deletes_nothing_but_ends_the_step(start, end, tmp_path):
    documents = make_documents(tmp_path / "d", [["", "0123456789"]])
    rows = [[{"s": spans()}, {"s": spans((start, end, 1.0))}]]
    table = make_attributes(tmp_path / "a", documents, "t", {"s": "spans"}, rows)
    told = rf"00000.parquet record 0-1: t.s has the span \[{start}, {end}\) in 10 characters"
    with pytest.raises(CorruptShard, match=told):
        filter_documents(documents, [table], [Replace("t.s", "<X>")], out=tmp_path / "o")


def test_what_replacement_leaves_empty_is_removed_and_counted(tmp_path):
    documents = make_documents(tmp_path / "d", [["gone\n", "stays"]])
    rows = [[{"a": spans((0, 5, 1))}, {"a": []}]]
    table = make_attributes(tmp_path / "a", documents, "t", {"a": "spans"}, rows)
    kept = filter_documents(documents, [table], [Replace("t.a")], out=tmp_path / "o")
    assert column(kept, "text") == ["stays"]
    rules = json.loads((tmp_path / "o" / FUNNEL).read_text())["rules"]
    assert rules[0]["num_changed"] == 1
    assert (rules[1]["num_removed_first"], rules[1]["bytes_removed_first"]) == (1, 5)
    stay = [Replace("t.a", keep_empty=True)]
    as_dolma = filter_documents(documents, [table], stay, out=tmp_path / "stay")
    assert column(as_dolma, "text") == ["", "stays"]


def test_conditions_are_joined_by_any_and_all(measured, tmp_path):
    documents, table = measured
    short, long, four = Keep("t.n", at_most=1), Keep("t.n", at_least=5), Keep("t.n", 4, 4)
    even = AllOf([Keep("t.n", 2), Keep("t.n", at_most=4), AnyOf([Keep("t.n", 2, 2), four])])
    for number, (rule, texts, said) in enumerate(
        [
            (AnyOf([short, long]), ["a", "eeeee"], "t.n at most 1 or t.n at least 5"),
            (
                AnyOf([even, long]),
                ["bb", "dddd", "eeeee"],
                "(t.n at least 2 and t.n at most 4 and ",
            ),
        ]
    ):
        out = tmp_path / str(number)
        assert column(filter_documents(documents, [table], [rule], out=out), "text") == texts
        told = json.loads((out / FUNNEL).read_text())["rules"]
        assert told[0]["rule"].startswith(said) and told[0]["num_removed_first"] == 5 - len(texts)
    with pytest.raises(ValueError, match=r"rules\[0\]\.any\[1\]\.attribute is 't\.m'"):
        filter_documents(documents, [table], [AnyOf([short, Keep("t.m", 1)])], out=tmp_path / "x")
    for empty in (AnyOf, AllOf):
        with pytest.raises(ValueError, match="is empty"):
            empty([])


def test_what_is_removed_is_counted_by_source(tmp_path):
    parts = [make_documents(tmp_path / n, [t], n) for n, t in (("s", ["a", "ccc"]), ("x", ["é"]))]
    documents = concat_documents(parts, out=tmp_path / "d")
    rows = [[{"n": 1.0}, {"n": 3.0}], [{"n": 1.0}]]
    table = make_attributes(tmp_path / "a", documents, "t", {"n": "number"}, rows)
    kept = filter_documents(documents, [table], [Keep("t.n", 2)], out=tmp_path / "o")
    [rule] = json.loads((tmp_path / "o" / FUNNEL).read_text())["rules"]
    removed = {name: list(each.values()) for name, each in rule["sources"].items()}
    assert removed == {"s": [1, 1, 1, 1], "x": [1, 2, 1, 2]}
    counts = {each.source: (each.num_documents, each.num_text_bytes) for each in kept.sources}
    assert counts == {"s": (1, 3), "x": (0, 0)}


def test_a_rule_on_what_nothing_measures_is_told_with_the_nearest_name(measured, tmp_path):
    documents, table = measured
    with pytest.raises(ValueError, match=r"rules\[1\]\.attribute is 't\.hal', .*'t\.half'"):
        filter_documents(documents, [table], [Keep("t.n", 1), Keep("t.hal", 1)], out=tmp_path / "o")
    with pytest.raises(ValueError, match=r"rules\[0\]\.spans is 't\.n', which holds number"):
        filter_documents(documents, [table], [Replace("t.n")], out=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_measures_of_other_documents_are_refused(measured, tmp_path):
    _, table = measured
    other = make_documents(tmp_path / "other", [["a", "bb", "ccc"]])
    with pytest.raises(MismatchedInputs):
        filter_documents(other, [table], [Keep("t.n", 1)], out=tmp_path / "o")


def test_a_shard_whose_inputs_are_the_same_is_not_filtered_again(measured, tmp_path, monkeypatch):
    documents, table = measured
    memo, rules = FileMemo(tmp_path / "memo"), [Keep("t.n", 2)]
    first = filter_documents(documents, [table], rules, out=tmp_path / "1", memo=memo)
    explained = pq.read_table(tmp_path / "1" / REMOVED)
    monkeypatch.setattr(filtering._FilterShard, "_filter", None)
    again = filter_documents(documents, [table], rules, out=tmp_path / "2", memo=memo)
    assert again == first
    assert pq.read_table(tmp_path / "2" / REMOVED) == explained
    again.verify()


def test_rules_that_cannot_be_meant_are_refused():
    with pytest.raises(ValueError, match="neither at_least nor at_most"):
        Keep("t.n")
    with pytest.raises(ValueError, match="at_least is 5"):
        Keep("t.n", 5, 4)
    with pytest.raises(ValueError, match="must lie in order"):
        Sample("id", 0.5, 0.4, "s")
    with pytest.raises(ValueError, match="sample_by is 'module'"):
        Sample("module", 0, 1, "s")
