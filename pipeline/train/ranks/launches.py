"""How the ranks of a run are started, as values; nothing here imports torch, nothing is keyed.

`ranks` are those of one machine, whatever the launch; the world size is `ranks` times the machines.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.tokens.order import MOST_BATCH

SLURM_VARIABLES = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_JOB_ID")
MOST_NODES = 10_000
MOST_RANKS = 1024  # of one machine
MOST_THREADS = 4096  # of one rank
MOST_SECONDS = 7 * 24 * 3600  # of a wait; the libraries below count milliseconds in 32 bits
SLURM_LISTS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")


@dataclass(frozen=True)
class Launch:
    """Ranks of this machine, started by the step: one in its own process, several in new ones.

    Args:
        ranks: processes of a machine that share the model and the batch.
        microbatch: rows of one forward pass in a rank; by default all of the rank's.
        compile: compile each layer; needs a C++ compiler on a CPU.
        threads: of one rank; by default the cores divided by the ranks.
        activation_checkpointing: compute a layer's inner values again in the backward pass.
        timeout_seconds: after which a rank that waits for another gives up; a week at most.
        shard_within: so many neighbouring ranks hold one copy of the model between them, and the
            copies' gradients are averaged (hybrid sharding, as with the ranks of one node); by
            default all ranks hold one copy.
        reshard_after_forward: give back a layer's gathered parameters until its backward pass,
            which costs a second gathering; without it they are held, and each layer's memory.
        reduce_each_microbatch: average gradients over the ranks after each microbatch; without it
            once an update, and each rank holds the whole model's gradients until then.
    """

    ranks: int = 1
    microbatch: int | None = None
    compile: bool = False
    threads: int | None = None
    activation_checkpointing: bool = False
    timeout_seconds: int = 600
    shard_within: int | None = None
    reshard_after_forward: bool = True
    reduce_each_microbatch: bool = True

    TYPE: ClassVar[str] = "local"
    SPANS: ClassVar[bool] = False  # whether ranks may be started by other processes than the step's
    MOST: ClassVar[Mapping[str, int]] = {  # what a number from 1 may be
        "ranks": MOST_RANKS,
        "microbatch": MOST_BATCH,
        "threads": MOST_THREADS,
        "timeout_seconds": MOST_SECONDS,
        "shard_within": MOST_RANKS * MOST_NODES,
    }

    def __post_init__(self) -> None:
        for name, most in self.MOST.items():
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise ValueError(f"{name} is {value}; it must be at least 1 and at most {most}")
        for size in self.world_sizes:
            if size % (self.shard_within or 1):
                raise ValueError(
                    f"shard_within is {self.shard_within}; it must divide the ranks, {size}"
                )

    @property
    def node_counts(self) -> tuple[int, int]:
        """The least and the greatest number of machines."""
        return 1, 1

    @property
    def world_sizes(self) -> list[int]:
        """How many ranks there may be in all."""
        least, most = self.node_counts
        return [self.ranks * nodes for nodes in range(least, most + 1)]


@dataclass(frozen=True)
class Torchrun(Launch):
    """Ranks of one machine or several under torchrun's elastic agents.

    The step starts the agent of its machine; on each other machine `olmo agent <experiment>` does.

    Args:
        nodes: machines; `'1:4'` goes on with the one to four that there are.
        rendezvous: host:port at which the agents meet; the host is one of the machines.
        id: tells runs apart that meet at one place.
        max_restarts: how often all ranks are started again after one failed or a machine came or
            went; each time they go on from the last checkpoint.
        rendezvous_seconds: that an agent waits for the others; a week at most.
    """

    nodes: int | str = 1
    rendezvous: str = "localhost:29400"
    id: str = "olmo"
    max_restarts: int = 0
    rendezvous_seconds: int = 600

    TYPE: ClassVar[str] = "torchrun"
    SPANS: ClassVar[bool] = True
    MOST: ClassVar[Mapping[str, int]] = {**Launch.MOST, "rendezvous_seconds": MOST_SECONDS}

    def __post_init__(self) -> None:
        least, most = self.node_counts
        super().__post_init__()
        host, _, port = self.rendezvous.rpartition(":")
        if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise ValueError(
                f"rendezvous is {self.rendezvous!r}; it must be host:port, with a port from 1 to "
                "65535"
            )
        if not self.id:
            raise ValueError("id is ''; it must name the run")
        if self.max_restarts < 0:
            raise ValueError(f"max_restarts is {self.max_restarts}; it must be at least 0")

    @property
    def node_counts(self) -> tuple[int, int]:
        parts = re.fullmatch(r"(\d+)(?::(\d+))?", str(self.nodes))
        least, most = (int(parts[1]), int(parts[2] or parts[1])) if parts else (0, 0)
        if not 1 <= least <= most <= MOST_NODES:
            raise ValueError(
                f"nodes is {self.nodes!r}; it must be a number, or as in '1:4', up to {MOST_NODES}"
            )
        return least, most

    @property
    def host(self) -> str:
        """Where the agents meet."""
        return self.rendezvous.rpartition(":")[0]


@dataclass(frozen=True)
class Slurm(Launch):
    """The tasks that srun started are the ranks, the first of them the run's.

    Args:
        nodes: machines; with `ranks` it is srun's `--nodes` and `--ntasks-per-node`.
        port: of the first machine, at which ranks meet; by default one made of the job's number.
    """

    nodes: int = 1
    port: int | None = None

    TYPE: ClassVar[str] = "slurm"
    SPANS: ClassVar[bool] = True
    MOST: ClassVar[Mapping[str, int]] = {**Launch.MOST, "nodes": MOST_NODES}

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}; it must be from 1 to 65535")
        super().__post_init__()

    @property
    def node_counts(self) -> tuple[int, int]:
        return self.nodes, self.nodes


@dataclass(frozen=True)
class SlurmTask:
    """This process among those that srun started.

    Args:
        local: its number on its machine.
        address: host:port of the first machine.
    """

    rank: int
    size: int
    local: int
    address: str

    @classmethod
    def read(cls, launch: Slurm, variables: Mapping[str, str] = os.environ) -> SlurmTask:
        """Raises ValueError where srun's variables are missing, or are of other ranks."""
        nodes = next((variables[each] for each in SLURM_LISTS if variables.get(each)), "")
        missing = [each for each in SLURM_VARIABLES if not variables.get(each)]
        missing += [] if nodes else [SLURM_LISTS[-1]]
        if missing:
            raise ValueError(
                f"launch is slurm, but {', '.join(missing)} is not set; start the run with srun"
            )
        rank, size, local, job = (_whole(variables, each) for each in SLURM_VARIABLES)
        if [size] != launch.world_sizes:
            raise ValueError(
                f"SLURM_NTASKS is {size}; it must be nodes times ranks, {launch.world_sizes[0]}"
            )
        for name, number, most in zip(
            SLURM_VARIABLES[::2], (rank, local), (size, launch.ranks), strict=True
        ):
            if number >= most:
                raise ValueError(f"{name} is {number}; it must be below {most}")
        port = launch.port or 10000 + job % 20000  # below those that systems give away
        return cls(rank, size, local, f"{first_host(nodes)}:{port}")


def _whole(variables: Mapping[str, str], name: str) -> int:
    if not variables[name].isdecimal():
        raise ValueError(f"{name} is {variables[name]!r}; it must be a whole number")
    return int(variables[name])


def first_host(nodes: str) -> str:
    """The first machine of Slurm's list, as `gpu[003-010,12],login`."""
    name = re.match(r"(?:[^\[\],]|\[[^\[\]]+\])+", nodes.strip())
    if name is None:
        raise ValueError(f"SLURM_NODELIST is {nodes!r}; it must name a machine")
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", name[0])


@dataclass(frozen=True)
class Joining(Launch):
    """What adds ranks to a run that another process leads; it is made by `olmo agent` alone."""

    of: Launch = Launch()
