"""Engines map a function over the shards of one step, in order; none changes the result."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from pipeline.core.errors import PipelineError, ShardFailed
from pipeline.core.progress import Progress

T = TypeVar("T")
R = TypeVar("R")


class Engine(Protocol):
    """An ordered map over independent pieces of work."""

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        label: str = "",
        *,
        threads: bool = False,
    ) -> list[R]:
        """`[function(item) for item in items]`, with one progress bar named `label`.

        Args:
            threads: the function leaves Python's lock to others nearly all the time (it reads,
                writes and calls kernels), so that on one machine threads do for workers: they cost
                no start, where a process takes about a second.

        Raises:
            ShardFailed: the function failed on an item; `__cause__` is its error.
        """
        ...


@dataclass(frozen=True)
class Local:
    """Processes on this machine, or threads for what leaves Python's lock alone.

    Args:
        workers: number of processes or threads, 1 or more; one worker runs in this process.
    """

    workers: int = 1

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be at least 1")

    def map(
        self,
        function: Callable[[T], R],
        items: Sequence[T],
        label: str = "",
        *,
        threads: bool = False,
    ) -> list[R]:
        items = list(items)
        workers = min(self.workers, len(items))
        if workers <= 1:
            return list(shown(map(partial(guarded, function), items), len(items), label))
        with ThreadPoolExecutor(workers) if threads else _processes(workers) as pool:
            try:
                return list(shown(pool.map(partial(guarded, function), items), len(items), label))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


LOCAL = Local()


@contextmanager
def _processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    with (
        _without_script(),
        ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool,
    ):
        yield pool


def end_with_parent() -> None:
    """Have this process end when the one that started it does, by a kill too.

    A worker of a killed run would wait for work for ever, or go on writing beside the next run.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _without_script() -> Iterator[None]:
    """Keep new processes from running a console script once more, imports and all.

    That of Tango imports torch, two seconds a worker. A main module that defines something of its
    own is left to them, as what they are sent may be of it.
    """
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    own = any(getattr(each, "__module__", None) == "__main__" for each in vars(main).values())
    if path is None or own:
        yield
        return
    main.__file__ = None
    try:
        yield
    finally:
        main.__file__ = path


def guarded(function: Callable[[T], R], item: T) -> R:
    """`function(item)`, with the item named in its error."""
    try:
        return function(item)
    except PipelineError:
        raise
    except Exception as error:
        raise ShardFailed(item, error) from error


def shown(results: Iterator[R], total: int, label: str) -> Iterator[R]:
    with Progress(label, total, "shard", shown=bool(label)) as progress:
        for place, result in enumerate(results):
            progress.note(place + 1)
            yield result
