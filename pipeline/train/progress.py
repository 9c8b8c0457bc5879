"""How far a run is: one bar on a terminal, else a line in the log every ten seconds."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

SECONDS = 10.0  # between lines
logger = logging.getLogger(__name__)


class Progress:
    """Loss, tokens per second and time left of a run, shown by its first rank only."""

    def __init__(self, label: str, last_step: int, shown: bool) -> None:
        self.label, self.last_step, self.shown = label, last_step, shown
        self.bar = tqdm(
            total=last_step, desc=label, unit="step", disable=not (shown and sys.stderr.isatty())
        )
        self.begin(0, 0)

    def begin(self, step: int, num_tokens: int) -> None:
        """From here on, speeds are measured."""
        self.first, self.tokens_before = step, num_tokens
        self.started = self.told = time.perf_counter()
        self.bar.n = self.bar.initial = step

    def note(self, step: int, loss: float, num_tokens: int) -> None:
        """An update was made."""
        now = time.perf_counter()
        seconds = now - self.started
        rate = (num_tokens - self.tokens_before) / seconds
        self.bar.set_postfix_str(f"loss {loss:.3f}, {rate:.0f} tokens/s", refresh=False)
        self.bar.update()
        if self.shown and self.bar.disable and (now - self.told > SECONDS):
            self.told = now
            left = (self.last_step - step) * seconds / (step - self.first)
            logger.info(
                "%s: step %d of %d, loss %.3f, %.0f tokens/s, %.0f s left",
                self.label,
                step,
                self.last_step,
                loss,
                rate,
                left,
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()
