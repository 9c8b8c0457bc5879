import importlib
import json
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.files import write_json
from pipeline.report import readme, screenshot
from pipeline.report.html import write_report
from pipeline.report.readme import markdown, rewritten
from pipeline.report.tables import Change, Link, Measure, Share, Table
from tests.report.conftest import make_inputs

OURS = Path(__file__).parents[2] / "README.md"
NAMES = ("graph", "facts", "results")
EMPTY = "\n".join(f"before {n}\n<!-- generated: {n} -->\n<!-- end -->" for n in NAMES) + "\nafter\n"
PNG = b"\x89PNG"


@pytest.fixture
def run(tmp_path):
    """A run folder, as a finished run leaves it."""
    inputs = make_inputs(tmp_path)
    report = write_report(**inputs, out=tmp_path / "cache" / "WriteReport-001-hh")
    groups = ("corpus", "tokens", "training", "scores", "overlaps")
    args = {
        group: {name: {"step": artifact.root.name} for name, artifact in inputs[group].items()}
        for group in groups
    }
    artifacts = [each for group in groups for each in inputs[group].values()] + [report]
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    ids = {}
    for each in artifacts:
        kind, _, digits = each.root.name.rpartition("-")
        name = f"{kind.lower()}_{digits}"
        ids[name] = each.root.name
        of = args if each is report else {}
        write_json(each.root / "key.json", {"step": kind.partition("-")[0], "args": of})
        record = {"seconds": 1.5, "python": "3.11.7", "packages": {"torch": "2.9.0"}}
        write_json(each.root / "run.json", record)
        if not (folder / name).exists():
            (folder / name).symlink_to(each.root)
    write_json(folder / "steps.json", ids)
    return folder


@pytest.fixture
def no_browser(monkeypatch):
    monkeypatch.setattr(screenshot, "BROWSERS", ())


