import pytest

from pipeline.core.errors import CorruptShard
from pipeline.report import tables
from pipeline.report.tables import Share
from tests.report.conftest import EVIL, make_inputs


def test_runs_stand_in_the_order_of_training_not_of_their_names(inputs):
    assert tables.ordered_runs(inputs["training"]) == ["base", "sft", "dpo"]


def test_overlap_is_the_share_of_documents_hit(inputs):
    rows = tables.overlap(inputs["overlaps"]).rows
    assert rows[1] == ["code kept with held-out functions", 4, 1, Share(0.25), Share(0.25)]


def test_a_funnel_adds_up_to_what_was_removed(inputs):
    said, table = tables.funnel(inputs["corpus"]["code kept"])
    assert said == "1,822 documents came in and 1,402 were kept"
    first = table.heads.index("removed first")
    *rules, total = table.rows
    assert sum(row[first] or 0 for row in rules) == total[first] == 420
    assert rules[2] == [EVIL, None, None, None, 7]
    assert tables.funnel(inputs["corpus"]["code"]) is None


@pytest.mark.parametrize(
    "form", ["", "[]", '{"num_documents": 1}', '{"num_documents":1,"num_kept":1,"rules":[{}]}']
)
def test_what_is_no_funnel_is_refused(tmp_path, form):
    documents = make_inputs(tmp_path)["corpus"]["code kept"]
    (documents.root / "funnel.json").write_text(form)
    with pytest.raises(CorruptShard, match=r"funnel\.json: is no funnel"):
        tables.funnel(documents)


def test_the_sample_of_removed_documents_has_some_of_each_rule(inputs):
    sample = tables.removed_sample(inputs["corpus"]["code kept"])
    assert [row["rule"] for row in sample] == ["gopher.num_words"] * 3 + [EVIL]
    assert tables.removed_sample(inputs["corpus"]["code"]) == []


def test_the_data_sheet_has_what_was_kept_of_each_source_with_its_licence(inputs):
    corpus, tokens = inputs["corpus"], inputs["tokens"]
    sheet = tables.data_sheet(corpus, tokens)
    *rows, whole = sheet.rows
    kept = {s.source: s for s in tables.kept(corpus)[0].sources}
    for source, licence, provenance, documents, size, count in rows:
        assert count == (sum(each.sources.get(source, 0) for each in tokens.values()) or None)
        if source in kept:
            own = kept[source]
            assert (licence, provenance) == (own.licence, own.provenance)
            assert (documents, size) == (own.num_documents, own.num_text_bytes)
    assert kept.keys() <= {row[0] for row in rows}
    assert whole[5] == sum(each.num_tokens for each in tokens.values())
    assert tables.data_sheet({}, {}).rows == [["all", "", "", 0, 0, 0]]
