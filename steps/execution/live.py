"""What a person sees of a run: a line when a step starts or ends, and on a terminal what runs now.

All lines go to the run's `out.log` as well. On a terminal the steps that run stand below the lines,
each with its time and what it last said of its progress.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import tango.common.logging as tango_logging
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from pipeline.core.terminal import duration, excerpt, one_line, shortened, visible
from steps.execution.logs import RUN_LOG
from steps.execution.running import command_line, progress_of, read_state, shown
from steps.execution.scheduling import THERE, Outcome

MAX_ROWS = 12  # of the live part
MAX_WARNING, MAX_PRINTED = 500, 300  # characters of a line
WAIT_SECONDS = 1.0  # before it is told that a step waits for others
TELL_SECONDS = 60.0  # between lines on what runs, where there is no live part


class Display:
    """The face of a run; a `Watcher` for the scheduler and a context manager.

    Args:
        waiting: number of steps that are to run; `cached` are there already.
        log_of: the log of a step.
        alone: whether nothing else writes to the terminal, so that a part of it may be drawn anew.
    """

    def __init__(
        self, waiting: int, cached: int, log_of: Callable[[str], Path], alone: bool = True
    ) -> None:
        self.waiting, self.cached, self.log_of = waiting, cached, log_of
        self.began = time.monotonic()
        self.counts: dict[str, int] = {}
        self.running: dict[str, float] = {}
        self.held: dict[str, tuple[float, str]] = {}  # steps of others: since when, who was told
        self.alone = alone
        self._live: Live | None = None
        self._over = threading.Event()

    def __enter__(self) -> Display:
        self._file, self._own_file = _terminal()
        self.console = Console(file=self._file, soft_wrap=True, highlight=False)
        if not self.waiting:
            pass
        elif self.alone and self.console.is_terminal and not tango_logging.FILE_FRIENDLY_LOGGING:
            self._live = Live(
                get_renderable=self._now,
                console=self.console,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        else:
            threading.Thread(target=self._tell, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._live is not None:
            self._live.stop()
        if self._own_file:
            self._file.close()

    def say(self, line: str, style: str = "", level: int = logging.INFO) -> None:
        """One line or several, here and in the run's log."""
        say(line, style, level, self.console)

    def warn(self, line: str) -> None:
        """A warning of a step."""
        self.say(f"! {one_line(line, MAX_WARNING)}", "yellow", logging.WARNING)

    def started(self, name: str) -> None:
        self.running[name] = time.monotonic()
        if self._live is None and name not in self.held:
            self.say(f"\N{BLACK CIRCLE} {name}", "blue")

    def ended(self, name: str, outcome: Outcome) -> None:
        self.running.pop(name, None)
        if outcome.state == "busy":
            since, told = self.held.setdefault(name, (time.monotonic(), ""))
            if told != outcome.note and time.monotonic() - since > WAIT_SECONDS:
                self.held[name] = (since, outcome.note)
                self.say(f"\N{WHITE CIRCLE} {name} waits: {one_line(outcome.note)}", "blue")
            return
        if outcome.state == "lost":
            self.warn(f"{name} is started again: {outcome.note}")
            return
        self.held.pop(name, None)
        self.waiting -= 1
        self.counts[outcome.state] = self.counts.get(outcome.state, 0) + 1
        if outcome.failure is not None:
            self._tell_failure(name, outcome)
        elif outcome.state == "not run":
            self.say(f"- {name} is not run: {outcome.note}", "yellow")
        else:
            self.say(f"\N{CHECK MARK} {name} {_how(outcome)}", "green")

    def _tell_failure(self, name: str, outcome: Outcome) -> None:
        failure = outcome.failure
        assert failure is not None
        after = f" after {duration(outcome.seconds)}" if outcome.seconds >= 1 else ""
        message = excerpt(failure.message, rest="the log" if failure.log else "")
        head = f"\N{BALLOT X} {name} failed{after}: {failure.kind}: {message}"
        self.say(head, "bold red", logging.ERROR)
        lines = [f"  at {one_line(place)}" for place in failure.places]
        if failure.tail:
            lines.append("  the last lines that it printed:")
            lines += [f"  | {shortened(visible(line), MAX_PRINTED)}" for line in failure.tail]
        if outcome.note and outcome.note != failure.message:
            lines.append(f"  {one_line(outcome.note)}")
        if failure.log is not None:
            lines.append(f"  log: {visible(shown(failure.log))}")
        self.say("\n".join([*lines, f"  to go on: {command_line()}"]))

    def _now(self) -> RenderableType:
        """What runs, as it is drawn again and again below the lines."""
        done = sum(n for state, n in self.counts.items() if state in THERE)
        parts = [f"{self.cached + done} done"]
        if failed := self.counts.get("failed", 0):
            parts.append(f"{failed} failed")
        parts.append(f"{len(self.running)} running")
        parts.append(f"{self.waiting - len(self.running)} waiting")
        parts.append(duration(time.monotonic() - self.began))
        rows: list[RenderableType] = [Text(" \N{MIDDLE DOT} ".join(parts), "bold")]
        running = list(self.running.items())
        for name, since in running[:MAX_ROWS]:
            rows.append(self._row(name, since))
        if len(running) > MAX_ROWS:
            rows.append(Text(f"  and {len(running) - MAX_ROWS} more"))
        return Group(*rows)

    def _row(self, name: str, since: float) -> Text:
        row = Text("\N{BLACK CIRCLE} ", "blue", no_wrap=True, overflow="ellipsis")
        row.append(name, "bold").append(f"  {duration(time.monotonic() - since)}")
        state = read_state(progress_of(self.log_of(name)))
        return row.append(f"  {one_line(state)}", "dim") if state else row

    def _tell(self) -> None:
        while not self._over.wait(TELL_SECONDS):
            for name, since in list(self.running.items()):
                state = read_state(progress_of(self.log_of(name)))
                spent = duration(time.monotonic() - since)
                self.say(f"  {name} {spent}" + (f", {one_line(state)}" if state else ""), "dim")


def say(
    line: str, style: str = "", level: int = logging.INFO, console: Console | None = None
) -> None:
    """One line or several on standard output and in the run's log."""
    for each in line.splitlines():
        RUN_LOG.log(level, "%s", each)
    console = console or Console(soft_wrap=True, highlight=False)
    with suppress(OSError):  # a terminal that is gone ends no run
        console.print(Text(line, style), soft_wrap=True)


def _terminal() -> tuple[IO[str], bool]:
    """Standard output as it is now, for us alone: steps have theirs led into their logs."""
    try:
        if sys.stdout.fileno() == 1:
            copy = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="replace")
            return copy, True
    except (OSError, ValueError, AttributeError):
        pass
    return sys.stdout, False


def _how(outcome: Outcome) -> str:
    words = {
        "linked": "linked: an earlier result has the same content of inputs",
        "pulled": "pulled from the shared cache",
        "cached": "there meanwhile: another step or run made it",
    }
    word = words.get(outcome.state, "")
    spent = duration(outcome.seconds)
    return f"{word} ({spent})" if word and outcome.seconds >= 1 else word or spent
