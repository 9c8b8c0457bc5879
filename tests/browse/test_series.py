"""`olmo show` of a training that has no result."""

import json
import shutil

import pytest

from pipeline.core.errors import DivergedTraining
from pipeline.store.history import SEGMENTS
from steps.cli.__main__ import main
from tests.steps.conftest import Bench
from tests.steps.test_reading import pretrain, run_graph


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    """A workspace in which a training diverged at its third update, and the id of its step."""
    bench = Bench(tmp_path_factory.mktemp("diverged"))
    base = pretrain(9)
    stop = {"spike_factor": 1.0001, "window": 1}
    base["train"]["schedule"] = base["train"]["schedule"] | {"peak_lr": 1e3}
    base["train"]["save_steps"] = 1
    with pytest.raises(DivergedTraining):
        run_graph(bench, base=base | {"stop_on": stop})
    return bench.results.root


def show(workspace, capsys, *more):
    status = main(["show", "base", "-w", str(workspace), *more])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_training_that_diverged_is_shown_with_its_segments_and_documents(diverged, capsys):
    status, out, _ = show(diverged, capsys, "--json")
    shown = json.loads(out)
    assert status == 0 and shown["finished"] == "no; the same command goes on with it"
    (segment,) = shown["segments"]
    (update,) = shown["diverged"]
    assert (segment["cause"], segment["after step"]) == ("diverged", 0)
    assert "the loss is" in segment["reason"] and "s/d" in segment["documents"]
    assert segment["to step"] == shown["last step"] == update["step"] - 1
    assert [row["step"] for row in shown["checkpoints"]] == list(range(update["step"]))
    assert len(shown["loss"]) == shown["last step"]
    status, out, _ = show(diverged, capsys)
    assert status == 0 and "diverged" in out


def test_a_segment_without_an_end_was_killed_where_nobody_trains(diverged, tmp_path, capsys):
    shutil.copytree(diverged, tmp_path / "w", symlinks=True)
    (path,) = (tmp_path / "w" / "series").glob(f"*/{SEGMENTS}")
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    segment = json.loads(show(tmp_path / "w", capsys, "--json")[1])["segments"][0]
    (whole,) = json.loads(show(diverged, capsys, "--json")[1])["segments"]
    assert segment["cause"] == "killed"
    assert segment["to step"] == whole["to step"] > 0
    assert segment["seconds"] == whole["seconds"] > 0


def test_a_step_that_trained_nothing_has_no_result_still(diverged, tmp_path, capsys):
    shutil.copytree(diverged, tmp_path / "w", symlinks=True)
    shutil.rmtree(tmp_path / "w" / "series")
    status, _, err = show(tmp_path / "w", capsys)
    assert status and "its step has not been finished" in err
