import logging
import math
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from pipeline.core.errors import MissingDependency
from pipeline.model.config import OlmoConfig
from pipeline.store.history import history_rows
from pipeline.tokens.mixing import mix_tokens
from pipeline.train.config import Conduct, Launch, Upkeep
from pipeline.train.evaluations import HISTORY_COLUMNS
from pipeline.train.monitors import (
    Monitor,
    TensorBoard,
    WeightsAndBiases,
    listening,
    perplexity,
    scalars,
)
from pipeline.train.spikes import SkipRule
from pipeline.train.stages.pretrain import pretrain
from tests.tokens.test_mixing import write_tokens
from tests.train.conftest import ONE, SHAPE, config

HEARD = []


@dataclass(frozen=True)
class Ear(Monitor):
    """Keeps what it is told; fails at an update, or to begin (at 0)."""

    fails_at: int | None = None
    TYPE = "ear"

    def require(self):
        pass

    def begin(self, series, first_step, facts):
        self.fail(0)
        HEARD.append(("begin", first_step, facts["objective"]))
        with open(series / "ear.txt", "a") as file:  # as ranks may be other processes
            file.write("begun\n")
        return self

    def update(self, row):
        self.fail(row["step"])
        HEARD.append(("update", row["step"], row["loss"]))

    def end(self):
        HEARD.append(("end",))

    def fail(self, step):
        if step == self.fails_at:
            raise OSError("no room")


@pytest.fixture(autouse=True)
def heard():
    HEARD.clear()
    return HEARD


def told_of(*monitors):
    return {"upkeep": Upkeep(monitors=monitors)}


def test_a_monitor_hears_of_each_update_and_changes_no_result(run, heard):
    plain = run(config(4), series="a" * 64, name="plain")
    watched = run(config(4), series="b" * 64, name="watched", hooks=told_of(Ear()))
    assert watched.content == plain.content
    rows = history_rows(watched.series_root)
    updates = [("update", step, rows[step]["loss"]) for step in (1, 2, 3, 4)]
    assert heard == [("begin", 0, "next_token"), *updates, ("end",)]


def test_only_the_first_of_two_ranks_tells(run):
    made = run(config(4, stop_at=2), Launch(ranks=2, threads=1), hooks=told_of(Ear()))
    assert (made.series_root / "ear.txt").read_text() == "begun\n"


def test_a_replay_tells_nothing(run, heard):
    run(config(12, save_steps=4))
    run(config(12, save_steps=2), name="finer", hooks=told_of(Ear()))
    assert heard == []


def test_a_resumed_run_tells_what_follows(run, heard):
    run(config(6, stop_at=3), hooks=told_of(Ear()), name="part")
    heard.clear()
    run(config(6), hooks=told_of(Ear()))
    assert [each[1] for each in heard[:-1]] == [3, 4, 5, 6]


@pytest.mark.parametrize("step", [0, 2])
def test_a_monitor_that_fails_is_dropped_with_one_warning(run, heard, caplog, step):
    with caplog.at_level(logging.WARNING):
        made = run(config(4), hooks=told_of(Ear(fails_at=step), Ear()))
    assert made.latest.step == 4
    assert [each.message for each in caplog.records if "monitor" in each.message] == [
        "the monitor 'ear' failed and is told no more: OSError: no room"
    ]
    assert [each[1] for each in heard if each[0] == "update"][-2:] == [3, 4]
    assert heard.count(("end",)) == 1


