"""The tiny graph, OLMo 1B and OLMo 7B: one graph, the published values, and what they need."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import steps  # noqa: F401  registers every step
from pipeline.model.config import OLMO_1B, OLMO_7B
from pipeline.model.olmo import Olmo
from pipeline.store.results import Results
from pipeline.train.spikes import SpikeRule
from steps.cli.__main__ import main
from steps.cli.experiment import read_experiment
from steps.execution import needs
from steps.execution.needs import lacking, num_bytes
from steps.graph.wiring import WiringError, build_steps
from steps.plan.drawing import as_text
from steps.plan.planning import plan_steps
from tests.fixtures.pasted import pasted

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
SIZES = ("tiny", "olmo1b", "olmo7b")
SRUN = {
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "1024",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_ID": "1",
    "SLURM_NODELIST": "gpu[001-128]",
}


def built(name):
    return build_steps(read_experiment(str(EXPERIMENTS / f"{name}.jsonnet"))["steps"])


@pytest.fixture(scope="module")
def graphs():
    return {name: built(name) for name in SIZES}


def folded(graph):
    """Edges between roles: the steps of each source stand for one, and so does any tokenizer."""
    sources = [name for name in graph if f"{name}_heldout" in graph or f"{name}_tokens" in graph]
    sources = [s for s in sources if s not in ("instructions", "preferences")]
    prefix = re.compile("(" + "|".join(sorted(sources, key=len, reverse=True)) + ")(?=_|$)")
    roles = {name: prefix.sub("source", name, count=1) for name in graph}
    kinds = {roles[name]: type(step).__name__ for name, step in graph.items()}
    kinds["tokenizer"] = "tokenizer"
    edges = {
        (roles[read.name], roles[name])
        for name, step in graph.items()
        for read in step.dependencies
        if name != "tokenizer"  # a published one is made of nothing of ours
    }
    return kinds, edges


@pytest.mark.parametrize("name", SIZES[1:])
def test_every_size_has_the_steps_and_edges_of_the_tiny_graph(graphs, name):
    assert folded(graphs[name]) == folded(graphs["tiny"])


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [("olmo7b", OLMO_7B, 6_888_095_744), ("olmo1b", OLMO_1B, 1_176_764_416)],
)
def test_a_published_model_has_the_published_number_of_parameters(graphs, name, shape, count):
    config = graphs[name]["base"].kwargs["model"]
    assert config == shape
    assert config.num_parameters() == count
    with torch.device("meta"):
        model = Olmo(config)
    assert sum(each.numel() for each in model.parameters()) == count


def test_the_published_schedules_begin_as_published(graphs):
    rates = {n: graphs[n]["base"].kwargs["train"].schedule(1) for n in SIZES[1:]}
    assert rates["olmo7b"] == pytest.approx(3.0054e-5)
    assert rates["olmo1b"] == pytest.approx(4.018e-5)
    train = graphs["olmo7b"]["base"].kwargs["train"]
    tokens = train.schedule.total_steps * train.batch_size * 2048
    assert 2e12 <= tokens < 2e12 + 2048 * 2048
    assert [train.norm_limit(n) for n in (1, 1000, 1001)] == [10, 10, 1]


def test_what_a_machine_lacks_is_told_by_kind(graphs, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(needs, "num_gpus", lambda: 1)
    monkeypatch.setattr(needs, "memory_bytes", lambda: 8e9)
    lines = lacking(graphs["olmo7b"].values(), tmp_path / "not" / "there")
    assert [line.split(":")[0] for line in lines] == ["GPUs", "memory", "disk", "credentials"]
    assert "8 for base" in lines[0]
    assert "HF_TOKEN must be set for paloma_" in lines[3]
    assert lacking(graphs["tiny"].values(), tmp_path) == []
    monkeypatch.setenv("HF_TOKEN", "x")
    assert len(lacking(graphs["olmo7b"].values(), tmp_path)) == 3


def test_a_slurm_launch_outside_of_srun_is_told_with_what_is_missing(graphs, tmp_path, monkeypatch):
    for name in SRUN:
        monkeypatch.delenv(name, raising=False)
    (line,) = lacking([graphs["olmo7b"]["base"]], tmp_path)[-1:]
    assert line == (
        "launch of base: launch is slurm, but SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, "
        "SLURM_JOB_ID, SLURM_NODELIST is not set; start the run with srun"
    )
    for name, value in (SRUN | {"SLURM_NTASKS": "8"}).items():
        monkeypatch.setenv(name, value)
    (line,) = lacking([graphs["olmo7b"]["base"]], tmp_path)[-1:]
    assert line.endswith("SLURM_NTASKS is 8; it must be nodes times ranks, 1024")
    assert not any("launch" in each for each in lacking(graphs["tiny"].values(), tmp_path))


def test_a_plan_says_which_training_srun_must_start(graphs, tmp_path, monkeypatch):
    for name in SRUN:
        monkeypatch.delenv(name, raising=False)
    planned = plan_steps(graphs["olmo7b"].values(), Results(tmp_path))
    (base,) = (each for each in planned if each.name == "base")
    assert "1,024 tasks of srun" in "\n".join(as_text([base]))


def test_the_readme_shows_how_a_machine_that_is_too_small_refuses(tmp_path, monkeypatch, capsys):
    readme = EXPERIMENTS.parent / "README.md"
    found = {" ".join(words): shown for words, shown in pasted(readme.read_text("utf-8"))}
    command = "olmo run experiments/olmo7b.jsonnet"
    monkeypatch.chdir(EXPERIMENTS.parent)
    for name in ("HF_TOKEN", *SRUN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(needs, "num_gpus", lambda: 0)
    monkeypatch.setattr(needs, "memory_bytes", lambda: 25.3e9)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda path: SimpleNamespace(free=65.9e9))
    assert main([*command.split()[1:], "-w", str(tmp_path / "workspace")]) == 1
    assert capsys.readouterr().err.replace(str(tmp_path), "…") == found[command]
    assert not (tmp_path / "workspace").exists()


def test_a_graph_that_asks_for_no_gpu_counts_none(graphs, tmp_path, monkeypatch):
    def refuse():
        raise AssertionError("torch was imported to count GPUs that nobody asked for")

    monkeypatch.setattr(needs, "num_gpus", refuse)
    assert lacking(graphs["tiny"].values(), tmp_path) == []


def test_what_a_step_needs_is_in_no_key_and_is_checked(graphs):
    plain = {"type": "ingest", "source": {"type": "python_install", "part": "code", "source": "c"}}
    asking = {**plain, "needs": {"disk": "1TB"}, "step_resources": {"memory": "2GiB"}}
    made = build_steps({"a": plain, "b": asking})
    assert made["a"].unique_id == made["b"].unique_id
    for fault, message in (
        ({"needs": {"disc": "1TB"}}, r"steps\.a\.needs\.disc.*'disk'"),
        ({"needs": {"disk": "many"}}, r"steps\.a\.needs: 'many' is no size"),
        ({"step_resources": {"gpus": 1}}, r"steps\.a\.step_resources\.gpus is no resource"),
        ({"step_resources": {"memory": "x"}}, r"steps\.a\.step_resources\.memory: 'x' is no"),
    ):
        with pytest.raises(WiringError, match=message):
            build_steps({"a": {**plain, **fault}})


def upkept(upkeep, path):
    """Tiny with an `upkeep`, trained with two seeds."""
    path.write_text(
        f"local p = import '{EXPERIMENTS}/lib/pipeline.libsonnet';\n"
        f"local tiny = import '{EXPERIMENTS}/lib/tiny.libsonnet';\n"
        f"{{ steps: p.graph(tiny {{ {upkeep} }}, seeds=[1, 2]) }}\n"
    )
    return build_steps(read_experiment(str(path))["steps"])


def test_a_size_says_how_its_trainings_are_kept_and_no_id_moves(tmp_path):
    said = "upkeep: { retention: null, stop_on: { spike_factor: 3, window: 50 } }"
    without, kept = upkept("", tmp_path / "a.jsonnet"), upkept(said, tmp_path / "b.jsonnet")
    assert {name: step.unique_id for name, step in without.items()} == {
        name: step.unique_id for name, step in kept.items()
    }
    assert {name for name, step in kept.items() if "stop_on" in step.kwargs} == {
        stage + end for stage in ("base", "sft", "dpo") for end in ("", "_seed_2")
    }
    for name in ("base", "sft", "dpo", "base_seed_2", "sft_seed_2", "dpo_seed_2"):
        given = [(s[name].kwargs["retention"], s[name].kwargs["stop_on"]) for s in (without, kept)]
        assert given == [(2, None), (None, SpikeRule(3, 50))]


def test_a_misspelled_upkeep_is_told_with_its_step(tmp_path):
    with pytest.raises(WiringError, match=r"steps\.base\.retentoin.*'retention'"):
        upkept("upkeep: { retentoin: 3 }", tmp_path / "x.jsonnet")


def test_sizes_are_read_with_their_units():
    assert [num_bytes(text) for text in ("0", "1k", "2.5GiB", "80GB", "1024m")] == [
        0,
        1e3,
        2.5 * 2**30,
        8e10,
        1024e6,
    ]


def test_building_a_graph_fetches_nothing(monkeypatch):
    import socket

    def refuse(*_, **__):
        raise AssertionError("a graph was built with a network")

    monkeypatch.setattr(socket, "socket", refuse)
    assert built("olmo7b")["base"].unique_id.startswith("Pretrain-")


def test_an_optional_package_that_is_not_there_is_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    (tmp_path / "in.jsonl").write_text('{"id": "a", "text": "b"}\n')
    source = {"type": "jsonl", "path": str(tmp_path / "in.jsonl"), "source": "s"}
    documents = {"type": "ref", "ref": "corpus"}
    tag = {"type": "tag", "documents": documents, "taggers": ["lengths"], "engine": "ray"}
    graph = build_steps({"corpus": {"type": "ingest", "source": source}, "quality": tag})
    (line,) = lacking(graph.values(), tmp_path)
    assert line == "packages: ray for quality; pip install -e '.[ray]'"


def test_a_monitor_whose_package_is_not_there_is_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    graph = read_experiment(str(EXPERIMENTS / "tiny.jsonnet"))["steps"]
    graph["base"]["monitors"] = [{"type": "tensorboard"}, {"type": "wandb", "project": "olmo"}]
    lines = lacking(build_steps(graph).values(), tmp_path)
    assert lines == [
        "packages: tensorboard for base; pip install -e '.[tensorboard]'",
        "packages: wandb for base; pip install -e '.[wandb]'",
    ]
    assert lacking(build_steps(graph).values(), tmp_path, elsewhere=True) == []
