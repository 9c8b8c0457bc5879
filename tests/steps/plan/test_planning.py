"""What a plan says of each step, against what a run then does."""

import json
import signal
from importlib import reload

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tango.step import Step
from tango.step_graph import StepGraph
from tango.workspace import Workspace

import steps  # noqa: F401  registers every step
from pipeline.core.keys import Change
from pipeline.core.stopping import Stopped
from pipeline.store.discarding import discard
from pipeline.store.remote import Remote
from pipeline.store.results import Results
from steps.cli.__main__ import main
from steps.execution.executor import LocalExecutor
from steps.graph.wiring import build_steps
from steps.plan.drawing import as_dot, as_json, as_mermaid, as_text
from steps.plan.planning import RUNS, Reason, plan_steps, reason_of, short_plan, summary
from steps.workspace import ResultWorkspace
from tests.steps import pages
from tests.steps.pages import as_changed, join, write

GRAPH = {
    "one": write("one"),
    "two": write("two"),
    "both": join("one", "two"),
    "twice": join("both", "both"),
}


@pytest.fixture(autouse=True)
def own_steps(monkeypatch):
    """Every test begins with the steps as they stand in their file."""
    reload(pages)
    monkeypatch.delenv("OLMO_STRICT", raising=False)


@pytest.fixture
def place(tmp_path):
    """Runs and plans of graphs in one workspace."""
    return Place(tmp_path / "workspace")


class Place:
    def __init__(self, root):
        self.root = root

    def run(self, graph, name=None, strict=False):
        """Run a graph; gives the ids of the results that are there now and were not before."""
        workspace = ResultWorkspace(str(self.root), strict=strict)
        before = set(workspace.results)
        built = build_steps(graph)
        workspace.register_run(built.values(), name)
        output = LocalExecutor(workspace).execute_step_graph(StepGraph(built))
        assert not output.failed and not output.not_run
        return {step for step in built if built[step].unique_id in set(workspace.results) - before}

    def plan(self, graph, strict=False):
        return plan_steps(build_steps(graph).values(), Results(self.root, strict=strict))

    def states(self, graph, strict=False):
        return {each.name: each.state for each in self.plan(graph, strict)}

    def reasons(self, graph, name, strict=False):
        return [
            str(r) for each in self.plan(graph, strict) if each.name == name for r in each.reasons
        ]

    def text(self, graph, name):
        id = build_steps(graph)[name].unique_id
        return (Results(self.root).folder(id) / "page.html").read_text(encoding="utf-8")


def test_before_and_after_a_run(place):
    assert place.states(GRAPH) == {
        "one": "will run",
        "two": "will run",
        "both": "waits",
        "twice": "waits",
    }
    assert place.run(GRAPH) == set(GRAPH)
    assert set(place.states(GRAPH).values()) == {"cached"}
    assert place.run(GRAPH) == set()


def test_what_stands_in_the_remote_is_said_to_be_there(place, tmp_path):
    place.run(GRAPH)
    remote, built = Remote(str(tmp_path / "remote")), build_steps(GRAPH)
    remote.push(Results(place.root), [built[name].unique_id for name in ("one", "both")])
    planned = plan_steps(built.values(), Results(tmp_path / "elsewhere"), remote)
    assert {each.name for each in planned if each.state == "in remote"} == {"one", "both"}
    assert {each.name for each in planned if each.runs} == {"two", "twice"}


def test_a_changed_value_is_named_and_what_reads_it_may_be_linked(place):
    place.run(GRAPH)
    changed = {**GRAPH, "one": write(" one")}
    assert place.states(changed) == {
        "one": "will run",
        "two": "cached",
        "both": "maybe linked",
        "twice": "maybe linked",
    }
    assert place.reasons(changed, "one") == ['text: "one" -> " one"']
    assert place.reasons(changed, "both") == ["reads one, which is not the earlier one"]
    place.run({"one": changed["one"]})
    assert place.states(changed) == {
        "one": "cached",
        "two": "cached",
        "both": "linked",  # the page is the same
        "twice": "linked",
    }
    place.run({**GRAPH, "one": write("other")})
    assert place.states({**GRAPH, "one": write("third")})["both"] == "maybe linked"


def test_a_step_with_another_value_of_its_own_waits(place):
    place.run(GRAPH)
    changed = {**GRAPH, "one": write("1"), "both": join("one", "two", between="-")}
    assert place.states(changed)["both"] == "waits"
    assert place.reasons(changed, "both") == [
        'between: " " -> "-"',
        "reads one, which is not the earlier one",
    ]


