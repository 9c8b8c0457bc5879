"""Many files on their way at a time, with one progress bar of bytes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar

TRANSFERS = 8  # files on their way at a time
T = TypeVar("T")


def transfer(work: Callable[[T], None], items: Sequence[T]) -> None:
    """Do the work on each, several at a time; the first fault drops what has not begun."""
    with ThreadPoolExecutor(TRANSFERS) as pool:
        futures = [pool.submit(work, each) for each in items]
        try:
            for each in futures:
                each.result()
        except BaseException:
            for each in futures:
                each.cancel()
            raise


class Bytes:
    """A progress bar of bytes; what is to come may grow."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._lock = bar, Lock()

    def expect(self, num_bytes: int) -> None:
        with self._lock:
            self._bar.total += num_bytes
            self._bar.refresh()

    def tell(self, num_bytes: int) -> None:
        with self._lock:
            self._bar.update(num_bytes)


@contextmanager
def byte_bar(label: str) -> Iterator[Bytes]:
    """A progress bar on a terminal; nothing elsewhere."""
    from tqdm import tqdm

    quiet = not sys.stderr.isatty()
    with tqdm(total=0, desc=label, unit="B", unit_scale=True, disable=quiet, leave=False) as bar:
        yield Bytes(bar)
