"""The energy that work took: the machine's own counters where they can be read, else an estimate.

Processors are asked through Linux's `powercap` (Intel's RAPL, which AMD has too; most machines let
only root read it), NVIDIA's GPUs through NVML, if the package `nvidia-ml-py` is installed. Both
count the whole machine, whoever uses it. Without the former, energy is processor time times
`WATTS_A_CORE`: an assumption, as the thermal design power of server processors is 5 to 15 W a core;
the environment variable OLMO_WATTS_A_CORE sets another value. Memory, disks, cooling and idle cores
are not counted. GPUs that are there and cannot be asked are told as `devices_not_measured`.

CO2-equivalent is energy times PUE times grid intensity, by default those of the OLMo paper; the
environment variables OLMO_PUE and OLMO_GRID_INTENSITY (kg a kWh) set a place's own.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

WATTS_A_CORE = 10.0
POWERCAP = Path("/sys/class/powercap")
DEVICES = Path("/dev")
KFD = Path("/sys/class/kfd/kfd/topology/nodes")
JOULES_A_KWH = 3.6e6
PUE = 1.1  # power usage effectiveness: of a data centre, for that of its computers
INTENSITY = 0.610  # kg of CO2-equivalent a kWh, of the grid of OLMo's cluster in Australia


class Spent(NamedTuple):
    """What was counted: energy in joules, how, and how many GPUs there are that nobody counted."""

    joules: float
    by: str
    devices_not_measured: int


class EnergyMeter:
    """Reads the counters when it is made, and again when it is asked.

    Args:
        whole_machine: read what counts a machine as a whole: GPUs, and processors where they can be
            asked. Of several processes on a machine, one does; each has its own processor time.
    """

    def __init__(self, *, whole_machine: bool = True) -> None:
        self._whole_machine = whole_machine
        self._packages = _packages()
        self._gpus = _gpus() if whole_machine else _Gpus([], 0)
        self._seconds = _processor_seconds()

    def spent(self) -> Spent:
        """What was counted since the meter was made."""
        joules, by = 0.0, []
        if self._packages:
            now = _packages() if self._whole_machine else self._packages
            for path, before in self._packages.items():
                joules += _counted(path, before, now.get(path, before)) / 1e6
            by.append("RAPL")
        else:
            watts = _set("OLMO_WATTS_A_CORE", WATTS_A_CORE)
            joules += (_processor_seconds() - self._seconds) * watts
            by.append(f"processor time at {watts:g} W a core")
        missing = self._gpus.num_not_measured
        if self._gpus.millijoules:
            now_there = _gpus().millijoules
            if len(now_there) == len(self._gpus.millijoules):
                joules += (sum(now_there) - sum(self._gpus.millijoules)) / 1e3
                by.append("NVML")
            else:  # one is gone or reset: what it counted is not known
                missing += len(self._gpus.millijoules)
        return Spent(joules, ", ".join(by), missing)

    def record(self) -> dict[str, Any]:
        """Energy, CO2-equivalent and how they were found, for the record of a result."""
        return energy_record(self.spent())


def energy_record(spent: Spent) -> dict[str, Any]:
    """What a record says of energy: with the CO2-equivalent, and what was not measured."""
    kwh = spent.joules / JOULES_A_KWH
    pue, intensity = _set("OLMO_PUE", PUE), _set("OLMO_GRID_INTENSITY", INTENSITY)
    return {
        "energy_kwh": kwh,
        "energy_by": spent.by,
        "devices_not_measured": spent.devices_not_measured,
        "co2_kilograms": co2_kilograms(kwh, pue, intensity),
        "pue": pue,
        "grid_intensity": intensity,
    }


def co2_kilograms(kwh: float, pue: float = PUE, intensity: float = INTENSITY) -> float:
    """CO2-equivalent of the energy that computers took: energy times PUE times grid intensity.

    Source: Groeneveld et al. 2024, "OLMo", section on power and emissions, as are the defaults.
    """
    return kwh * pue * intensity


def _set(variable: str, default: float) -> float:
    """What an environment variable says, if it is a number."""
    try:
        return float(os.environ.get(variable, default))
    except ValueError:
        return default


def _processor_seconds() -> float:
    """Of this process, and of its children that have ended."""
    return sum(os.times()[:4])


def _packages() -> dict[Path, int]:
    """Microjoules that each processor counted; none where they cannot be read."""
    found = {}
    for path in sorted(POWERCAP.glob("intel-rapl:*")):
        if re.fullmatch(r"intel-rapl:\d+", path.name):  # the parts of one are in it
            try:
                found[path] = int((path / "energy_uj").read_text())
            except (OSError, ValueError):
                return {}
    return found


def _counted(path: Path, before: int, now: int) -> int:
    """What a counter went on by; it begins anew at its end."""
    if now >= before:
        return now - before
    try:
        return now + int((path / "max_energy_range_uj").read_text()) - before
    except (OSError, ValueError):
        return 0


class _Gpus(NamedTuple):
    millijoules: list[int]  # that each counted
    num_not_measured: int


def _gpus() -> _Gpus:
    """What the GPUs counted, and how many there are that cannot be asked."""
    try:
        import pynvml
    except ImportError:
        return _Gpus([], _num_devices())
    try:
        pynvml.nvmlInit()
        handles = [*map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))]
    except pynvml.NVMLError:
        return _Gpus([], _num_devices())
    counted = []
    for each in handles:
        with suppress(pynvml.NVMLError):  # older ones do not count
            counted.append(int(pynvml.nvmlDeviceGetTotalEnergyConsumption(each)))
    return _Gpus(counted, len(handles) - len(counted))


def _num_devices() -> int:
    """The GPUs that the system shows: of NVIDIA, and of AMD, which nothing here can ask."""
    num_amd = 0
    for path in KFD.glob("*/gpu_id"):
        with suppress(OSError):
            num_amd += path.read_text().strip() not in ("", "0")  # 0: a processor
    return len(list(DEVICES.glob("nvidia[0-9]*"))) + num_amd
