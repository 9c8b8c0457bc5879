import sys
import types

import pytest

from pipeline.core import energy
from pipeline.core.energy import EnergyMeter


@pytest.fixture
def powercap(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setattr(energy, "DEVICES", tmp_path / "dev")
    monkeypatch.setattr(energy, "KFD", tmp_path / "kfd")
    monkeypatch.setitem(sys.modules, "pynvml", None)

    def count(name, microjoules):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "energy_uj").write_text(f"{microjoules}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("10000000\n")

    return count


def test_without_counters_energy_is_processor_time_at_a_stated_power(powercap, monkeypatch):
    seconds = iter([5.0, 41.0])
    monkeypatch.setattr(energy, "_processor_seconds", lambda: next(seconds))
    monkeypatch.setenv("OLMO_WATTS_A_CORE", "20")
    monkeypatch.setenv("OLMO_PUE", "1.2")
    monkeypatch.setenv("OLMO_GRID_INTENSITY", "0.1")
    assert EnergyMeter().record() == {
        "energy_kwh": pytest.approx(36 * 20 / 3.6e6),
        "energy_by": "processor time at 20 W a core",
        "devices_not_measured": 0,
        "co2_kilograms": pytest.approx(36 * 20 / 3.6e6 * 1.2 * 0.1),
        "pue": 1.2,
        "grid_intensity": 0.1,
    }
    monkeypatch.setenv("OLMO_WATTS_A_CORE", "many")
    assert energy._set("OLMO_WATTS_A_CORE", energy.WATTS_A_CORE) == energy.WATTS_A_CORE


def test_counters_of_processors_are_added_and_begin_anew_at_their_end(powercap):
    powercap("intel-rapl:0", 9_000_000)
    powercap("intel-rapl:1", 0)
    powercap("intel-rapl:0:0", 0)  # a part of the first
    meter = EnergyMeter()
    powercap("intel-rapl:0", 1_000_000)
    powercap("intel-rapl:1", 3_000_000)
    powercap("intel-rapl:0:0", 9_000_000)
    record = meter.record()
    assert record["energy_by"] == "RAPL"
    assert record["energy_kwh"] == pytest.approx((2 + 3) / 3.6e6)


def test_gpus_are_counted_beside_the_processors(powercap, monkeypatch):
    counted = {0: 1000, 1: 5000}
    module = types.SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: counted[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    powercap("intel-rapl:0", 0)
    meter = EnergyMeter()
    counted[1] = 9000
    record = meter.record()
    assert record["energy_kwh"] == pytest.approx(4 / 3.6e6)
    assert record["energy_by"] == "RAPL, NVML"
    assert record["co2_kilograms"] == pytest.approx(4 / 3.6e6 * energy.PUE * energy.INTENSITY)


def test_gpus_that_nobody_can_ask_are_told_and_not_counted_as_nothing(powercap, tmp_path):
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    for number, id in enumerate(("0", "6022")):  # a processor, and a card of AMD
        (tmp_path / "kfd" / str(number)).mkdir(parents=True)
        (tmp_path / "kfd" / str(number) / "gpu_id").write_text(f"{id}\n")
    assert EnergyMeter().record()["devices_not_measured"] == 3
    assert EnergyMeter(whole_machine=False).spent().devices_not_measured == 0


def test_a_gpu_that_does_not_count_is_told_beside_those_that_do(powercap, monkeypatch):
    def consumption(handle):
        if handle == 0:
            raise RuntimeError("not supported")
        return next(counts)

    counts = iter([1000, 3000])
    module = types.SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetTotalEnergyConsumption=consumption,
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    powercap("intel-rapl:0", 0)
    spent = EnergyMeter().spent()
    assert spent == (2.0, "RAPL, NVML", 1)


def test_what_counts_a_machine_is_read_by_one_of_its_processes(powercap):
    powercap("intel-rapl:0", 0)
    meters = [EnergyMeter(whole_machine=first) for first in (True, False)]
    powercap("intel-rapl:0", 4_000_000)
    assert [each.spent().joules for each in meters] == [4.0, 0.0]
