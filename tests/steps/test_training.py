"""Training steps: which of their arguments are in the key, and who holds a series when."""

import signal
import time

import pytest
from tango.step_graph import StepGraph

from pipeline.core.energy import Spent
from pipeline.store.history import history_rows, read_segments
from pipeline.store.leases import Occupied
from pipeline.train import loop
from steps.execution import needs
from steps.execution.executor import LocalExecutor
from steps.graph.wiring import WiringError, build_steps
from tests.steps.lab import Lab, ref

MODEL = {
    "d_model": 8,
    "n_layers": 1,
    "n_heads": 1,
    "mlp_hidden_size": 16,
    "vocab_size": 384,
    "max_sequence_length": 16,
}
TRAIN = {
    "batch_size": 2,
    "schedule": {"type": "linear", "peak_lr": 1e-3, "warmup_steps": 2, "total_steps": 9},
    "save_steps": 3,
}


def graph(bench, train=(), **more):
    base = {"type": "pretrain", "mix": ref("mix"), "model": MODEL, "train": TRAIN | dict(train)}
    return {**bench.config(), "base": {**base, **more}}


def step(bench, train=(), **more):
    return build_steps(graph(bench, train, **more))["base"]


@pytest.mark.parametrize(
    "more",
    [
        {"launch": {"ranks": 2, "microbatch": 1}},
        {"retention": 5},
        {"retention": None},
        {"stop_on": {"spike_factor": 3, "window": 10}},
        {"monitors": [{"type": "tensorboard"}, {"type": "wandb", "project": "olmo"}]},
    ],
)
def test_how_a_series_is_kept_is_no_part_of_a_key(bench, more):
    assert step(bench, **more).unique_id == step(bench).unique_id


@pytest.mark.parametrize("train", [{"skip": {"window": 10}}, {"save_steps": 4}, {"stop_at": 6}])
def test_what_changes_a_result_is_part_of_its_key(bench, train):
    assert step(bench, train).unique_id != step(bench).unique_id


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"retention": 0}, "base.retention is 0; it must be at least 1"),
        ({"stop_on": {"spike_factor": 1}}, "base.stop_on.spike_factor is 1"),
        ({"monitors": [{"type": "wandb"}]}, "base.monitors.0..project"),
        ({"train": TRAIN | {"skip": {"max_in_a_row": 0}}}, "base.train.skip.max_in_a_row is 0"),
    ],
)
def test_a_rule_without_sense_is_refused_before_any_work(bench, more, says):
    with pytest.raises(WiringError, match=says):
        build_steps(graph(bench) | {"base": graph(bench)["base"] | more})


def test_a_vocabulary_that_is_too_small_is_refused_before_any_work(bench):
    small = MODEL | {"vocab_size": 100}
    with pytest.raises(WiringError, match=r"base.model.vocab_size is 100; .* steps.tokenizer"):
        build_steps(graph(bench, model=small))


def test_a_saved_view_needs_no_lease_and_a_longer_one_waits_for_it(bench):
    made = step(bench, {"stop_at": 6}).result(bench.workspace)
    with bench.results.lease(f"series-{made.series}"):
        view = step(bench, {"stop_at": 3})
        view.patient = False
        shown = view.result(bench.workspace)
        assert shown.series == made.series and shown.steps == made.steps[:2]
        longer = step(bench)
        longer.patient = False
        with pytest.raises(Occupied):
            longer.result(bench.workspace)
    whole = step(bench).result(bench.workspace)
    assert whole.series == made.series and whole.steps[:3] == made.steps
    assert [s["first_step"] for s in read_segments(whole.series_root)] == [0, 6]


def test_a_saved_view_needs_no_launch_and_a_longer_training_is_refused_without(bench, monkeypatch):
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    bench.run()
    step(bench, {"stop_at": 6}).result(bench.workspace)

    def run(**train):
        built = build_steps(graph(bench, train, launch={"type": "slurm"}))
        return LocalExecutor(bench.workspace).execute_step_graph(StepGraph(built))

    assert "base" in run(stop_at=3).successful
    with pytest.raises(WiringError, match="launch of base: .*SLURM_PROCID.* start the run with"):
        run()


