import json
import math

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipeline.model.config import OLMO_1B
from pipeline.store.history import history_rows
from pipeline.train.speed import Speed, peak_flops
from tests.train.conftest import SHAPE, config


def test_utilization_is_the_share_of_what_all_devices_could_do():
    speed = Speed(OLMO_1B, peak=989e12, ranks=2)
    # 6 * 1,176,764,416 + 12 * 16 * 2,048 * 2,048 operations a token
    assert speed.mfu(100_000, 2048) == pytest.approx(1e5 * 7_865_892_864 / (2 * 989e12))
    row = speed.row(16_384, 0.5, 2048)
    assert row["tokens_per_second"] == 32_768
    assert row["mfu"] == pytest.approx(32_768 * 7_865_892_864 / (2 * 989e12), abs=5e-5)


def test_no_utilization_is_told_where_the_peak_is_not_known():
    assert peak_flops(torch.device("cpu")) is None
    assert Speed(OLMO_1B, None, 1).row(10, 1.0, 2048)["mfu"] is None


def test_the_utilization_of_a_run_is_of_its_sequence_length(run, monkeypatch):
    monkeypatch.setattr("pipeline.train.speed.peak_flops", lambda device: 1e6)
    made = run(config(stop_at=2))
    for row in history_rows(made.series_root).values():
        used = row["tokens_per_second"] * SHAPE.flops_per_token(SHAPE.max_sequence_length)
        assert row["mfu"] == pytest.approx(used / 1e6, rel=1e-3)


@pytest.mark.parametrize(
    "name, peak",
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA T4", None)],
)
def test_a_card_is_known_by_its_name(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda", 0)) == peak


def test_speeds_stand_in_the_history_of_the_series_and_in_no_result(run):
    made = run(config(stop_at=2))
    lines = (made.series_root / "history.jsonl").read_text().splitlines()
    assert all(json.loads(line)["tokens_per_second"] > 0 for line in lines)
    table = pq.read_table(made.root / "history.parquet")
    assert not {"seconds", "tokens_per_second", "mfu", "peak_memory"} & set(table.column_names)


def test_memory_and_the_norm_of_the_parameters_that_an_update_began_with_are_told(run):
    made = run(config(stop_at=2, save_steps=1))
    lines = (made.series_root / "history.jsonl").read_text().splitlines()
    for line, before in zip(map(json.loads, lines), made.steps, strict=False):
        folder = made.series_root / f"step{before.step:06d}"
        tensors = load_file(folder / "model.safetensors").values()
        norm = math.sqrt(sum(each.double().square().sum().item() for each in tensors))
        assert line["param_norm"] == pytest.approx(norm, rel=1e-5)
        assert line["peak_memory"] > 2**20
    assert len(lines) == 2
