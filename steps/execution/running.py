"""One attempt at one step in this process: its output kept, its failure put into words.

Every executor comes through here, wherever it runs its steps.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import tango
from tango.step import Step
from tango.workspace import Workspace

from pipeline.core import progress
from pipeline.core.errors import PipelineError, ShardFailed
from pipeline.core.stopping import end_descendants, now
from pipeline.core.terminal import counted
from pipeline.store.leases import LostLease, Occupied
from steps.execution.logs import NUM_TAIL, captured, file_name, num_bytes_in, tail
from steps.execution.scheduling import Failure, Outcome, State

IN_PROCESS = "OLMO_IN_PROCESS"
NO_TERMINAL = (
    f"a step has a process of its own without a terminal; {IN_PROCESS}=1 in the environment has "
    "steps run in that of the run, for a debugger"
)
ENDING_SECONDS = 2.0  # for what a failed step started to end in
NUM_PLACES = 2  # lines of a traceback that a person is shown
NUM_DUMP = 200  # lines of a log that a crash may have written
FULL = (errno.ENOSPC, errno.EDQUOT)
CRASH = "Fatal Python error: "
_FRAME = re.compile(r' *File "(?P<path>.*)", line (?P<line>[0-9]+) in (?P<name>.*)')
CODE = Path(__file__).resolve().parents[2]
MACHINERY = (
    str(CODE / "steps" / "execution" / "running.py"),
    str(CODE / "steps" / "base.py"),
    str(Path(tango.__file__).parent),
)


def in_process() -> bool:
    """Whether the environment asks for steps in the run's own process."""
    return os.environ.get(IN_PROCESS, "") not in ("", "0")


def log_of(run: Path, name: str) -> Path:
    """The log of a step of a run."""
    return run / "logs" / f"{file_name(name)}.log"


def progress_of(log: Path) -> Path:
    """The file in which a running step says how far it is."""
    return log.with_name(f".{log.stem}.progress")


def run_step(
    step: Step[Any], workspace: Workspace, log: Path, say: Callable[[str], None] | None = None
) -> Outcome:
    """Have the result of a step, its inputs being there; never raises what the step raised.

    Args:
        log: where all that the step prints is added.
        say: called with each line of a warning at once.
    """
    if step.cache_results and step in workspace.step_cache:
        return Outcome("cached")
    started, start, moment = time.monotonic(), num_bytes_in(log), now()
    step.patient = False  # type: ignore[attr-defined]
    failure: Failure | None = None
    state: State = "cached"
    note = ""
    try:
        with _stated(progress_of(log)), captured(log, say):
            try:
                step.result(workspace)
                state = cast(State, getattr(step, "made", "ran"))
            except (Occupied, LostLease) as error:
                state, note = "busy", str(error)
            except (Exception, SystemExit) as error:
                state = "failed"
                failure = told(error, tail(log, start), log)
                traceback.print_exc()
                if left := end_descendants(moment, ENDING_SECONDS):
                    note = (
                        f"{counted(left, 'process', 'processes')} that it had started ended with it"
                    )
                    print(note)
    except OSError as error:  # of the log: a disk that is full or read-only
        state = "failed"
        failure = failure or told(error, [], log)
    return Outcome(state, time.monotonic() - started, failure, note)


@contextmanager
def _stated(path: Path) -> Iterator[None]:
    """Within, progress is written to a file, by children of this process too."""
    before = os.environ.get(progress.VARIABLE)
    os.environ[progress.VARIABLE] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ[progress.VARIABLE]
        else:
            os.environ[progress.VARIABLE] = before
        path.unlink(missing_ok=True)


def told(error: BaseException, lines: list[str], log: Path) -> Failure:
    """An error for a person: one that we raised says all itself and has no places in the code."""
    cause = error.__cause__ if isinstance(error, ShardFailed) and error.__cause__ else error
    frames = traceback.extract_tb(cause.__traceback__)
    ours = bool(frames) and Path(frames[-1].filename).is_relative_to(CODE / "pipeline")
    if isinstance(cause, PipelineError) or (isinstance(cause, ValueError) and ours):
        frames = traceback.StackSummary()
    theirs = [each for each in frames if not _says_nothing(each.filename)][-NUM_PLACES:]
    places = [f"{shown(each.filename)}:{each.lineno} {each.line or ''}" for each in theirs]
    message = str(error) or repr(error)
    if isinstance(cause, OSError) and cause.errno in FULL:
        message, places = _no_space(cause, message, log), []
    if type(cause).__name__ in ("BdbQuit", "EOFError") and not in_process():
        message = f"{message}; {NO_TERMINAL}"  # it asked somebody who is not there
    return Failure(type(error).__name__, message, tuple(places), tuple(lines), str(log))


def _no_space(error: OSError, message: str, log: Path) -> str:
    """What to do about a disk that is full."""
    place = Path(error.filename) if isinstance(error.filename, str) else log
    folder = next(each for each in [*place.absolute().parents] if each.is_dir())
    free = shutil.disk_usage(folder).free
    return (
        f"{message}: {free:,} bytes are free on the disk of {shown(folder)}. "
        "What was finished stays; make room (`olmo gc` says what nothing needs) and run again"
    )


def lost(reason: str, seconds: float, log: Path, start: int = 0) -> Outcome:
    """An attempt of which its process told nothing more; a crash may have left places in the log.

    Args:
        start: the size of the log before.
    """
    lines = tail(log, start, NUM_DUMP)
    first = next((n for n, line in enumerate(lines) if line.startswith(CRASH)), None)
    places: list[str] = []
    if first is not None:
        frames = [found for line in lines[first:] if (found := _FRAME.match(line))]
        theirs = [each for each in frames if not _says_nothing(each["path"])][:NUM_PLACES]
        places = [f"{shown(each['path'])}:{each['line']} in {each['name']}" for each in theirs]
        lines = lines[: first + 1]
    failure = Failure(
        "LostWorker", reason, tuple(reversed(places)), tuple(lines[-NUM_TAIL:]), str(log)
    )
    return Outcome("lost", seconds, failure, reason)


def _says_nothing(path: str) -> bool:
    """Whether lines of a file tell nobody about a failure: ours around a step, Python's own."""
    python = path.startswith(os.path.dirname(os.__file__)) and "site-packages" not in path
    return python or path.startswith(MACHINERY)


def shown(path: str | Path | None) -> str:
    """A path as short as it can be written here."""
    if path is None:
        return ""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def command_line() -> str:
    """The command that runs this again, as it can be pasted into a shell."""
    words = list(sys.orig_argv)
    script = words[1] if len(words) > 1 else ""
    if script and shutil.which(Path(script).name) == script:
        words = [Path(script).name, *words[2:]]  # a console script that is on the path
    elif shutil.which(Path(words[0]).name) in (words[0], sys.executable):
        words[0] = Path(words[0]).name
    return shlex.join(words)


def read_state(path: Path) -> str:
    """What a running step last said of its progress."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def as_line(message: dict[str, Any]) -> bytes:
    """A message between processes of ours: a line of JSON."""
    return json.dumps(message).encode() + b"\n"
