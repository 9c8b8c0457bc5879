"""`olmo why`: the first cause of a difference, across runs and experiments."""

import json
from importlib import reload

import pytest

import steps  # noqa: F401  registers every step
from pipeline.store.results import Results
from steps.cli.__main__ import main
from steps.graph.wiring import build_steps
from tests.steps import pages
from tests.steps.pages import as_changed, join, write
from tests.steps.plan.test_planning import Place

GRAPH = {
    "one": write("one"),
    "two": write("two"),
    "both": join("one", "two"),
    "last": join("both", "one", between="-"),
}
CHANGED = {**GRAPH, "one": write("1")}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A workspace where GRAPH was run, and both graphs as experiment files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OLMO_STRICT", raising=False)
    reload(pages)
    for name, graph in (("old", GRAPH), ("new", CHANGED)):
        (tmp_path / f"{name}.jsonnet").write_text(json.dumps({"steps": graph}))
    made = Place(tmp_path / "workspace")
    made.run(GRAPH, "first")
    return made


def why(capsys, *arguments, status=0):
    capsys.readouterr()
    assert main(["why", *arguments]) == status
    said = capsys.readouterr()
    return (said.err if status else said.out).splitlines()


def test_a_difference_is_followed_to_its_first_cause(place, capsys):
    old, new, *causes = why(capsys, "old.jsonnet:last", "new.jsonnet:last")
    assert old.startswith("old  last (JoinTexts-001-") and new.startswith("new  last (JoinTexts-")
    assert causes == ['last <- one: text: "one" -> "1"']  # by its shortest way, and once


def test_without_a_second_result_the_nearest_earlier_one_is_meant(place, capsys):
    assert why(capsys, "new.jsonnet:both")[2:] == ['both <- one: text: "one" -> "1"']


def test_runs_and_ids_name_results_too(place, capsys):
    place.run(CHANGED, "second")
    capsys.readouterr()
    ids = [build_steps(graph)["both"].unique_id for graph in (GRAPH, CHANGED)]
    expected = ['both <- one: text: "one" -> "1"']
    assert why(capsys, "first:both", "second:both")[2:] == expected
    assert why(capsys, *ids)[2:] == expected
    assert why(capsys, ids[0][-32:-20], ids[1][:20])[2:] == expected
    assert why(capsys, ids[0], ids[0]) == [f"both ({ids[0]}) is one result"]


def test_several_causes_are_told_each_with_its_way(place, capsys, tmp_path):
    graph = {**CHANGED, "last": join("both", "one", "two", between="+"), "two": write("2", mark=7)}
    (tmp_path / "more.jsonnet").write_text(json.dumps({"steps": graph}))
    causes = why(capsys, "first:last", "more.jsonnet:last")[2:]
    assert set(causes) == {
        'last: between: "-" -> "+"',
        "last: pages[2]: (missing) -> " + json.dumps({"step": build_steps(graph)["two"].unique_id}),
        'last <- one: text: "one" -> "1"',
        "last <- both <- two: mark: 0 -> 7",
        'last <- both <- two: text: "two" -> "2"',
    }


def test_code_that_changed_is_told(place, capsys, tmp_path):
    as_changed(tmp_path / "a", "return text.strip()", "return text.strip().upper()")
    assert "pages.said" in why(capsys, "old.jsonnet:one", "first:one")[-1]
    assert why(capsys, "old.jsonnet:both", "first:both")[1:] == []


def test_where_a_key_is_gone_the_search_ends(place, capsys):
    place.run(CHANGED, "second")
    capsys.readouterr()
    results = Results(place.root)
    gone = build_steps(CHANGED)["one"].unique_id
    (results.folder(gone) / "key.json").unlink()
    (line,) = why(capsys, "first:both", "second:both")[2:]
    assert line.startswith("both <- one: the key of WriteText-") and line.endswith("is gone")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["old.jsonnet"], "names no step"),
        (["old.jsonnet:bth"], "did you mean 'both'"),
        (["frst:both"], "did you mean 'first'"),
        (["first:bth"], "did you mean 'both'"),
        (["JoinTexts-"], "begins"),
        (["../x"], "is no step of the latest run and no id"),
        (["no.jsonnet:x"], "there is no such file"),
        (["first:one", "x"], "is no step of the latest run and no id"),
    ],
)
def test_what_cannot_be_found_is_named(place, capsys, asked, said):
    (line,) = why(capsys, *asked, status=1)
    assert said in line


def test_a_first_result_has_no_earlier_one(place, capsys, tmp_path):
    (line,) = why(capsys, "old.jsonnet:one", "-w", str(tmp_path / "empty"), status=1)
    assert "there is no earlier result" in line


def test_another_step_of_the_same_run_is_no_earlier_result(place, capsys):
    (line,) = why(capsys, "first:both", status=1)  # the run's last step is of the same class
    assert "there is no earlier result" in line


def test_steps_of_two_kinds_are_one_difference(place, capsys):
    assert why(capsys, "first:one", "first:both")[2:] == ['both: step: "WriteText" -> "JoinTexts"']


def test_a_step_of_the_latest_run_is_a_name_as_for_every_other_command(place, capsys):
    place.run(CHANGED, "second")
    assert why(capsys, "first:both", "both") == why(capsys, "first:both", "second:both")
    assert why(capsys, "first:both", "both")[2].startswith("both <- one")
