"""How far a run is: loss and tokens read per second beside the step, shown by one rank only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from pipeline.core import progress


class Progress:
    """The progress of a run of the loop."""

    def __init__(self, label: str, last_step: int, shown: bool) -> None:
        self._shown = progress.Progress(label, last_step, "step", shown)
        self.begin(0, 0)

    def begin(self, step: int, num_read: int) -> None:
        """From here on, speeds are measured."""
        self.read_before, self.started = num_read, time.perf_counter()
        self._shown.begin(step)

    def note(self, step: int, loss: float, num_read: int) -> None:
        """An update was made."""
        rate = (num_read - self.read_before) / (time.perf_counter() - self.started)
        self._shown.note(step, f"loss {loss:.3f}, {rate:.0f} tokens/s")

    @contextmanager
    def pausing(self, what: str) -> Iterator[None]:
        """Within, something else than updates is made; its time is none of theirs."""
        paused = time.perf_counter()
        with self._shown.pausing(what):
            yield
        self.started += time.perf_counter() - paused

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shown.__exit__(kind, error, trace)
