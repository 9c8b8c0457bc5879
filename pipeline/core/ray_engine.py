"""The shards of one step over a Ray cluster; what it makes is what the local engine makes.

What travels is a function, which holds manifests and paths, and what it returns, which is records
of files. Rows, arrays and tensors stay in files of the workspace, which every node sees.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pipeline.core.engine import guarded, shown
from pipeline.core.errors import MissingDependency, ShardFailed, Unavailable

T = TypeVar("T")
R = TypeVar("R")
MIN_IN_FLIGHT = 64
_ADDRESS = re.compile(r"(?:ray://)?([^/:]+|\[[0-9a-fA-F:]+\]):([0-9]+)")


@dataclass(frozen=True)
class RayEngine:
    """Tasks on a Ray cluster, a task a shard.

    A shard whose worker or node dies is given to another one; what was finished is not made again,
    as it stands in the workspace.

    Args:
        address: `host:port` of the cluster. Without it: RAY_ADDRESS, or the cluster that runs on
            this machine, or one that is started here. In a step that runs on Ray: that cluster.
        cpus_per_shard: processors that a shard's task holds.
        max_retries: how often a shard is tried again after its worker died.
    """

    address: str | None = None
    cpus_per_shard: float = 1.0
    max_retries: int = 3

    PACKAGES: ClassVar[tuple[str, ...]] = ("ray",)  # optional, and needed before anything runs

    def __post_init__(self) -> None:
        if self.cpus_per_shard <= 0:
            raise ValueError(f"cpus_per_shard is {self.cpus_per_shard}; it must be above 0")
        if self.max_retries < 0:
            raise ValueError(f"max_retries is {self.max_retries}; it must be at least 0")
        require_address(self.address)

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        label: str = "",
        *,
        threads: bool = False,
    ) -> list[R]:
        items = list(items)
        if not items:
            return []
        ray = connect(self.address)
        options = {"num_cpus": self.cpus_per_shard, "max_retries": self.max_retries}
        task = ray.remote(**options)(_on_shard)
        shared, folder = ray.put(function), os.getcwd()
        width = max(MIN_IN_FLIGHT, 4 * int(ray.cluster_resources().get("CPU", 1)))
        places: dict[Any, int] = {}

        def finished() -> Iterator[tuple[int, R]]:
            left = iter(range(len(items)))
            while True:
                for place in left:
                    places[task.remote(shared, items[place], folder)] = place
                    if len(places) >= width:
                        break
                if not places:
                    return
                done, _ = ray.wait(list(places), num_returns=1)
                place = places.pop(done[0])
                yield place, _result(ray, done[0], items[place])

        results: dict[int, R] = {}
        try:
            for place, result in shown(finished(), len(items), label):
                results[place] = result
        except BaseException:
            for each in places:
                ray.cancel(each, force=True)
            raise
        return [results[place] for place in range(len(items))]


def require_address(address: str | None) -> None:
    """Raises ValueError for what cannot be the address of a cluster."""
    if address not in (None, "auto", "local") and not _ADDRESS.fullmatch(str(address)):
        raise ValueError(f"address is {address!r}; it must be host:port, auto or local")


def connect(address: str | None) -> Any:
    """The module `ray`, connected to a cluster; a connection that this process has is kept.

    Raises:
        MissingDependency: Ray is not installed.
        Unavailable: there is no cluster at that address.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingDependency("ray", "an engine or executor of type ray") from error
    if ray.is_initialized():
        return ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _require_listener(address or os.environ.get("RAY_ADDRESS"))
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except OSError as error:
        place = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise Unavailable(f"there is no Ray cluster at {place} ({error})") from error
    finally:
        if in_main:  # Ray takes SIGTERM for itself
            signal.signal(signal.SIGTERM, handler)
    return ray


def _require_listener(address: str | None) -> None:
    """Raises OSError where nothing listens; Ray itself would try for minutes."""
    found = _ADDRESS.fullmatch(address or "")
    if found:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()


def _on_shard(function: Callable[[T], R], item: T, folder: str) -> R:
    """What a worker does: the shard, where relative paths mean what they mean to the driver."""
    os.chdir(folder)
    return guarded(function, item)


def _result(ray: Any, reference: Any, item: object) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Exception) and not isinstance(error.cause, type(error)):
            raise error.cause from error
        raise ShardFailed(item, error) from error
    except ray.exceptions.RayError as error:
        raise ShardFailed(item, error) from error
