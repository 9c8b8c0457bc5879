import errno
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from pipeline.core.artifacts import Artifact
from pipeline.core.errors import DivergedTraining, MismatchedInputs, PipelineError
from pipeline.model.weights import read_weights
from pipeline.store.history import HISTORY, history_rows, read_segments, sealed_line
from pipeline.train import loop
from pipeline.train.config import Launch, Linear
from pipeline.train.ranks.launching import run_ranks
from pipeline.train.series import checkpoint, history, saved
from tests.train.conftest import ONE, SHAPE, config


def losses(checkpoints):
    return pq.read_table(checkpoints.root / "history.parquet")["loss"].to_pylist()


def weights(checkpoints):
    return [each.weights for each in checkpoints.steps]


def test_a_run_keeps_its_checkpoints_and_learns(run):
    made = run(config(60, save_steps=20))
    assert [each.step for each in made.steps] == [0, 20, 40, 60]
    assert [each.num_tokens_read for each in made.steps] == [0, 20 * 64, 40 * 64, 60 * 64]
    assert [each.num_tokens_learned for each in made.steps] == [0, 20 * 60, 40 * 60, 60 * 60]
    curve = losses(made)
    # start values give logits a spread of one: half a nat above guessing
    assert curve[0] == pytest.approx(math.log(SHAPE.vocab_size) + 0.5, rel=0.03)
    assert sum(curve[-5:]) / 5 < curve[0] - 1
    made.verify()
    assert Artifact.load(made.root) == made


def test_one_batch_can_be_learned_by_heart(run):
    flat = Linear(peak_lr=1e-2, warmup_steps=0, total_steps=150, final_fraction=1.0)
    made = run(config(schedule=flat, batch_size=62, save_steps=150))  # the batch is every instance
    assert losses(made)[-1] < 0.5


def test_a_resumed_run_ends_with_the_bits_of_an_undisturbed_one(run):
    whole = run(config(8, save_steps=3), series="a" * 64, name="whole")
    for stop in (3, 6):
        run(config(8, save_steps=3, stop_at=stop), series="b" * 64, name=f"to-{stop}")
    resumed = run(config(8, save_steps=3), series="b" * 64, name="resumed")
    assert weights(resumed) == weights(whole)
    assert losses(resumed) == losses(whole)
    assert resumed.content == whole.content  # where the series stands is not what it is


def test_a_shorter_view_of_a_series_trains_nothing(run, monkeypatch):
    whole = run(config(6), name="whole")
    monkeypatch.setattr("pipeline.train.loop.run_ranks", lambda *_: pytest.fail("trained again"))
    part = run(config(6, stop_at=3), name="part")
    assert weights(part) == weights(whole)[:2]
    assert losses(part) == losses(whole)[:3]


def test_a_stop_after_the_last_state_that_stands_is_trained_to_though_a_lost_run_came_further(run):
    whole = run(config(9, save_steps=3), series="a" * 64, name="whole")
    run(config(9, save_steps=3), series="b" * 64, name="lost")
    for step in (6, 9):  # as after a kill, or a loss that diverged: rows stand, and no state
        shutil.rmtree(whole.series_root.parent / ("b" * 64) / f"step{step:06}")
    part = run(config(9, save_steps=3, stop_at=5), series="b" * 64, name="part")
    assert losses(part) == losses(whole)[:5]
    on = run(config(9, save_steps=3), series="b" * 64, name="on")
    assert weights(on) == weights(whole) and losses(on) == losses(whole)


@pytest.mark.parametrize("microbatch", [1, 2, 3])  # of four rows: 4, 2 and 2 uneven parts
def test_accumulation_changes_the_loss_by_rounding_only(run, microbatch):
    launch = Launch(threads=1, microbatch=microbatch)
    plain, cut = run(config(), series="a" * 64), run(config(), launch, series="b" * 64, name="cut")
    assert losses(cut) == pytest.approx(losses(plain), rel=2e-5)


def test_recomputed_activations_change_no_loss(run):
    again = Launch(threads=1, activation_checkpointing=True)
    plain, cut = run(config(), series="a" * 64), run(config(), again, series="b" * 64, name="cut")
    assert losses(cut) == pytest.approx(losses(plain), rel=1e-6)