def test_a_saved_view_needs_no_gpus_and_a_longer_training_is_refused_without(bench, monkeypatch):
    monkeypatch.setattr(needs, "num_gpus", lambda: 0)
    bench.run()
    step(bench, {"stop_at": 6}).result(bench.workspace)

    def run(**train):
        built = build_steps(graph(bench, train, step_resources={"gpu_count": 4}))
        return LocalExecutor(bench.workspace).execute_step_graph(StepGraph(built))

    assert "base" in run(stop_at=3).successful
    with pytest.raises(WiringError, match="GPUs: 4 for base; this machine has 0"):
        run()
    first, *others = bench.source.read_text().splitlines(keepends=True)
    bench.source.write_text("".join([*others, first]))  # it may be no view of what comes of this
    with pytest.raises(WiringError, match="GPUs: 4 for base"):
        run(stop_at=3)


def test_dropped_optimizer_states_leave_an_earlier_view_in_use(bench):
    made = step(bench, {"stop_at": 3}).result(bench.workspace)
    step(bench, retention=1).result(bench.workspace)
    folder = made.folder(made.latest)
    assert not (folder / "optimizer.safetensors").exists()
    assert made.root.name in bench.results and bench.results.unreadable(made.root.name) == []


def test_the_record_sums_the_energy_of_attempts_that_failed(bench, monkeypatch):
    monkeypatch.setattr(loop, "EnergyMeter", meter_of(1e5, 72e5))  # at steps 0 and 3
    save = loop.Run.save
    monkeypatch.setattr(loop.Run, "save", lambda s, *to: fail() if s.step == 6 else save(s, *to))
    with pytest.raises(ZeroDivisionError):
        step(bench).result(bench.workspace)
    monkeypatch.setattr(loop.Run, "save", save)
    monkeypatch.setattr(loop, "EnergyMeter", meter_of(1e5, 18e5))  # at steps 6 and 9
    made = step(bench).result(bench.workspace)
    record = bench.results.record(made.root.name)
    assert record["energy_kwh"] == pytest.approx(2 + 0.5) and record["energy_by"] == "a meter"
    assert (record["devices_not_measured"], record["updates_not_measured"]) == (1, 3)
    view = step(bench, {"stop_at": 3}).result(bench.workspace)
    nothing = bench.results.record(view.root.name)
    assert (nothing["energy_kwh"], nothing["updates_not_measured"]) == (0, 0)


def meter_of(*joules):
    """A meter that has counted so much when it is asked."""
    counts = iter(joules)

    class Meter:
        def __init__(self, whole_machine):
            assert whole_machine

        def spent(self):
            return Spent(next(counts), "a meter", 1)

    return Meter


def fail():
    raise ZeroDivisionError


@pytest.mark.slow
def test_of_two_processes_that_want_a_series_one_trains_and_the_other_finds_it(bench, tmp_path):
    (tmp_path / "lab").mkdir()
    lab = Lab(tmp_path / "lab")
    trains = {"a": {"save_steps": 3}, "b": {"save_steps": 9}}
    names = [lab.write(f"{n}.json", **graph(bench, train)) for n, train in trains.items()]
    lab.run(names[0], "-s", "mix")
    running = [lab.start(names[0], "-s", "base")]
    while not any(lab.folder.glob("ws/series/*/segments.jsonl")):
        assert running[0].poll() is None
        time.sleep(0.01)
    running.append(lab.start(names[1], "-s", "base"))
    ended = [(each.communicate(timeout=300), each.returncode) for each in running]
    assert [code for _, code in ended] == [0, 0], ended
    (series,) = (lab.folder / "ws" / "series").iterdir()
    assert set(history_rows(series)) == set(range(1, 10))
    assert sum(each["num_updates"] for each in read_segments(series)) == 9


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_segment_says_by_which_signal_the_run_was_stopped(bench, tmp_path, signum):
    (tmp_path / "lab").mkdir()
    lab = Lab(tmp_path / "lab")
    schedule = TRAIN["schedule"] | {"total_steps": 90_000}
    train = {"schedule": schedule, "save_steps": 90_000}
    running = lab.start(lab.write(**graph(bench, train)), "-s", "base")
    lab.wait_for("ws/series/*/history.jsonl", running)
    running.send_signal(signum)
    running.communicate(timeout=120)
    (series,) = (lab.folder / "ws" / "series").iterdir()
    (segment,) = read_segments(series)
    assert (segment["cause"], segment["reason"]) == ("stopped", f"stopped by {signum.name}")