def test_the_nearest_result_is_the_one_of_this_name_with_fewest_changes(place):
    place.run({"one": write("a"), "two": write("b", mark=1)}, "first")
    place.run({"one": write("c", mark=5)}, "second")
    assert place.reasons({"one": write("d")}, "one") == ['text: "a" -> "d"']
    assert place.reasons({"new": write("b", mark=2)}, "new") == ["mark: 1 -> 2"]
    place.run({"one": write("e")}, "third")
    assert place.reasons({"one": write("d")}, "one") == ['text: "e" -> "d"']


def test_what_a_step_took_is_told_of_it_and_of_the_next(place):
    place.run(GRAPH)
    (cached,) = place.plan({"one": GRAPH["one"]})
    (changed,) = place.plan({"one": write("two more")})
    assert cached.cost.num_bytes == 3 and cached.cost.seconds is not None
    assert changed.cost == cached.cost and changed.nearest == cached.id
    assert "1 of them took 0.0 s and 3 B before" in summary([changed])


def test_what_was_discarded_runs_where_a_step_that_runs_reads_it(place):
    place.run(GRAPH)
    results = Results(place.root)
    built = build_steps(GRAPH)
    for name in ("one", "both"):
        discard(results, built[name].unique_id)
    assert set(place.states(GRAPH).values()) == {"cached"}
    changed = {**GRAPH, "twice": join("both", "both", between="+")}
    assert place.states(changed) == {
        "one": "will run",
        "two": "cached",
        "both": "will run",
        "twice": "will run",
    }
    assert place.reasons(changed, "both") == ["its data was discarded, and twice reads it"]
    place.run(changed)
    assert place.text(changed, "twice") == "one two+one two"
    assert not results.inventory(built["one"].unique_id).discarded


def test_a_damaged_result_is_the_reason_to_make_it_again(place):
    place.run(GRAPH)
    id = build_steps(GRAPH)["both"].unique_id
    page = Results(place.root).folder(id) / "page.html"
    page.write_text(page.read_text(encoding="utf-8")[:-1], encoding="utf-8")
    assert place.states(GRAPH)["both"] == "will run"
    (reason,) = place.reasons(GRAPH, "both")
    assert reason.startswith("its result is damaged: has ") and "committed with" in reason
    assert place.run(GRAPH) == {"both"}


def test_what_a_step_needs_is_told(place):
    asking = write("x", needs={"disk": "1TB", "credentials": ["HF_TOKEN"]})
    asking["step_resources"] = {"gpu_count": 8, "memory": "2GiB"}
    text = "\n".join(as_text(place.plan({"one": asking})))
    assert "needs 8 GPUs, 2GiB of memory, 1TB of disk, HF_TOKEN" in text


def test_an_attempt_that_failed_is_told(place, tmp_path):
    step = build_steps({"one": write("x")})["one"]
    results = Results(place.root)
    results.work(step.unique_id)
    assert place.reasons({"one": write("x")}, "one") == ["there is no earlier result"]
    (results.work(step.unique_id) / "00000.parquet").write_text("half")
    assert place.reasons({"one": write("x")}, "one")[0] == "goes on where it stopped"
    results.fail(step.unique_id, {"step": "one", "error": "ValueError: too short"})
    assert place.reasons({"one": write("x")}, "one")[0] == (
        "its last attempt failed: ValueError: too short"
    )
    results.fail(step.unique_id, {"step": "one", "error": "ValueError: a\n\x1b[2J" + "x" * 9000})
    (said,) = place.reasons({"one": write("x")}, "one")[:1]
    assert said.startswith("its last attempt failed: ValueError: a \\x1b[2Jxxx")
    assert len(said) < 250 and said.endswith("…")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (Stopped(signal.SIGTERM), "was stopped (SIGTERM); goes on where it stopped"),
        (KeyboardInterrupt(), "was stopped (SIGINT); goes on where it stopped"),
        (ValueError("x"), "its last attempt failed: ValueError: x"),
    ],
)
def test_an_attempt_that_was_asked_to_stop_did_not_fail(place, monkeypatch, error, says):
    def stop(*given, **named):
        raise error

    step = build_steps({"one": write("x")})["one"]
    monkeypatch.setattr(type(step), "run", stop)
    with pytest.raises(type(error)):
        step.result(ResultWorkspace(str(place.root)))
    monkeypatch.undo()
    assert place.reasons({"one": write("x")}, "one")[0] == says


