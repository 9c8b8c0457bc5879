"""Engines map a function over the shards of one step, in order; none changes the result."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from pipeline.core.errors import PipelineError, ShardFailed

T = TypeVar("T")
R = TypeVar("R")


class Engine(Protocol):
    """An ordered map over independent pieces of work."""

    def map(self, function: Callable[[T], R], items: Sequence[T], label: str = "") -> list[R]:
        """`[function(item) for item in items]`, with one progress bar named `label`.

        Raises:
            ShardFailed: the function failed on an item; `__cause__` is its error.
        """
        ...


@dataclass(frozen=True)
class Local:
    """Processes on this machine; one worker runs in this process.

    Args:
        workers: number of processes, 1 or more.
    """

    workers: int = 1

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be at least 1")

    def map(self, function: Callable[[T], R], items: Sequence[T], label: str = "") -> list[R]:
        items = list(items)
        if self.workers == 1 or len(items) <= 1:
            return list(shown(map(partial(guarded, function), items), len(items), label))
        context = multiprocessing.get_context("spawn")
        workers = min(self.workers, len(items))
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            try:
                return list(shown(pool.map(partial(guarded, function), items), len(items), label))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


LOCAL = Local()


def guarded(function: Callable[[T], R], item: T) -> R:
    """`function(item)`, with the item named in its error."""
    try:
        return function(item)
    except PipelineError:
        raise
    except Exception as error:
        raise ShardFailed(item, error) from error


def shown(results: Iterator[R], total: int, label: str) -> Iterator[R]:
    from tqdm import tqdm

    quiet = not label or not sys.stderr.isatty()
    yield from tqdm(results, total=total, desc=label, unit="shard", disable=quiet)