@pytest.mark.parametrize("tied", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_ranks_have_the_loss_of_one_and_go_on_from_each_other(run, tied):
    both = Launch(ranks=2, threads=1)
    one = run(config(), series="a" * 64, tie_embeddings=tied)
    two = run(config(stop_at=3), both, series="b" * 64, name="two", tie_embeddings=tied)
    assert losses(two) == pytest.approx(losses(one)[:3], rel=1e-5)
    on = run(config(), series="b" * 64, name="on", tie_embeddings=tied)  # on one rank
    assert losses(on) == pytest.approx(losses(one), rel=1e-4)


def test_a_batch_that_ranks_cannot_share_is_refused(run):
    with pytest.raises(ValueError, match="batch_size is 4; it must be a multiple of ranks, 3"):
        run(config(), Launch(ranks=3))


def test_bf16_stays_close_to_fp32_and_keeps_float32_weights(run, real_bf16):
    plain = run(config(), series="a" * 64)
    half = run(config(precision="bf16"), series="b" * 64, name="half")
    assert losses(half) == pytest.approx(losses(plain), abs=0.02)
    assert losses(half) != pytest.approx(losses(plain), abs=1e-4)
    stored = load_file(half.folder(half.latest) / "model.safetensors")
    assert {each.dtype for each in stored.values()} == {torch.float32}


@pytest.mark.slow
def test_two_ranks_of_bf16_compiled_in_passes_recomputed_have_the_loss_of_one(run, real_bf16):
    half = config(precision="bf16")
    one = run(half, series="a" * 64)
    ways = {"microbatch": 1, "activation_checkpointing": True, "compile": True}
    two = run(half, Launch(ranks=2, threads=1, **ways), series="b" * 64, name="two")
    assert losses(two) == pytest.approx(losses(one), abs=5e-3)
    stored = read_weights(two.folder(two.latest))
    assert {each.dtype for each in stored.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those that torch.compile meets in torch
def test_compiled_layers_have_the_loss_of_plain_ones_recomputed_or_not(run):
    plain = losses(run(config(), series="a" * 64))
    for again, series in ((False, "b"), (True, "c")):
        launch = Launch(threads=1, compile=True, activation_checkpointing=again)
        counters.clear()
        compiled = run(config(), launch, series=series * 64, name=series)
        assert losses(compiled) == pytest.approx(plain, rel=1e-5)
        assert counters["stats"]["unique_graphs"] == 2  # a layer, and a chunk of the loss


def flip(checkpoints, place, name="model.safetensors"):
    """Change the last byte of a file of a checkpoint."""
    path = checkpoints.folder(checkpoints.steps[place]) / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return path


def aside(checkpoints):
    return sorted(each.name for each in checkpoints.series_root.glob(".damaged-*"))


def test_a_damaged_checkpoint_is_set_aside_and_made_again(run):
    whole = run(config(), name="whole")
    flip(whole, 1)
    assert saved.find_checkpoints(whole.series_root, thorough=False) == [0, 3, 6]
    again = run(config(), name="again")  # nothing is missing, so all are digested
    assert aside(whole) == [".damaged-step000003"]
    assert weights(again) == weights(whole)
    assert saved.find_checkpoints(whole.series_root) == [0, 3, 6]


def test_a_run_that_goes_on_digests_what_it_goes_on_from(run):
    begun = run(config(9, save_steps=3, stop_at=6), name="begun")
    flip(begun, 1)  # not what it goes on from: found where it is read
    flip(begun, 2, "optimizer.safetensors")
    whole = run(config(9, save_steps=3), series="b" * 64, name="whole")
    made = run(config(9, save_steps=3), name="made")
    assert aside(begun) == [".damaged-step000003"]  # of step 6 the weights stay
    assert weights(made) == weights(whole)


def test_what_a_run_does_not_go_on_from_is_only_looked_at(run):
    begun = run(config(9, save_steps=3, stop_at=6), name="begun")
    flip(begun, 1)
    run(config(9, save_steps=3), name="made")
    assert aside(begun) == []
    run(config(9, save_steps=3), name="again")  # as after it was found damaged
    assert aside(begun) == [".damaged-step000003"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_checkpoint_that_was_cut_off_is_made_again(run, name):
    begun = run(config(9, save_steps=3, stop_at=6), name="begun")
    path = begun.folder(begun.steps[1]) / name
    path.write_bytes(path.read_bytes()[:-1])
    made = run(config(9, save_steps=3), name="made")
    assert aside(begun) == [".damaged-step000003"] * (not name.startswith("optimizer"))
    assert weights(made)[:3] == weights(begun)


def test_a_diverged_run_names_its_step_and_keeps_what_was_before(run):
    wild = Linear(peak_lr=1e30, warmup_steps=0, total_steps=6, final_fraction=1.0)
    with pytest.raises(DivergedTraining, match="step 2"):
        run(config(schedule=wild, max_grad_norm=None, save_steps=1))
    assert saved.find_checkpoints(run(config(schedule=wild, stop_at=1)).series_root) == [0, 1]


@pytest.mark.slow
def test_the_error_of_a_rank_is_told_with_its_message(run):
    wild = Linear(peak_lr=1e30, warmup_steps=0, total_steps=6, final_fraction=1.0)
    both = Launch(ranks=2, threads=1, timeout_seconds=60)
    with pytest.raises(DivergedTraining, match="step 2"):
        run(config(schedule=wild, max_grad_norm=None), both)


def test_a_mix_that_the_model_cannot_read_is_refused(run):
    with pytest.raises(MismatchedInputs, match="50 rows of the vocabulary"):
        run(config(), vocab_size=50)


ROW = {
    "step": 1,
    "loss": 1.0,
    "lr": 0.1,
    "grad_norm": 1.0,
    "num_tokens_read": 1,
    "num_tokens_learned": 1,
}


def test_a_line_that_a_kill_cut_off_is_made_again(tmp_path):
    path = tmp_path / history.LINES
    path.write_text(sealed_line(ROW) + '{"step": 2, "lo')
    with history.added_rows(tmp_path) as file:
        file.write(sealed_line({**ROW, "step": 2}))
    shard = history.write_history(tmp_path, 2, tmp_path / "out")
    assert shard.num_records == 2


def flip_in(path, before, skipped=0):
    """Change a byte of a number that follows some text."""
    data = bytearray(path.read_bytes())
    data[data.index(b":", data.index(before) + skipped) + 2] ^= 1
    path.write_bytes(data)


def test_a_changed_byte_of_a_record_costs_only_the_steps_from_there(run, tmp_path):
    whole = run(config(12, save_steps=4), series="a" * 64, name="whole")
    series = tmp_path / "series" / ("a" * 64)
    first = (series / "step000004" / "model.safetensors").stat().st_ino
    flip_in(series / "step000008" / "state.json", b"num_tokens_read")
    again = run(config(12, save_steps=4), series="a" * 64, name="again")
    assert again.content == whole.content
    assert (series / "step000004" / "model.safetensors").stat().st_ino == first
    assert history_rows(series).keys() == set(range(1, 13))


@pytest.mark.parametrize("lost", ["a line", "the file"])
def test_a_damaged_history_costs_no_update_and_is_said(run, tmp_path, caplog, lost):
    run(config(12, save_steps=4, stop_at=8), series="a" * 64, name="begun")
    series = tmp_path / "series" / ("a" * 64)
    if lost == "a line":
        flip_in(series / HISTORY, b'{"step": 7', 10)
    else:
        (series / HISTORY).unlink()
    missing = {7} if lost == "a line" else set(range(1, 9))
    made = run(config(12, save_steps=4), series="a" * 64, name="whole")
    assert f"has no whole line of step {min(missing)}" in caplog.text
    assert [each["first_step"] for each in read_segments(series)] == [0, 8]
    rows = pq.read_table(made.root / "history.parquet").to_pylist()
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert {row["step"] for row in rows if row["loss"] is None} == missing
    other = run(config(12, save_steps=4), series="b" * 64, name="undisturbed")
    assert made.latest.weights == other.latest.weights
    assert made.latest.num_tokens_read == other.latest.num_tokens_read
    by_source = [history_rows(series.parent / (each * 64))[12]["tokens_by_source"] for each in "ab"]
    assert by_source[0] == by_source[1]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(mix, run, tmp_path):
    whole = run(config(40, save_steps=4), series="a" * 64, name="whole")
    script = textwrap.dedent(
        f"""
        from pathlib import Path
        from pipeline.core.artifacts import Artifact
        from pipeline.train.config import Conduct
        from pipeline.train.stages.pretrain import pretrain
        from tests.train.conftest import ONE, SHAPE, config
        root = Path({str(tmp_path)!r})
        pretrain(Artifact.load(Path({str(mix.root)!r})), SHAPE, config(40, save_steps=4),
                 conduct=Conduct(root / "series" / ("b" * 64), root / "cache" / "killed", ONE))
        """
    )
    series = tmp_path / "series" / ("b" * 64)
    for wanted in (4, 12, 24):
        child = subprocess.Popen([sys.executable, "-c", script])
        while not (series / f"step{wanted:06d}").exists() and child.poll() is None:
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL) if child.poll() is None else None
        child.wait()
    resumed = run(config(40, save_steps=4), series="b" * 64, name="resumed", launch=ONE)
    assert resumed.content == whole.content


def without_a_place_for_the_third(work, ranks):
    """The first rank cannot make the folder that all are about to write to."""
    clear = checkpoint.clear_temporary

    def fail(folder):
        if folder.name == "step000003":
            raise FileExistsError(errno.EEXIST, "File exists", str(folder))
        clear(folder)

    checkpoint.clear_temporary = fail
    work(ranks)


def test_a_rank_that_fails_ends_the_run_and_the_others_do_not_hang(run, monkeypatch):
    def run_them(work, *rest):
        run_ranks(partial(without_a_place_for_the_third, work), *rest)

    monkeypatch.setattr(loop, "run_ranks", run_them)
    started = time.time()
    with pytest.raises(PipelineError, match=r"rank 0: FileExistsError.*step000003"):
        run(config(), Launch(ranks=2, threads=1, timeout_seconds=30))
    assert time.time() - started < 60