def test_code_that_changed_is_told_by_step_and_the_result_is_used(place, tmp_path):
    place.run(GRAPH)
    as_changed(tmp_path / "a", "return text.strip()", "return text.strip().upper()")
    states = place.states(GRAPH)
    assert states == {
        "one": "code changed",
        "two": "code changed",
        "both": "cached",
        "twice": "cached",
    }
    named = place.reasons(GRAPH, "one")  # it stands in another file as well now
    assert named == ["code of pages.said", "code of tests.steps.pages.said"]
    assert place.run(GRAPH) == set() and place.text(GRAPH, "both") == "one two"
    lines = short_plan(build_steps(GRAPH), Results(place.root))
    assert "one, two" in lines[-1] and "pages.said" in lines[-1]


def test_code_enters_no_key(place, tmp_path):
    before = {name: step.unique_id for name, step in build_steps(GRAPH).items()}
    as_changed(tmp_path / "a", "return text.strip()", "return text.strip().upper()")
    assert {name: step.unique_id for name, step in build_steps(GRAPH).items()} == before


def test_strict_makes_again_what_other_code_made_and_what_was_made_of_it(place, tmp_path):
    place.run(GRAPH)
    as_changed(tmp_path / "a", "return text.strip()", "return text.strip().upper()")
    assert place.states(GRAPH, strict=True) == {
        "one": "will run",
        "two": "will run",
        "both": "maybe linked",
        "twice": "maybe linked",
    }
    place.run(GRAPH, strict=True)
    assert place.text(GRAPH, "both") == "ONE TWO"
    assert place.text(GRAPH, "twice") == "ONE TWO ONE TWO"
    assert set(place.states(GRAPH, strict=True).values()) == {"cached"}
    aside = sorted(path.name for path in (place.root / "damaged").iterdir())
    assert [name.split("-")[0] for name in aside] == ["JoinTexts"] * 2 + ["WriteText"] * 2


def test_strict_keeps_what_is_made_of_content_that_stayed_the_same(place, tmp_path):
    place.run(GRAPH)
    kept = Results(place.root).folder(build_steps(GRAPH)["twice"].unique_id).stat().st_ino
    as_changed(tmp_path / "a", "return text.strip()", "return str(text).strip()")
    place.run(GRAPH, strict=True)
    folder = Results(place.root).folder(build_steps(GRAPH)["twice"].unique_id)
    assert folder.stat().st_ino == kept and not (place.root / "damaged").exists()
    assert set(place.states(GRAPH, strict=True).values()) == {"cached"}


def test_strict_links_to_nothing_that_other_code_made(place, tmp_path):
    place.run({"one": write("a"), "both": join("one")})
    as_changed(tmp_path / "a", "between.join(texts)", "(between * 1).join(texts)")
    graph = {"one": write("a", mark=1), "both": join("one")}
    place.run({"one": graph["one"]})
    assert place.states(graph)["both"] == "linked"
    assert place.states(graph, strict=True)["both"] == "will run"
    place.run(graph, strict=True)
    assert place.states(graph, strict=True)["both"] == "cached"


def test_a_series_that_other_code_began_is_not_continued_where_that_counts(place, tmp_path):
    graph = {"one": {"type": "test_series", "text": "x"}}
    place.run(graph, strict=True)
    as_changed(tmp_path / "a", "return text.strip()", "return str(text).strip()")
    assert place.states(graph, strict=True) == {"one": "will run"}
    place.run(graph, strict=True)
    assert place.text(graph, "one") == "0" and len(list((place.root / "series").iterdir())) == 2


def test_a_linked_result_is_of_the_code_that_made_it(place, tmp_path):
    place.run({"one": write("a"), "both": join("one")})
    graph = {"one": write("a", mark=1), "both": join("one")}
    place.run(graph)
    as_changed(tmp_path / "a", "between.join(texts)", "(between * 1).join(texts)")
    assert place.states(graph)["both"] == "code changed"


@pytest.mark.parametrize("strict", [True, False])
def test_workers_are_as_strict_as_who_starts_them(tmp_path, strict):
    form = ResultWorkspace(str(tmp_path), strict=strict).as_config()
    made = Workspace.from_params(form)
    assert isinstance(made, ResultWorkspace) and made.results.strict is strict


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_a_run_computes_exactly_what_its_plan_says(tmp_path_factory, data):
    place = Place(tmp_path_factory.mktemp("workspace"))
    for _ in range(3):
        graph = data.draw(graphs())
        before = place.plan(graph)
        sure = {each.name for each in before if each.state in ("will run", "waits", "linked")}
        possible = sure | {each.name for each in before if each.state == "maybe linked"}
        made = place.run(graph)
        # two steps of one key are made once
        ids = {each.name: each.id for each in before}
        assert {ids[n] for n in sure} <= {ids[n] for n in made} <= {ids[n] for n in possible}
        assert set(place.states(graph).values()) == {"cached"}


