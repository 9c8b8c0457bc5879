"""Seeds as an axis of the graph: branches that share what is above them."""

import re
from pathlib import Path

import pytest

import steps  # noqa: F401  registers every step
from pipeline.tokens.olmo_order import OlmoShuffle
from pipeline.tokens.order import FEISTEL
from steps.cli.experiment import read_experiment
from steps.graph.wiring import WiringError, build_steps

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
BRANCH = ("base", "sft", "reference", "dpo")
SCORES = ("language_scores", "answer_scores", "pair_scores", "choice_scores")


def built(folder, seeds, changes="{}"):
    text = f"""
    local p = import '{EXPERIMENTS}/lib/pipeline.libsonnet';
    local tiny = import '{EXPERIMENTS}/lib/tiny.libsonnet';
    {{ steps: p.graph(tiny, seeds={seeds}) + {changes} }}
    """
    (folder / "graph.jsonnet").write_text(text, encoding="utf-8")
    return build_steps(read_experiment(str(folder / "graph.jsonnet"))["steps"])


def ids(graph):
    return {name: step.unique_id for name, step in graph.items()}


def test_another_seed_adds_a_branch_and_moves_nothing_but_the_page(tmp_path):
    one, two = ids(built(tmp_path, [1])), ids(built(tmp_path, [1, 7]))
    added = {f"{name}_seed_7" for name in (*BRANCH, *SCORES)}
    assert two.keys() - one.keys() == added
    assert {name for name in one if one[name] != two[name]} == {"report"}
    assert len(set(two.values())) == len(two)


def test_every_training_of_a_branch_has_its_seed_and_reads_its_own_branch(tmp_path):
    graph = built(tmp_path, [1, 7])
    for end, seed in (("", 1), ("_seed_7", 7)):
        assert [graph[f"{name}{end}"].kwargs["train"].seed for name in ("base", "sft", "dpo")] == [
            seed
        ] * 3
        read = {each.name for name in BRANCH for each in graph[name + end].dependencies}
        assert read == {"mix", "examples", "pairs", f"base{end}", f"sft{end}", f"reference{end}"}
        for name in SCORES:
            models = graph[name + end].kwargs["models"]
            assert {key: model.name for key, model in models.items()} == {
                key: key + end for key in models
            }
    assert graph["order"].kwargs["seed"] == 1
    assert graph["model"].kwargs["checkpoints"] is graph["dpo"]


def test_the_page_reads_the_scores_of_every_seed(tmp_path):
    report = built(tmp_path, [1, 7, 8])["report"]
    read = {
        name: {seed: each.name for seed, each in more.items()}
        for name, more in report.kwargs["seeds"].items()
    }
    assert read["held-out text"] == {"7": "language_scores_seed_7", "8": "language_scores_seed_8"}
    assert read.keys() == report.kwargs["scores"].keys()


def test_without_seeds_each_training_has_that_of_its_size(tmp_path):
    graph = built(tmp_path, "[null]")
    assert [graph[name].kwargs["train"].seed for name in ("base", "sft", "dpo")] == [6198, 1, 1]
    assert graph["report"].kwargs["seeds"] == {}


@pytest.mark.parametrize("seeds", [[], [3, 3]])
def test_seeds_that_are_no_axis_are_refused(tmp_path, seeds):
    with pytest.raises(Exception, match="it must be a list of one or more that differ"):
        built(tmp_path, seeds)


def test_a_seed_that_jsonnet_rounds_is_refused(tmp_path):
    built(tmp_path, [2**53 - 1])
    with pytest.raises(
        WiringError, match=r"base.train.seed is .*; it must be from 0 to 2\*\*53 - 1"
    ):
        built(tmp_path, [2**53 + 1])
    with pytest.raises(ValueError, match="seed is 9007199254740992"):
        OlmoShuffle(2**53)


@pytest.mark.parametrize("seeds", ["[null]", [3, 7]])
def test_what_is_changed_of_the_pretraining_the_order_shows(tmp_path, seeds):
    plain = built(tmp_path, seeds)
    assert plain["order"].kwargs["order"] == FEISTEL
    changed = "{ base+: { order: { type: 'olmo' }, train+: { seed: 9, batch_size: 16 } } }"
    graph = built(tmp_path, seeds, changed)
    seen, train = graph["order"].kwargs, graph["base"].kwargs["train"]
    assert (seen["seed"], seen["batch_size"]) == (train.seed, train.batch_size) == (9, 16)
    assert seen["order"] == graph["base"].kwargs["order"] == OlmoShuffle()


def test_the_experiment_that_our_readme_adds_shows_what_it_reads(tmp_path):
    page = (EXPERIMENTS.parent / "README.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```jsonnet\n(\(import 'tiny\.jsonnet'\).*?)```", page, re.DOTALL)
    path = tmp_path / "seed.jsonnet"
    path.write_text(example.replace("tiny.jsonnet", f"{EXPERIMENTS}/tiny.jsonnet"))
    graph = build_steps(read_experiment(str(path))["steps"])
    assert graph["base"].kwargs["train"].seed == graph["order"].kwargs["seed"] == 7


def test_the_experiment_on_seeds_is_the_tiny_run_with_more_branches():
    graph = build_steps(read_experiment(str(EXPERIMENTS / "ablations" / "seeds.jsonnet"))["steps"])
    tiny = build_steps(read_experiment(str(EXPERIMENTS / "tiny-offline.jsonnet"))["steps"])
    assert tiny.keys() <= graph.keys()
    assert graph["base"].unique_id == tiny["base"].unique_id
