import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.engine import Local
from pipeline.data import dedup
from pipeline.data.dedup import deduplicate
from tests.data.conftest import column, make_documents

texts = st.text(alphabet="ab\n ", max_size=6)


def expected_paragraphs(all_texts):
    """The marked spans of each text, worked out line by line."""
    seen, found = set(), []
    for text in all_texts:
        at, spans = 0, []
        for line in text.splitlines(keepends=True):
            body = line.removesuffix("\n")
            if body.strip():
                if body in seen:
                    spans.append((at, at + len(line)))
                seen.add(body)
            at += len(line)
        found.append(spans)
    return found


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(shards=st.lists(st.lists(texts, max_size=5), max_size=4), max_sorted=st.integers(1, 4))
def test_the_first_of_equals_in_corpus_order_is_the_one_not_marked(
    shards, max_sorted, tmp_path_factory
):
    root = tmp_path_factory.mktemp("dedup")
    documents = make_documents(root / "documents", shards)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "MAX_SORTED", max_sorted)  # many parts
        marked = deduplicate(documents, by=["document", "paragraph"], out=root / "out")
    flat = [text for shard in shards for text in shard]
    kept = [t for t, m in zip(flat, column(marked, "duplicate_document"), strict=True) if not m]
    assert kept == list(dict.fromkeys(flat))
    spans = [
        [(s["start"], s["end"]) for s in row] for row in column(marked, "duplicate_paragraphs")
    ]
    assert spans == expected_paragraphs(flat)
    for text, row, fraction in zip(
        flat, spans, column(marked, "duplicate_paragraph_fraction"), strict=True
    ):
        assert fraction * max(1, len(text)) == pytest.approx(sum(e - s for s, e in row))


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
