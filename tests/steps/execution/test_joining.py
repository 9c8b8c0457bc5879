"""Two processes and one run: one commits, the other adds ranks and commits nothing."""

import json
import os
import subprocess
import sys

import pytest

from pipeline.store.history import read_segments
from tests.steps.lab import ref
from tests.train.ranks.test_launching import free_port, task

MODEL = {"d_model": 32, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 64}
MODEL |= {"vocab_size": 280, "max_sequence_length": 16}
SCHEDULE = {"type": "linear", "peak_lr": 1e-3, "warmup_steps": 2, "total_steps": 4}


@pytest.fixture
def olmo(bench, tmp_path):
    """Start a command on the experiment with a launch; the data steps have run already."""

    def start(launch, command, **variables):
        base = {"type": "pretrain", "mix": ref("mix"), "model": MODEL, "launch": launch}
        base["train"] = {"batch_size": 4, "schedule": SCHEDULE, "save_steps": 2}
        path = tmp_path / "experiment.json"
        path.write_text(json.dumps({"steps": {**bench.config(), "base": base}}))
        arguments = [sys.executable, "-m", "steps.cli", command, str(path)]
        return subprocess.Popen(
            [*arguments, "-w", str(bench.root / "workspace")],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def end(*processes):
    """What they print, once all have ended well."""
    said = [each.communicate(timeout=500)[0] for each in processes]
    for process, words in zip(processes, said, strict=True):
        assert process.returncode == 0, words
    return said


def segments(bench):
    (path,) = (bench.root / "workspace" / "series").glob("*/segments.jsonl")
    return read_segments(path.parent)


def launches():
    place = {"rendezvous": f"localhost:{free_port()}", "nodes": 2}
    return {
        "torchrun": {"type": "torchrun", "threads": 1, **place},
        "slurm": {"type": "slurm", "ranks": 2, "threads": 1, "port": free_port()},
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torchrun", "slurm"])
def test_one_process_runs_the_graph_and_the_other_adds_ranks_to_its_training(kind, bench, olmo):
    launch = launches()[kind]
    if kind == "torchrun":
        agent = olmo(launch, "agent")  # it waits for the run
        end(olmo(launch, "run"), agent)
    else:
        both = [olmo(launch, "run", **task(rank)) for rank in (0, 1)]
        end(*both)
    made = segments(bench)
    assert [(each["num_updates"], each["cause"]) for each in made] == [(4, "finished")]
    assert {(each["launch"], each["world_size"]) for each in made} == {(kind, 2)}
    runs = bench.root / "workspace" / "runs"
    assert len([each for each in runs.iterdir() if each.is_dir()]) == 1  # the other has none
    words = end(olmo({"ranks": 1}, "run"))[0]  # another launch is the same result
    assert "base" not in words or "cached" in words or "found" in words
    assert len(segments(bench)) == 1


def test_a_graph_without_such_trainings_needs_no_agent(olmo):
    assert "no training of" in end(olmo({"ranks": 2}, "agent"))[0]
