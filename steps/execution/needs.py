"""What steps need of a machine, checked before the first one starts."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tango.step import Step

from pipeline.train.ranks.launches import Slurm, SlurmTask
from steps.execution.scheduling import Demand
from steps.graph.deferred import WithSteps

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True)
class Needs:
    """What `step_resources` has no words for; it is in no key.

    Args:
        disk: free space that the step's files take in the workspace, as "1.5TB".
        credentials: environment variables that must be set.
    """

    disk: str = "0"
    credentials: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        num_bytes(self.disk)


def num_bytes(text: str) -> float:
    """Bytes in a size like 2.5GiB, 80GB or 1024m; raises ValueError for anything else."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?i?)b?\s*", text.lower())
    if not found or found[2] == "i":
        raise ValueError(f"{text!r} is no size; write a number and a unit, as 80GB or 2.5TiB")
    return float(found[1]) * (UNITS | BINARY)[found[2]]


def lacking(
    steps: Iterable[Step[Any]],
    workspace: Path,
    *,
    elsewhere: bool = False,
    perhaps: Collection[str] = (),
) -> list[str]:
    """What these steps need and this machine has not: a line for each kind of thing.

    Args:
        perhaps: names of steps that launch nothing if what they read comes out as it did before.
        elsewhere: the steps run on other machines; of this one only the free disk is asked for.
    """
    cpus: dict[str, float] = {}
    gpus: dict[str, float] = {}
    memory: dict[str, float] = {}
    disk: dict[str, float] = {}
    secrets: dict[str, list[str]] = {}
    packages: dict[str, list[str]] = {}
    launches: dict[str, list[str]] = {}
    for step in steps:
        if not elsewhere and step.name not in perhaps:
            for each in _packages([*step.kwargs.values()]):
                if find_spec(each) is None:
                    packages.setdefault(each, []).append(step.name)
            if fault := _launch_fault(step):
                launches.setdefault(fault, []).append(step.name)
        demand = demand_of(step)
        for kind, much in ((cpus, demand.cpus), (gpus, demand.gpus), (memory, demand.memory)):
            if much and not elsewhere:
                kind[step.name] = much
        needs: Needs = getattr(step, "needs", None) or Needs()
        disk[step.name] = num_bytes(needs.disk)
        for each in needs.credentials:
            if not os.environ.get(each) and not elsewhere:
                secrets.setdefault(each, []).append(step.name)
    lines = []
    if (many := max(cpus.values(), default=0.0)) > (cores := num_cpus()):
        lines.append(f"CPUs: {many:g} for {_named(cpus)}; this machine has {cores}")
    if gpus and (most := max(gpus.values())) > (has := num_gpus()):
        lines.append(f"GPUs: {most:g} for {_named(gpus)}; this machine has {has}")
    if (peak := max(memory.values(), default=0.0)) > (held := memory_bytes()):
        lines.append(f"memory: {_size(peak)} for {_named(memory)}; this machine has {_size(held)}")
    free = shutil.disk_usage(_existing(workspace)).free
    if (total := sum(disk.values())) > free:
        named = _named({name: size for name, size in disk.items() if size})
        lines.append(f"disk: {_size(total)} for {named}; {_size(free)} are free at {workspace}")
    for fault, users in sorted(launches.items()):
        lines.append(f"launch of {_named(dict.fromkeys(users, 0))}: {fault}")
    for name, users in sorted(packages.items()):
        named = _named(dict.fromkeys(users, 0))
        lines.append(f"packages: {name} for {named}; pip install -e '.[{name}]'")
    for name, users in sorted(secrets.items()):
        lines.append(f"credentials: {name} must be set for {_named(dict.fromkeys(users, 0))}")
    return lines


def _packages(value: Any) -> Iterator[str]:
    """The packages that the components in a value need, in a list too."""
    if isinstance(value, list):
        for each in value:
            yield from _packages(each)
    else:
        made = value.made if isinstance(value, WithSteps) else value
        yield from getattr(made, "PACKAGES", ())


def _launch_fault(step: Step[Any]) -> str:
    """Why this process cannot launch a training; empty where it can."""
    launch = step.kwargs.get("launch")
    if isinstance(launch, Slurm):
        try:
            SlurmTask.read(launch)
        except ValueError as error:
            return str(error)
    return ""


def demand_of(step: Step[Any]) -> Demand:
    """What a step takes while it runs, as its `step_resources` say."""
    resources = step.resources
    return Demand(
        cpus=float(resources.cpu_count or 0),
        memory=num_bytes(resources.memory or "0"),
        gpus=float(resources.gpu_count or 0),
    )


def machine(with_gpus: bool) -> Demand:
    """What this machine has; its GPUs are counted only where they matter, as that takes torch."""
    return Demand(num_cpus(), memory_bytes(), num_gpus() if with_gpus else 0)


def num_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_gpus() -> int:
    """GPUs of this machine."""
    import torch

    return torch.cuda.device_count()


def memory_bytes() -> float:
    """Main memory of this machine."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _named(needing: dict[str, Any]) -> str:
    """Those that need most, first."""
    names = sorted(needing, key=lambda name: (-needing[name], name))
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _size(size: float) -> str:
    for unit in ("TB", "GB", "MB"):
        if size >= UNITS[unit[0].lower()]:
            return f"{size / UNITS[unit[0].lower()]:.1f} {unit}"
    return f"{size:.0f} bytes"


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