@st.composite
def graphs(draw):
    texts = st.sampled_from(["a", "b", " a"])
    made = {name: write(draw(texts)) for name in ("one", "two")}
    made["both"] = join("one", draw(st.sampled_from(["one", "two"])))
    made["last"] = join("both", "two", between=draw(st.sampled_from(["-", "+"])))
    return made


def test_a_step_that_is_not_ours_is_always_to_run(place):
    class Foreign(Step):
        CACHEABLE = False

        def run(self, number: int) -> int:
            return number

    Step.register("test_foreign", exist_ok=True)(Foreign)
    (planned,) = place.plan({"one": {"type": "test_foreign", "number": 1}})
    assert planned.state == "uncacheable" and planned.runs


def test_a_part_of_a_graph_is_planned_in_any_order(place):
    built = build_steps(GRAPH)
    planned = plan_steps(reversed(built.values()), Results(place.root))
    assert [each.name for each in planned][-1] == "twice"
    assert [each.state for each in planned] == ["will run", "will run", "waits", "waits"]


@pytest.mark.parametrize(
    ("path", "kind", "shown"),
    [
        ("args.train.lr", "parameter", "train.lr"),
        ("args.source.fingerprint", "outside data", "source"),
        ("version", "version", "version"),
        ("args.taggers[0].version", "version", "taggers[0]"),
    ],
)
def test_a_reason_is_named_for_what_it_is(path, kind, shown):
    reason = reason_of(Change(path, 1, 2), {})
    assert (reason.kind, reason.path) == (kind, shown)


def test_long_values_are_cut_to_where_they_differ():
    old, new = "a" * 300 + "b" + "c" * 300, "a" * 300 + "d" + "c" * 300
    told = str(Reason("parameter", "x", old, new))
    assert len(told) < 150 and "ab" in told and "ad" in told


def test_pictures_name_every_step_and_edge(place):
    planned = place.plan({'a "b" <c>': write("x"), "d": join('a "b" <c>')})
    dot, mermaid = "\n".join(as_dot(planned)), "\n".join(as_mermaid(planned))
    assert '"a \\"b\\" <c>" -> "d";' in dot and dot.count("{") == dot.count("}") == 1
    assert "s0 --> s1" in mermaid and "&quot;b&quot; &lt;c>" in mermaid
    form = json.loads(as_json(planned))
    assert [each["reads"] for each in form["steps"]] == [[], ['a "b" <c>']]


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """An experiment file of the graph, in a folder without a tango.yml."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.jsonnet"
    path.write_text(json.dumps({"steps": GRAPH}))
    return path


def test_the_exit_status_says_whether_anything_would_run(experiment, tmp_path, capsys):
    assert main(["plan", str(experiment)]) == 2
    Place(tmp_path / "workspace").run(GRAPH)
    assert main(["plan", str(experiment)]) == 0
    assert "4 steps: 4 cached" in capsys.readouterr().out
    assert main(["plan", str(experiment), "-w", str(tmp_path / "other")]) == 2
    assert main(["plan", str(experiment), "-o", '{"steps.one.text": "x"}', "-s", "two"]) == 0
    assert main(["plan", str(experiment), "-o", '{"steps.one.txt": "x"}']) == 1
    assert main(["plan", str(experiment), "-s", "tow"]) == 1
    assert "did you mean 'two'" in capsys.readouterr().err


def test_a_plan_for_machines_has_reasons_and_states(experiment, capsys):
    assert main(["plan", str(experiment), "--json"]) == 2
    form = json.loads(capsys.readouterr().out)
    assert {each["state"] for each in form["steps"]} <= {*RUNS, "cached"}
    assert form["steps"][0]["reasons"] == [{"kind": "new", "path": "", "old": None, "new": None}]


def test_a_strict_workspace_is_asked_for_in_tango_yml_or_by_the_environment(
    experiment, tmp_path, monkeypatch, capsys
):
    Place(tmp_path / "workspace").run(GRAPH)
    as_changed(tmp_path / "a", "return text.strip()", "return text.strip().upper()")
    assert main(["plan", str(experiment)]) == 0
    assert main(["plan", str(experiment), "--strict"]) == 2
    monkeypatch.setenv("OLMO_STRICT", "1")
    assert main(["plan", str(experiment)]) == 2
    monkeypatch.delenv("OLMO_STRICT")
    (tmp_path / "tango.yml").write_text("workspace: {type: local, dir: workspace, strict: true}")
    assert main(["plan", str(experiment)]) == 2
