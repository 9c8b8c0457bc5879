import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.artifacts import Artifact
from pipeline.core.errors import CorruptShard
from pipeline.report import tables
from pipeline.report.html import write_report
from pipeline.report.markup import shown_table
from steps.graph.wiring import build_steps
from tests.report.conftest import EVIL, make_inputs, make_scores, score
from tests.steps.conftest import Bench
from tests.steps.lab import ref

VOID = {"meta", "wbr"}


class Elements(HTMLParser):
    """Collects the elements of a page and checks that they close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.links = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        self.links += [value for name, value in attributes if name in ("href", "src")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(inputs, tmp_path_factory):
    workspace = inputs["corpus"]["code"].root.parent.parent
    out = workspace / "work" / "WriteReport-001-00"
    report = write_report(**inputs, out=out)
    report.verify()
    return out / report.page.path


def test_no_text_of_the_data_becomes_markup(page):
    elements = Elements(page.read_text(encoding="utf-8"))
    assert not elements.open
    assert "script" not in elements.seen
    assert {"table", "svg", "pre"} <= elements.seen
    assert "&lt;script&gt;alert" in page.read_text(encoding="utf-8")


def test_the_page_needs_no_network_and_its_links_lead_to_manifests(page):
    text = page.read_text(encoding="utf-8")
    links = Elements(text).links
    for link in links:
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in text
        else:
            assert not re.match(r"[a-z]+:|/", link)
            Artifact.load((page.parent / link).parent)
    assert not re.search(r"url\(|@import|<link|<img", text)


def test_the_page_says_what_the_results_say(page):
    text = re.sub(r"<[^>]*>", " ", page.read_text(encoding="utf-8"))
    for said in (
        "1,402",
        "1,822 documents came in and 1,402 were kept",
        "8.12M",
        "1,572,864",
        "at chance",
        "no clear change",
        "Return the sum of a and b.",
    ):
        assert said in text


def test_the_same_results_make_the_same_page_wherever_they_stand(tmp_path):
    contents = {
        write_report(**make_inputs(tmp_path / name), out=tmp_path / name / "work" / "r").content
        for name in ("one", "two")
    }
    assert len(contents) == 1


def test_a_run_with_nothing_in_it_still_has_a_page(tmp_path):
    report = write_report(
        title="nothing", corpus={}, tokens={}, training={}, scores={}, out=tmp_path
    )
    Elements((tmp_path / report.page.path).read_text(encoding="utf-8"))


def test_a_changed_history_is_refused(tmp_path):
    inputs = make_inputs(tmp_path)
    checkpoints = inputs["training"]["base"]
    (checkpoints.root / checkpoints.history.path).write_bytes(b"no history")
    with pytest.raises(CorruptShard, match="history.parquet"):
        write_report(**inputs, out=tmp_path / "work" / "r")


def test_no_name_of_a_stage_run_or_model_becomes_markup(tmp_path):
    inputs = make_inputs(tmp_path)

    def hostile(named):
        return {f"{EVIL} {name}": artifact for name, artifact in named.items()}

    rows = [
        score(f"{EVIL} {m}", n, EVIL, "bits_per_byte", 1.0 / n) for m in "ab" for n in (1, 2)
    ] + [score(EVIL, 1, EVIL, EVIL, None)]
    series = make_scores(tmp_path / "cache" / "Perplexity-001-zz", EVIL, rows, [])
    stages = [score(f"{EVIL} {m}", 1, EVIL, "bits_per_byte", 1.0) for m in "ab"]
    alike = make_scores(tmp_path / "cache" / "AnswerScores-001-zz", EVIL, stages, [])
    out = tmp_path / "work" / "WriteReport-001-00"
    write_report(
        title=EVIL,
        corpus=hostile(inputs["corpus"]),
        tokens=hostile(inputs["tokens"]),
        training=hostile(inputs["training"]),
        scores={**hostile(inputs["scores"]), f"{EVIL}1": series, f"{EVIL}2": alike},
        overlaps=hostile(inputs["overlaps"]),
        generations=inputs["generations"],
        out=out,
    )
    elements = Elements((out / "index.html").read_text(encoding="utf-8"))
    assert not elements.open
    assert not elements.seen & {"script", "img", "iframe", "object", "link"}


def test_what_stands_in_the_corpus_is_told_beside_the_scores(page):
    text = page.read_text(encoding="utf-8")
    scores = text.index("<h3>held-out functions ")
    beside = text.index("code kept with held-out functions")
    assert scores < beside < text.index("<h3>Other evaluation text")


def test_the_results_stand_before_what_they_were_made_of(page):
    text = page.read_text(encoding="utf-8")
    order = ["language", "stages", "choice", "generations", "training", "data", "funnel", "tokens"]
    places = [text.index(f'<section id="{id}">') for id in [*order, "made"]]
    assert places == sorted(places)


def test_the_id_of_a_result_is_shown_short_and_told_in_full(tmp_path):
    inputs = make_inputs(tmp_path)
    id = f"Filter-002-{'0123456789abcdef' * 2}"
    shutil.move(inputs["corpus"]["code kept"].root, tmp_path / "cache" / id)
    corpus = {"kept": Artifact.load(tmp_path / "cache" / id)}
    out = tmp_path / "work" / "r"
    write_report(title="t", corpus=corpus, tokens={}, training={}, scores={}, out=out)
    text = (out / "index.html").read_text(encoding="utf-8")
    assert f'<a href="../../cache/{id}/manifest.json" title="{id}">Filter-002-01234567</a>' in text


def test_a_corpus_alone_has_its_data_sheet(tmp_path):
    report = {"type": "report", "title": "t", "corpus": {"kept": ref("kept")}, "tokens": {}}
    bench = Bench(tmp_path)
    built = build_steps({**bench.config(), "report": report})
    for name in ("corpus", "quality", "kept", "report"):
        built[name].result(bench.workspace)
    page = bench.results.folder(built["report"].unique_id) / "index.html"
    assert "documents kept" in page.read_text(encoding="utf-8")


@settings(deadline=None, max_examples=50)
@given(
    st.one_of(
        st.text(max_size=400),
        st.builds(tables.Link, st.text(), st.text(), st.text()),
        st.builds(tables.Measure, st.floats(), st.floats()),
        st.builds(tables.Change, st.floats(), st.floats(), st.text()),
        st.builds(tables.Share, st.floats(allow_nan=False, allow_infinity=False)),
        st.integers(),
        st.floats(),
        st.booleans(),
        st.none(),
    )
)
def test_any_cell_is_well_formed(cell):
    text = shown_table(tables.Table([EVIL], [[cell]])).replace("<wbr>", "")
    ElementTree.fromstring(f"<body>{text}</body>")
