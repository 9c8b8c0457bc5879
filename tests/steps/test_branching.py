"""A rule that begins after a step shares the training up to there with the one that has none."""

import os
import shutil

import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import DivergedTraining
from pipeline.store.branching import branch, is_new
from pipeline.store.cleaning import plan_removal, remove
from pipeline.store.history import history_rows, read_segments
from pipeline.store.survey import Survey
from pipeline.train import loop
from steps.graph.wiring import WiringError
from tests.steps.conftest import Bench
from tests.steps.test_training import step

RULE = {"spike_factor": 1.0001, "window": 1, "from_step": 4}
TINY = {"type": "linear", "peak_lr": 1e-9, "warmup_steps": 2, "total_steps": 9}  # losses differ
PLAIN = {"schedule": TINY}


@pytest.fixture
def updates(monkeypatch):
    """The numbers of the updates that are made."""
    made = []
    update = loop.Run.update
    monkeypatch.setattr(loop.Run, "update", lambda s, n: (made.append(n), update(s, n))[1])
    return made


def result(bench, train, **more):
    return step(bench, train, **more).result(bench.workspace)


def skipped(made):
    table = pq.read_table(made.root / "history.parquet").to_pylist()
    return [row["step"] for row in table if row["skipped"]]


def test_a_rule_from_a_step_trains_only_from_there_and_to_the_same_bits(bench, tmp_path, updates):
    plain = result(bench, PLAIN, retention=None)
    updates.clear()
    made = result(bench, PLAIN | {"skip": RULE})
    assert updates == [4, 5, 6, 7, 8, 9]  # from the checkpoint of step 3
    assert made.series != plain.series and made.steps[:2] == plain.steps[:2]
    assert skipped(made) and min(skipped(made)) > 4
    (tmp_path / "fresh").mkdir()
    fresh = result(Bench(tmp_path / "fresh"), PLAIN | {"skip": RULE})
    assert fresh.content == made.content
    taken, own = read_segments(made.series_root)
    assert (taken["cause"], taken["last_step"], taken["num_updates"]) == ("taken over", 3, 0)
    assert (own["first_step"], own["last_step"], "rolled_back_from" in own) == (3, 9, False)


def test_a_rule_that_follows_on_a_divergence_goes_on_from_what_was_saved(bench, updates):
    with pytest.raises(DivergedTraining) as told:
        result(bench, PLAIN, stop_on={"spike_factor": 1.0001, "window": 4})
    assert told.value.step > 4
    updates.clear()
    made = result(bench, PLAIN | {"skip": RULE | {"window": 4, "from_step": told.value.step - 1}})
    assert updates[0] > 3 and told.value.step in skipped(made)


def test_either_series_can_be_removed_and_the_other_stays_whole(bench):
    plain, made = (
        result(bench, PLAIN, retention=None),
        result(bench, PLAIN | {"skip": RULE}),
    )
    shared = plain.folder(plain.steps[1]) / "model.safetensors"
    other = made.folder(made.steps[1]) / "model.safetensors"
    assert os.path.samefile(shared, other)
    survey = Survey(bench.results)
    removal = plan_removal(survey, [plain.root.name])
    assert plain.series_root.name in {each.path.name for each in removal.places}
    assert 0 < removal.num_bytes <= survey.size(removal.places) - 2 * shared.stat().st_size
    assert remove(bench.results, removal) == []
    assert not plain.series_root.exists()
    assert bench.results.fault(made.root.name) is None
    assert bench.results.unreadable(made.root.name) == []
    made.verify()


def test_code_is_kept_apart_for_both_alike_where_a_workspace_is_strict(bench, updates):
    bench.results.strict = True
    result(bench, PLAIN, retention=None)
    updates.clear()
    result(bench, PLAIN | {"skip": RULE})
    assert updates == [4, 5, 6, 7, 8, 9]


def test_what_is_dropped_or_damaged_in_one_series_is_not_in_the_other(bench):
    plain = result(bench, PLAIN, retention=None)
    result(bench, PLAIN | {"skip": RULE}, retention=1)
    assert (plain.folder(plain.steps[1]) / "optimizer.safetensors").exists()
    plain.verify()


def test_what_a_kill_cut_off_is_taken_over_again(bench, tmp_path):
    plain = result(bench, PLAIN, retention=None)
    series = tmp_path / "series" / ("d" * 64)
    (series / ".step000003.tmp").mkdir(parents=True)
    shutil.copytree(plain.folder(plain.steps[0]), series / "step000000")
    assert is_new(series) and branch(series, plain.series_root, 7) == 6
    assert set(history_rows(series)) == set(range(1, 7)) and not is_new(series)
    assert sorted(path.name for path in series.glob("*step*")) == [
        "step000000",
        "step000003",
        "step000006",
    ]
    assert branch(series, plain.series_root, 9) == 0  # it has its own history now


def test_a_checkpoint_that_lacks_a_file_is_not_taken_over(bench, tmp_path):
    plain = result(bench, PLAIN, retention=None)
    (plain.folder(plain.steps[2]) / "model.safetensors").unlink()
    series = tmp_path / "series" / ("d" * 64)
    series.mkdir(parents=True)
    assert branch(series, plain.series_root, 9) == 9
    assert not (series / "step000006").exists() and (series / "step000003").exists()


def test_a_rule_from_no_step_of_the_training_is_refused(bench):
    with pytest.raises(WiringError, match="base.train: skip.from_step is 9; .* total_steps, 9"):
        step(bench, PLAIN | {"skip": RULE | {"from_step": 9}})
    with pytest.raises(WiringError, match="base.train.skip.from_step is -1"):
        step(bench, PLAIN | {"skip": RULE | {"from_step": -1}})
