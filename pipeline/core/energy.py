"""The energy that work took: the machine's own counters where they can be read, else an estimate.

Processors are asked through Linux's `powercap` (Intel's RAPL, which AMD has too; most machines let
only root read it), NVIDIA's GPUs through NVML, if the package `nvidia-ml-py` is installed. Both
count the whole machine, whoever uses it. Without the former, energy is processor time times
`WATTS_A_CORE`: an assumption, as the thermal design power of server processors is 5 to 15 W a core;
the environment variable OLMO_WATTS_A_CORE sets another value. Memory, disks, cooling and idle cores
are not counted.

CO2-equivalent is energy times PUE times grid intensity, by default those of the OLMo paper; the
environment variables OLMO_PUE and OLMO_GRID_INTENSITY (kg a kWh) set a place's own.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

WATTS_A_CORE = 10.0
POWERCAP = Path("/sys/class/powercap")
JOULES_A_KWH = 3.6e6
PUE = 1.1  # power usage effectiveness: of a data centre, for that of its computers
INTENSITY = 0.610  # kg of CO2-equivalent a kWh, of the grid of OLMo's cluster in Australia


class EnergyMeter:
    """Reads the counters when it is made, and again for the record."""

    def __init__(self) -> None:
        self._packages = _packages()
        self._gpus = _gpus()
        self._seconds = _processor_seconds()

    def record(self) -> dict[str, Any]:
        """Energy, CO2-equivalent and how they were found, for the record of a result."""
        joules, by = 0.0, []
        if self._packages:
            now = _packages()
            for path, before in self._packages.items():
                joules += _counted(path, before, now.get(path, before)) / 1e6
            by.append("RAPL")
        else:
            watts = _set("OLMO_WATTS_A_CORE", WATTS_A_CORE)
            joules += (_processor_seconds() - self._seconds) * watts
            by.append(f"processor time at {watts:g} W a core")
        if self._gpus:
            joules += sum(_gpus()) / 1e3 - sum(self._gpus) / 1e3
            by.append("NVML")
        kwh = joules / JOULES_A_KWH
        pue, intensity = _set("OLMO_PUE", PUE), _set("OLMO_GRID_INTENSITY", INTENSITY)
        return {
            "energy_kwh": kwh,
            "energy_by": ", ".join(by),
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


def _gpus() -> list[int]:
    """Millijoules that each GPU counted."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return [int(pynvml.nvmlDeviceGetTotalEnergyConsumption(each)) for each in handles]
    except pynvml.NVMLError:
        return []
