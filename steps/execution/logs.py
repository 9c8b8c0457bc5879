"""What a step prints, kept in a file of its own, whoever prints: its code, its children, a logger.

File descriptors 1 and 2 are the log while the step runs, so nothing passes through us: no output is
lost at a kill, and none can make a step wait.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeGuard

from rich.errors import MarkupError
from rich.text import Text
from tango.common.logging import cli_logger

RUN_LOG = logging.getLogger("olmo.run")  # what a run says: `out.log` has it, and nobody else
RUN_LOG.propagate = False
RUN_LOG.setLevel(logging.INFO)
FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
NUM_TAIL = 10  # lines of its own that a failed step shows
MAX_NAME_BYTES = 150


def file_name(name: str) -> str:
    """The name of a step as that of a file: readable, inside its folder, not too long, unique."""
    quoted = (urllib.parse.quote(each, "", errors="surrogatepass") for each in name)
    plain = [each.isalnum() or each in "-_. " for each in name]
    safe = "".join(a if is_plain else b for a, b, is_plain in zip(name, quoted, plain, strict=True))
    if safe.startswith("."):
        safe = "%2E" + safe[1:]
    if len(safe.encode()) > MAX_NAME_BYTES:
        short = safe.encode()[: MAX_NAME_BYTES - 20].decode(errors="ignore")
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
        safe = f"{short}~{digest[:16]}"
    return safe


class _PlainText(logging.Formatter):
    """Records as lines with a time; markup, which Tango's own messages have, is taken out."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if record.name == cli_logger.name:
            with suppress(MarkupError):
                line = Text.from_markup(line).plain
        return line


if TYPE_CHECKING:
    _Stream = logging.StreamHandler[IO[str]]
else:
    _Stream = logging.StreamHandler  # takes no parameter before Python 3.11


class _ToFile(_Stream):
    """Adds records to a file; a disk that is full stops work where it matters, not here."""

    def __init__(self, file: IO[str]) -> None:
        super().__init__(file)
        self.setFormatter(_PlainText(FORMAT))

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):
            self.stream.close()
        super().close()


def log_file(path: Path) -> logging.Handler:
    """A handler that adds records to a file."""
    return _ToFile(_opened(path))


def _opened(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "a", buffering=1, encoding="utf-8", errors="backslashreplace")


class _Say(logging.Handler):
    """Passes on the first line of what is worth showing at once."""

    def __init__(self, level: int, say: Callable[[str], None]) -> None:
        super().__init__(level)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == RUN_LOG.name:
            return  # what was said already, where nobody keeps the run's log apart
        lines = record.getMessage().strip().splitlines()
        self.say(lines[0] if lines else "")


@contextmanager
def captured(path: Path, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Within, all that this process and its children print or log goes to the file.

    Args:
        say: is called with each logged line of the level that loggers had before, as warnings.
    """
    root = logging.getLogger()
    level = root.getEffectiveLevel()
    file = _opened(path)
    handler = _ToFile(file)
    shown = [] if say is None else [_Say(level, say)]
    before = [(each, each.handlers, each.level) for each in (root, cli_logger)]
    try:
        with _led_to(file):
            root.handlers, cli_logger.handlers = [handler, *shown], [handler]
            root.setLevel(min(level, logging.INFO))
            yield
    finally:
        for each, handlers, its_level in before:
            each.handlers = handlers
            each.setLevel(its_level)
        handler.close()


@contextmanager
def _led_to(file: IO[str]) -> Iterator[None]:
    """Within, standard output and error are the file, here and in new processes.

    The streams stay the same objects, as what a step imports may hold on to them, but where they
    are not what they are called, as in a notebook.
    """
    streams = {1: sys.stdout, 2: sys.stderr}
    kept = [stream for number, stream in streams.items() if _is_of(stream, number)]
    settings = [(each.line_buffering, each.errors) for each in kept]
    for stream in streams.values():
        stream.flush()
    saved = {number: _duplicate(number) for number in streams}
    for number in saved:
        os.dup2(file.fileno(), number)
    for stream in kept:
        stream.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.stdout, sys.stderr = (each if each in kept else file for each in streams.values())
    try:
        yield
    finally:
        for stream, (by_line, errors) in zip(kept, settings, strict=True):
            with suppress(OSError):  # a full disk
                stream.flush()
            stream.reconfigure(line_buffering=by_line, errors=errors)
        sys.stdout, sys.stderr = streams.values()
        for number, copy in saved.items():
            if copy is None:
                os.close(number)
            else:
                os.dup2(copy, number)
                os.close(copy)


def _is_of(stream: object, number: int) -> TypeGuard[io.TextIOWrapper]:
    try:
        return isinstance(stream, io.TextIOWrapper) and stream.fileno() == number
    except (OSError, ValueError):
        return False


def _duplicate(number: int) -> int | None:
    try:
        return os.dup(number)
    except OSError:  # a daemon may have none
        return None


def num_bytes_in(path: Path) -> int:
    """The size of a log; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def tail(path: Path, start: int = 0, count: int = NUM_TAIL) -> list[str]:
    """The last lines that a step printed from byte `start` on; of a progress bar its last state."""
    try:
        with open(path, "rb") as file:
            file.seek(max(start, num_bytes_in(path) - (1 << 16)))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    own = f" {cli_logger.name}: "
    lines = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
    return [_printable(line) for line in lines if line.strip() and own not in line][-count:]


def _printable(line: str) -> str:
    """Without what would move the cursor or change colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|[\x00-\x08\x0b-\x1f\x7f]", "", line)[:300]
