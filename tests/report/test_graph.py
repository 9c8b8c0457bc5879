import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tango.step import Step

import steps  # noqa: F401  registers every step
from pipeline.report import graph as drawing
from pipeline.report.graph import Node
from tests.report.conftest import EVIL

KINDS = [("Ingest", "Documents"), ("Tag", "Attributes"), ("Dedup", "Attributes")]
KINDS += [("Filter", "Documents"), ("Concat", "Documents"), ("RankEval", "Scores")]


@st.composite
def graphs(draw):
    """Steps that read some of those before them."""
    made = {}
    for number in range(draw(st.integers(1, 14))):
        reads = draw(st.sets(st.sampled_from(sorted(made)), max_size=4)) if made else set()
        kind, makes = draw(st.sampled_from(KINDS))
        made[f"step_{number}"] = Node(kind, makes, frozenset(reads))
    return made


@st.composite
def acyclic_edges(draw):
    pairs = st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda pair: pair[0] < pair[1])
    return draw(st.sets(pairs, max_size=25))


def reachable(edges):
    pairs = set(edges)
    while more := {(a, d) for a, b in pairs for c, d in pairs if b == c} - pairs:
        pairs |= more
    return pairs


@settings(deadline=None, max_examples=50)
@given(graphs())
def test_each_step_stands_in_one_box_and_no_box_waits_for_itself(graph):
    boxes = drawing.folded(graph)
    assert sorted(name for box in boxes for name in box) == sorted(graph)
    assert drawing.is_acyclic(drawing.edges_between(graph, boxes))
    for box in boxes:
        assert len({graph[n].kind for n in box}) == 1 or len({graph[n].makes for n in box}) == 1


@settings(deadline=None)
@given(acyclic_edges())
def test_the_fewest_arrows_say_what_all_arrows_say(edges):
    few = drawing.reduced(edges)
    assert reachable(few) == reachable(edges)
    for edge in few:
        assert edge not in reachable(few - {edge})


@given(acyclic_edges())
def test_chains_hold_each_box_once(edges):
    runs = drawing.chains(10, edges)
    assert sorted(box for run in runs for box in run) == list(range(10))


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=15))
def test_a_circle_is_what_reaches_itself(edges):
    assert drawing.is_acyclic(edges) == all(a != b for a, b in reachable(edges))


@settings(deadline=None, max_examples=50)
@given(graphs())
def test_a_carrier_is_read_through(graph):
    left = drawing.without_carriers(graph)
    assert all(node.kind != "Concat" and node.reads <= left.keys() for node in left.values())
    before = reachable({(read, name) for name in graph for read in graph[name].reads})
    after = reachable({(read, name) for name in left for read in left[name].reads})
    assert after == {(a, b) for a, b in before if a in left and b in left}


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=5, unique=True), st.text(max_size=20))
def test_no_name_becomes_markup_of_the_picture(names, kind):
    graph = {name: Node(kind, EVIL, frozenset()) for name in [*names, EVIL]}
    graph["last"] = Node(kind, EVIL, frozenset({EVIL}))
    for line in drawing.mermaid(graph).splitlines()[2:]:
        label = r'[^"<>\n]*(<br>[^"<>\n]*)*'
        assert re.fullmatch(rf"  s\d+(\(\[|\[)\"{label}\"(\]\)|\])|  s\d+ --> s\d+", line)


def test_text_that_is_only_measured_shares_no_box_with_text_that_is_trained_on():
    graph = {
        "tasks": Node("IngestTasks", "Questions", frozenset()),
        "task_text": Node("TaskDocuments", "Documents", frozenset({"tasks"})),
        "web": Node("Ingest", "Documents", frozenset()),
        "books": Node("Ingest", "Documents", frozenset()),
        "heldout_text": Node("TaskDocuments", "Documents", frozenset({"web"})),
    }
    assert drawing.folded(graph) == [["tasks"], ["task_text"], ["web", "books"], ["heldout_text"]]


def test_a_box_is_called_what_an_experiment_calls_its_step():
    own = {name: Step.by_name(name) for name in Step.list_available()}
    own = {name: each for name, each in own.items() if each.__module__.startswith("steps.")}
    assert len(own) > 20
    assert {name: drawing.step_type(each.__name__) for name, each in own.items()} == {
        name: name for name in own
    }


@pytest.mark.parametrize("made", [False, True])
def test_a_run_that_is_not_finished_has_no_picture(tmp_path, made):
    if made:
        (tmp_path / "steps.json").write_text('{"code": "Ingest-001-aa"}')
    message = "1 of 1 steps have no result, the first is 'code'" if made else "is no run"
    with pytest.raises(ValueError, match=message):
        drawing.run_graph(tmp_path)