@pytest.mark.parametrize("monitor", [TensorBoard(), WeightsAndBiases(project="p")])
def test_without_its_package_a_monitor_is_refused_before_training(run, monkeypatch, monitor):
    monkeypatch.setattr("pipeline.train.monitors.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=f"extra '{monitor.TYPE}' of olmo-tango"):
        run(config(4), hooks=told_of(monitor))


class FakeWriter:
    def __init__(self, folder, purge_step):
        self.said, self.texts = {}, {}
        self.folder, self.purge_step, self.closed = folder, purge_step, False

    def add_scalar(self, name, value, step):
        self.said[name, step] = value

    def add_text(self, name, text, step):
        self.texts[name] = text

    def close(self):
        self.closed = True


def test_tensorboard_gets_the_numbers_of_each_update(run, monkeypatch):
    writers = []

    def make(folder, purge_step):
        writers.append(FakeWriter(folder, purge_step))
        return writers[-1]

    module = SimpleNamespace(SummaryWriter=make)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(TensorBoard, "require", lambda self: None)
    made = run(config(4, stop_at=2), hooks=told_of(TensorBoard()))
    (writer,) = writers
    rows = history_rows(made.series_root)
    assert writer.folder == str(made.series_root / "tensorboard")
    assert (writer.purge_step, writer.closed) == (1, True)
    assert writer.texts["objective"] == "next_token"
    for step in (1, 2):
        assert writer.said["loss", step] == rows[step]["loss"]
        assert writer.said["perplexity", step] == math.exp(rows[step]["loss"])
        assert writer.said["tokens_by_source/all", step] == step * 64
    names = {name for name, _ in writer.said}
    assert {"lr", "grad_norm", "param_norm", "tokens_per_second", "peak_memory"} <= names


class FakeWandb:
    """What of `wandb` a monitor calls."""

    def __init__(self):
        self.logged, self.finished = [], 0

    def init(self, **given):
        self.given = given
        return self

    def define_metric(self, name, step_metric):
        self.step_metric = step_metric

    def log(self, row):
        self.logged.append(row)

    def finish(self):
        self.finished += 1


def test_wandb_gets_the_numbers_of_each_update_and_a_resumed_run_goes_on(run, monkeypatch):
    given = []
    monkeypatch.setattr(WeightsAndBiases, "require", lambda self: None)
    for stop_at, name, steps in ((3, "part", [1, 2, 3]), (6, "whole", [4, 5, 6])):
        fake = FakeWandb()
        monkeypatch.setitem(sys.modules, "wandb", fake)
        made = run(
            config(6, stop_at=stop_at), name=name, hooks=told_of(WeightsAndBiases(project="p"))
        )
        assert [row["step"] for row in fake.logged] == steps
        assert (fake.finished, fake.step_metric) == (1, "step")
        rows = history_rows(made.series_root)
        assert [row["loss"] for row in fake.logged] == [rows[step]["loss"] for step in steps]
        given.append((fake.given["id"], fake.given["mode"], fake.given["dir"]))
    assert given == [(made.series[:32], "offline", str(made.series_root))] * 2
    assert fake.given["config"]["train"]["batch_size"] == 4


def test_the_perplexity_is_that_of_the_cross_entropy_and_not_of_the_z_loss(run):
    plain = history_rows(run(config(3), series="a" * 64).series_root)[1]
    with_z = run(config(3, z_loss=0.1), Launch(threads=1, microbatch=3), series="b" * 64, name="z")
    row = history_rows(with_z.series_root)[1]
    assert row["z_loss"] > 1 and "z_loss" not in plain
    assert row["loss"] - row["z_loss"] == pytest.approx(plain["loss"], rel=1e-5)
    assert perplexity(row) == pytest.approx(perplexity(plain), rel=1e-4)
    assert perplexity({"loss": None, "z_loss": 0.1}) == perplexity({"loss": 1.0, "z_loss": None})


@pytest.mark.parametrize(("objective", "loss", "told"), [("masked", 0.0, 1.0), ("dpo", 0.5, None)])
def test_a_loss_over_pairs_has_no_perplexity(tmp_path, heard, objective, loss, told):
    class Last(Ear):
        def update(self, row):
            heard.append(row.get("perplexity"))

    with listening([Last()], tmp_path, 0, {"objective": objective}) as tell:
        tell({"step": 1, "loss": loss})
    assert heard[1:-1] == [told]


def test_a_row_that_a_monitor_cannot_take_costs_that_monitor_and_no_training(tmp_path, caplog):
    with listening([Ear()], tmp_path, 0, {"objective": "masked"}) as tell, caplog.at_level(30):
        tell({"step": 1, "loss": {"seconds": 1.0}})
    assert "the monitor 'ear' failed and is told no more: TypeError" in caplog.text


def test_no_evaluation_can_be_named_as_a_column_of_the_history(run):
    taken = run(config(4, stop_at=2, z_loss=0.1, skip=SkipRule()), hooks=told_of(Ear()))
    row = history_rows(taken.series_root)[1]
    assert set(row) - {"crc"} <= HISTORY_COLUMNS


def test_what_is_not_known_is_no_number():
    row = {"step": 3, "loss": None, "mfu": None, "skipped": True, "tokens_by_source": {"a": 5}}
    assert scalars(row) == {"skipped": 1.0, "tokens_by_source/a": 5.0}


def test_tokens_by_source_add_up_to_the_tokens_read_and_go_on_after_a_resume(tmp_path):
    parts = {
        name: write_tokens(tmp_path / "cache" / name, [[[*range(1, 40), 0]] * size])
        for name, size in (("web", 12), ("code", 4))
    }
    mix = mix_tokens(parts, sequence_length=16, out=tmp_path / "cache" / "mix")
    model = OlmoConfig(**SHAPE.__dict__)
    kept = {}
    for series, stops in (("a" * 64, (12,)), ("b" * 64, (3, 12))):
        for stop_at in stops:
            made = pretrain(
                mix,
                model,
                config(12, stop_at=stop_at),
                conduct=Conduct(
                    tmp_path / "series" / series, tmp_path / "cache" / f"{series[0]}{stop_at}", ONE
                ),
            )
        rows = history_rows(made.series_root)
        kept[series] = [rows[step]["tokens_by_source"] for step in range(1, 13)]
        for step in range(1, 13):
            assert sum(rows[step]["tokens_by_source"].values()) == rows[step]["num_tokens_read"]
    assert kept["a" * 64] == kept["b" * 64]
    drawn = {part.name: part.num_drawn for part in mix.parts}
    assert sum(drawn.values()) < 48  # so one epoch and more was read
    assert set(kept["a" * 64][-1]) == set(drawn) == {"web", "code"}
    assert all(kept["a" * 64][-1][name] >= 16 * number for name, number in drawn.items())
