import pytest

import steps  # noqa: F401  registers every step
from pipeline.data.sources.cut import Cut
from pipeline.eval.benchmarks import OlmoEvalWheel
from pipeline.model.config import OlmoConfig
from pipeline.tokens.order import FEISTEL
from pipeline.train.config import TrainConfig
from steps.graph.rehearsal import Size, components, in_words, outside, rehearsed
from steps.graph.wiring import WiringError, build_steps
from tests.steps.fakes import written
from tests.steps.lab import ref

SIZES = ("tiny", "olmo1b", "olmo7b")
SIZE = Size()


def edges(graph):
    return {(read.name, name) for name, step in graph.items() for read in step.dependencies}


@pytest.mark.parametrize("name", SIZES)
def test_every_step_and_edge_stays(name):
    config = written(name)
    before, after = build_steps(config), build_steps(rehearsed(config, SIZE)[0])
    assert {n: type(step) for n, step in before.items()} == {
        n: type(step) for n, step in after.items()
    }
    assert edges(before) == edges(after)


@pytest.mark.parametrize("name", SIZES)
def test_everything_is_small_and_asks_for_no_machine(name):
    graph = build_steps(rehearsed(written(name), SIZE)[0])
    for step in graph.values():
        assert step.resources.gpu_count in (None, 0) and step.needs.disk == "0"
        for each in step.kwargs.values():
            if isinstance(each, OlmoConfig):
                assert (each.n_layers, each.d_model) == (2, 32)
                assert each.vocab_size == graph["base"].kwargs["model"].vocab_size
            if isinstance(each, TrainConfig):
                assert each.last_step <= 4 and each.batch_size <= 4
        source = step.kwargs.get("source")
        assert source is None or isinstance(source, (Cut, OlmoEvalWheel))
        assert step.kwargs.get("limit", 0) <= SIZE.num_items
    assert graph["mix"].kwargs["sequence_length"] == 256
    assert graph["base"].kwargs["model"].max_sequence_length == 256
    assert graph["language_scores"].kwargs["steps"] == "all"


def test_ranks_that_share_a_model_still_do_and_a_compiler_is_not_needed():
    launch = build_steps(rehearsed(written("olmo7b"), SIZE)[0])["base"].kwargs["launch"]
    assert (launch.ranks, launch.microbatch, launch.compile) == (2, 1, False)


def test_saved_steps_are_named_by_those_that_are_saved_in_small():
    config = written("tiny")
    config["language_scores"]["steps"] = [0, 100, 300]
    config["choice_scores"]["steps"] = [0]
    small, changed = rehearsed(config, SIZE)
    assert small["language_scores"]["steps"] == [0, 2, 4]
    assert small["choice_scores"]["steps"] == [0]
    assert ("steps.language_scores.steps", [0, 100, 300], [0, 2, 4]) in changed


def test_an_engine_of_other_machines_becomes_workers_here():
    config = written("tiny")
    config["code"]["engine"] = {"type": "ray", "address": "auto"}
    config["code_quality"]["engine"] = {"type": "local", "workers": 64}
    config["code_kept"]["engine"] = "local"
    small, _ = rehearsed(config, SIZE)
    assert small["code"]["engine"] == small["code_quality"]["engine"]
    assert small["code"]["engine"] == {"type": "local", "workers": 2}
    assert build_steps(small)["code_kept"].kwargs["engine"].workers == 1


def test_an_index_file_of_the_whole_data_orders_no_small_mix(tmp_path):
    (tmp_path / "i").write_bytes(bytes(4))
    config = written("tiny") | {"indices": {"type": "import_order", "path": str(tmp_path / "i")}}
    config["base"]["order"] = ref("indices")
    small, changed = rehearsed(config, SIZE)
    assert ("steps.base.order", ref("indices"), "feistel") in changed
    assert build_steps(small)["base"].kwargs["order"] == FEISTEL


def test_what_was_cut_is_told_by_name():
    said = in_words(rehearsed(written("olmo7b"), SIZE)[1])
    assert "n_layers 32 -> 2; n_heads 32 -> 2" in said
    assert "total_steps 476838, 5652, 7567 -> 4" in said
    assert "sequence_length 2048 -> 256" in said


def test_a_fault_of_the_experiment_is_told_as_ever():
    config = written("tiny")
    config["base"]["train"]["batch_size"] = "many"
    with pytest.raises(WiringError, match=r"steps\.base\.train\.batch_size is 'many'"):
        rehearsed(config, SIZE)


def test_every_source_of_the_published_sizes_is_found():
    found = {each.step for each in outside(written("olmo7b"))}
    assert len(found) == 23
    assert {"benchmarks", "tokenizer", "common_crawl", "paloma_c4", "preferences"} <= found
    assert len(components(written("tiny"))) > 30


def test_whatever_starts_the_ranks_in_earnest_they_are_rehearsed_on_this_machine():
    many = {"type": "torchrun", "nodes": "2:4", "ranks": 8, "rendezvous": "node1:29400"}
    many |= {"shard_within": 8, "threads": 1}
    whole = written("olmo7b")
    whole["base"] = {**whole["base"], "launch": many}
    small, changed = rehearsed(whole, SIZE)
    launch = {"ranks": 2, "threads": 1, "shard_within": 1}
    assert small["base"]["launch"] == launch
    assert ("steps.base.launch.type", "torchrun", "local") in changed