def test_one_command_writes_all_that_is_generated(run, tmp_path, no_browser, capsys):
    path = tmp_path / "README.md"
    path.write_text(EMPTY)
    assert readme.main([str(run), "--readme", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    assert re.sub(r"(generated: \w+ -->\n).*?(<!-- end)", r"\1\2", text, flags=re.DOTALL) == EMPTY
    assert "```mermaid" in text
    assert "| parameters | 1,572,864 |" in text
    assert "Python 3.11.7, torch 2.9.0" in text
    assert "at chance" in text
    assert "<script" not in text
    assert (tmp_path / "docs" / "tiny-loss.svg").read_text().startswith("<svg")
    assert "no Chromium" in capsys.readouterr().out
    assert readme.main([str(run), "--readme", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == text


def test_the_numbers_of_the_readme_are_those_of_the_page(run):
    found = readme.read_run(run)
    page = (found.report.root / found.report.page.path).read_text(encoding="utf-8")
    page = re.sub(r"<[^>]*>", "", page)
    numbers = re.findall(r"\d\.\d{3} ± \d\.\d{3}", readme.results(found))
    assert len(numbers) > 20
    assert all(number in page for number in numbers)


def test_each_table_of_the_readme_has_as_many_cells_in_every_row(run):
    text = readme.results(readme.read_run(run)) + "\n\n" + readme.facts(readme.read_run(run))
    for table in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        rows = [line.replace("\\|", "").count("|") for line in table.strip().splitlines()]
        assert len(set(rows)) == 1


def test_a_run_without_its_report_is_refused(run, tmp_path, capsys):
    ids = json.loads((run / "steps.json").read_text())
    del ids["writereport-001_hh"]
    write_json(run / "steps.json", ids)
    assert readme.main([str(run), "--readme", str(tmp_path / "README.md")]) == 1
    assert "has 0 reports; it must have one" in capsys.readouterr().err


@given(st.text(), st.text(), st.text(alphabet=st.characters(blacklist_characters="<")))
def test_what_is_not_generated_stays_as_it_is(before, after, made):
    if "<!-- generated" in before + after:
        return
    text = f"{before}<!-- generated: graph -->\nold\n<!-- end -->{after}"
    new = rewritten(text, {"graph": made})
    assert new == f"{before}<!-- generated: graph -->\n{made}\n<!-- end -->{after}"
    assert rewritten(new, {"graph": made}) == new


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there are 0 places for 'graph'; there must be one"),
        ("<!-- generated: graph -->\n<!-- end -->" * 2, "there are 2 places"),
        (
            "<!-- generated: graph -->\n<!-- end --> <!-- generated: tabel -->\n<!-- end -->",
            "nothing makes 'tabel'; a block is one of graph",
        ),
    ],
)
def test_a_block_without_its_place_is_told(text, message):
    with pytest.raises(ValueError, match=message):
        rewritten(text, {"graph": "x"})


@given(st.text(max_size=40))
def test_no_text_breaks_out_of_a_markdown_cell(text):
    cells = [text, Link(text, "x.json"), Change(1.0, 0.1, "better"), Measure(1.0), Share(0.5)]
    *_, line = markdown(Table(["a", "b", "c", "d", "e"], [cells])).split("\n")
    plain = line.replace("\\\\", "").replace("\\|", "")
    assert plain.count("|") == 6
    assert "<" not in line
    assert not re.search(r"(?<!\\)!?\[(?!.*x\.json)", plain)


def test_our_readme_has_a_place_for_each_block_and_names_files_that_are_there():
    text = OURS.read_text(encoding="utf-8")
    rewritten(text, dict.fromkeys(NAMES, ""))
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    named = {each for span in re.findall(r"`([^`]+)`", text) for each in span.split()}
    named |= set(re.findall(r"\]\((docs/[^)]+)\)", text))
    paths = {
        n for n in named if re.fullmatch(r"(docs|experiments|pipeline|steps|tests)/[\w./-]+", n)
    }
    assert len(paths) > 20
    missing = {path for path in paths if not (OURS.parent / path).exists()}
    assert missing == {"experiments/seed.jsonnet"}  # the one a reader is told to write


def test_the_tagger_of_our_readme_measures(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", OURS.read_text(encoding="utf-8"), flags=re.DOTALL)
    (code,) = (each for each in blocks if "class Asks" in each)
    (tmp_path / "tagger_of_our_readme.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    asks = importlib.import_module("tagger_of_our_readme").Asks()
    assert asks.measure("Why?\nSo.") == {"question_line_fraction": 0.5}
    assert asks.measure("") == {"question_line_fraction": None}
    assert asks.COLUMNS.keys() == asks.measure("").keys()


def fake_browser(folder, size):
    """A program that writes `size` bytes where a browser would write its picture."""
    path = folder / "chromium"
    path.write_text(
        "#!/bin/sh\n"
        'for each; do case "$each" in --screenshot=*) out="${each#--screenshot=}";; esac; done\n'
        f'[ {size} = 0 ] || head -c {size} /dev/zero > "$out"\n'
        "echo went wrong >&2\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(("size", "message"), [(0, "went wrong"), (400_001, "400001 bytes")])
def test_a_picture_that_is_none_or_too_large_is_refused(tmp_path, monkeypatch, size, message):
    monkeypatch.setattr(screenshot, "BROWSERS", (str(fake_browser(tmp_path, size)),))
    with pytest.raises(ValueError, match=message):
        screenshot.take_screenshot(tmp_path / "index.html", tmp_path / "report.png")
    assert not (tmp_path / "report.png").exists()


def test_a_picture_is_taken_where_there_is_a_browser(tmp_path, monkeypatch):
    monkeypatch.setattr(screenshot, "BROWSERS", (str(fake_browser(tmp_path, 400_000)),))
    assert screenshot.take_screenshot(tmp_path / "index.html", tmp_path / "docs" / "report.png")
    assert (tmp_path / "docs" / "report.png").stat().st_size == 400_000


def test_without_a_browser_nothing_is_written(tmp_path, no_browser):
    assert not screenshot.take_screenshot(tmp_path / "index.html", tmp_path / "report.png")
    assert list(tmp_path.iterdir()) == []
