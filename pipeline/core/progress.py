"""How far a piece of work is: a bar on a terminal, else a line in the log every ten seconds.

Where the environment names a file in `OLMO_PROGRESS`, the latest state stands there as one line,
for whoever shows several pieces of work at once.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from pipeline.core.terminal import duration

VARIABLE = "OLMO_PROGRESS"
LINE_SECONDS, STATE_SECONDS = 10.0, 0.5
logger = logging.getLogger(__name__)


class Progress:
    """The state of one piece of work; a context manager.

    Args:
        total: units of work; None where that is not known.
        shown: False for all processes but one of those that share the work.
    """

    def __init__(self, label: str, total: int | None, unit: str, shown: bool = True) -> None:
        self.label, self.total, self.unit, self.shown = label, total, unit, shown
        self._state = os.environ.get(VARIABLE, "") if shown else ""
        self._bar: Any = None
        if shown and not self._state and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=label, unit=unit)
        self.begin(0)

    def begin(self, done: int) -> None:
        """From here on the time left is measured; `done` units were done before."""
        self.first = self.done = done
        self.started = self._told = self._stated = time.perf_counter()
        if self._bar is not None:
            self._bar.n = self._bar.initial = done

    def note(self, done: int, more: str = "") -> None:
        """So many units are done; `more` stands behind, as the loss."""
        self.done = done
        if not self.shown:
            return
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.set_postfix_str(more, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        if self._state and (now - self._stated > STATE_SECONDS or done == self.total):
            self._stated = now
            self._write(self._line(done, more, now))
        if now - self._told > LINE_SECONDS:
            self._told = now
            logger.info("%s", self._line(done, more, now))

    @contextmanager
    def pausing(self, what: str) -> Iterator[None]:
        """Within, no unit is worked on but something else, which is told at once.

        The time left is reckoned without it.
        """
        paused = time.perf_counter()
        if self._bar is not None:
            self._bar.set_postfix_str(what)
        elif self._state:
            self._write(self._line(self.done, what, paused))
        yield
        away = time.perf_counter() - paused
        self.started += away
        if self._bar is not None:
            self._bar.start_t += away
            self._bar.last_print_t += away

    def _line(self, done: int, more: str, now: float) -> str:
        of = "" if self.total is None else f" of {self.total}"
        parts = [f"{self.label}: {self.unit} {done}{of}", *([more] if more else [])]
        if self.total is not None and done > self.first:
            left = (self.total - done) * (now - self.started) / (done - self.first)
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    def _write(self, line: str) -> None:
        try:
            with open(self._state, "w", encoding="utf-8") as file:
                file.write(line)
        except OSError:  # a full disk stops work where it matters, not here
            self._state = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
