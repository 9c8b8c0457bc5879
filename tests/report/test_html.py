import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.core.artifacts import Artifact, Checkpoints, Scores
from pipeline.core.errors import CorruptShard
from pipeline.report import readme
from pipeline.report.html import write_report
from tests.report.conftest import make_inputs

VOID = {"meta"}


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
        "num kept: 1,402",
        "8.12M",
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


def test_the_readme_has_a_chart_and_a_row_for_each_score(inputs, tmp_path, capsys):
    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    for group in ("training", "scores", "corpus"):
        for name, artifact in inputs[group].items():
            (run / name.replace(" ", "_")).symlink_to(artifact.root)
    (run / "config.json").write_text("{}")
    found = readme.run_artifacts(run)
    assert sum(isinstance(each, Checkpoints) for each in found.values()) == 3
    assert sum(isinstance(each, Scores) for each in found.values()) == 4
    readme.main([str(run), "--chart", str(tmp_path / "docs" / "tiny-loss.svg")])
    assert Path(tmp_path / "docs" / "tiny-loss.svg").read_text().startswith("<svg")
    lines = capsys.readouterr().out.splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert any("at chance" in line for line in lines)
    assert not any("<script" in line for line in lines)
