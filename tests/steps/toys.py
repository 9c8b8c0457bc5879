"""Steps that do next to nothing, for tests of how steps are run."""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tango.step import Step

from pipeline.core.artifacts import Artifact
from pipeline.core.errors import PipelineError
from pipeline.core.progress import Progress
from pipeline.core.stopping import Stopped, heeding, stop_requested
from steps.base import PipelineStep


@dataclass(frozen=True)
class Number(Artifact):
    """A number, which is all of the result."""

    value: int


@Step.register("toy_say")
class ToySay(Step):
    """Somebody else's step, which only says something."""

    CACHEABLE = False

    def run(self, value: Any) -> None:
        print("says", value.value)


@Step.register("toy_stored")
class ToyStored(Step):
    """Somebody else's step with a result of no kind that we store."""

    def run(self, value: int) -> int:
        return value


@Step.register("toy_unstored")
class ToyUnstored(PipelineStep):
    """A step of ours that will not be stored."""

    CACHEABLE = False

    def run(self, value: int) -> Number:
        raise NotImplementedError


@Step.register("toy_sum")
class ToySum(PipelineStep):
    """Add up; before it, do something that steps may do."""

    UNKEYED = PipelineStep.UNKEYED | {"does", "seconds", "note"}

    def run(
        self, inputs: list[Number], value: int, does: str = "", seconds: float = 0.0, note: str = ""
    ) -> Number:
        with Progress("sleeping", 20, "nap") as progress:
            for nap in range(20 if seconds else 0):
                time.sleep(seconds / 20)
                progress.note(nap + 1)
        if note:  # one line for each time that a step ran
            with open(note, "a", encoding="utf-8") as file:
                file.write(f"{self.name}\n")
        getattr(self, does or "nothing")()
        if does == "make_nothing":
            return None  # type: ignore[return-value]
        return Number.of(self.out, value=sum(each.value for each in inputs) + value)

    def nothing(self) -> None:
        pass

    make_nothing = nothing

    def talk(self) -> None:
        print("a print")
        print("an error", file=sys.stderr)
        subprocess.run(["sh", "-c", "echo a child; echo its error >&2"], check=True)
        logging.getLogger("toys").info("an info")
        logging.getLogger("toys").warning("a warning")

    def fail(self) -> None:
        for number in range(12):
            print(f"line {number}")
        raise KeyError("the [key] is missing")

    def refuse(self) -> None:
        raise PipelineError("corpus/00003.jsonl.gz record 918: not JSON (Expecting ',' at 41)")

    def leave(self) -> None:
        sys.exit(7)

    def be_killed_once(self) -> None:
        mark = Path(self.out) / "mark"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        mark.unlink()

    def be_killed(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def crash(self) -> None:
        print("about to crash")
        ctypes.string_at(0)

    def leave_at_once(self) -> None:
        print("about to leave")
        sys.stdout.flush()
        os._exit(0)

    def say_too_much(self) -> None:
        print("red \x1b[31m and \x9b2J and \u202e" + "y" * 5000)
        raise ValueError("\x1b[2J\x9b31m" + "x" * 20000)

    def fail_with_child(self) -> None:
        # one that does not heed, an orphan, and one that holds what this process had open
        held = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 300"], close_fds=False)
        subprocess.run(["sh", "-c", f"sleep 300 & echo {held.pid} $! > {self.out}/children"])
        time.sleep(0.2)
        raise ValueError("with children")

    def be_killed_with_child(self) -> None:
        child = subprocess.Popen(["setsid", "sleep", "8"], close_fds=False)
        (Path(self.out) / "child").write_text(str(child.pid))
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)

    def save_slowly(self) -> None:
        with heeding():
            (Path(self.out) / "begun").touch()
            while not stop_requested():
                time.sleep(0.05)
            time.sleep(1)
            (Path(self.out) / "saved").touch()
            raise Stopped(stop_requested() or 0)

    def stop_here(self) -> None:
        breakpoint()

    def wait_with_child(self) -> None:
        child = subprocess.Popen(["sleep", "60"])
        (Path(self.out) / "child").write_text(str(child.pid))
        time.sleep(60)
