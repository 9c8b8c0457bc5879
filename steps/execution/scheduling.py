"""Which step starts next. Knows nothing of processes, so that every executor can use it.

An executor gives a `Runner`: two calls by which steps are started and heard of again. The protocol:

- `submit(name)` starts a step and returns at once. It is called only when everything that the step
  reads is there, at most `slots` steps run, and the demands of all that run are within `capacity`.
- `finished(timeout)` gives the steps that ended since the last call, each with its `Outcome`, as
  soon as there is one, or nothing after `timeout` seconds (None waits as long as it takes).
- An outcome of state "busy" says that somebody else holds the lease of the step: it is tried again
  a little later, and others go first. "lost" says that whoever worked on it is gone (a killed
  worker, a lost node): it is started again, `retries` times. Every other state is final.
- An exception from either call ends `Scheduler.run` at once; the executor ends what still runs.

Of the steps that could start, the one with the longest way to the end of the graph goes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

State = Literal["cached", "linked", "pulled", "ran", "failed", "not run", "busy", "lost"]
THERE = ("cached", "linked", "pulled", "ran")
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds before a busy step is tried again


@dataclass(frozen=True)
class Demand:
    """What a step takes of a machine or cluster, or what that has; memory in bytes."""

    cpus: float = 0.0
    memory: float = 0.0
    gpus: float = 0.0

    def __add__(self, other: Demand) -> Demand:
        return Demand(self.cpus + other.cpus, self.memory + other.memory, self.gpus + other.gpus)

    def within(self, other: Demand) -> bool:
        return self.cpus <= other.cpus and self.memory <= other.memory and self.gpus <= other.gpus

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs, {self.memory:g} bytes of memory and {self.gpus:g} GPUs"


UNLIMITED = Demand(float("inf"), float("inf"), float("inf"))


@dataclass(frozen=True)
class Failure:
    """Why a step failed, as texts, so that it can come from another process.

    Args:
        places: where it was raised, innermost last; empty for errors that say so themselves.
        tail: the last lines that the step itself printed.
        log: the file of everything that it printed.
    """

    kind: str
    message: str
    places: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()
    log: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a step ended; `note` says more (who holds the lease, which worker died)."""

    state: State
    seconds: float = 0.0
    failure: Failure | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """As values that JSON has, to be sent from where the step ran."""
        return asdict(self)

    @classmethod
    def from_json(cls, form: dict[str, Any]) -> Outcome:
        """The outcome that `to_json` gave."""
        failure = form["failure"]
        if failure is not None:
            lines = {name: tuple(failure[name]) for name in ("places", "tail")}
            failure = Failure(**{**failure, **lines})
        return cls(**{**form, "failure": failure})

    @property
    def there(self) -> bool:
        """Whether the result stands, so that what reads it can start."""
        return self.state in THERE


class Runner(Protocol):
    """How an executor starts steps and hears of their ends; see the top of this file."""

    def submit(self, name: str) -> None: ...

    def finished(self, timeout: float | None) -> Sequence[tuple[str, Outcome]]: ...


class Watcher(Protocol):
    """Who is told of every start and of every end, those of busy and lost attempts too."""

    def started(self, name: str) -> None: ...

    def ended(self, name: str, outcome: Outcome) -> None: ...


class Unwatched:
    """The watcher that tells nobody."""

    def started(self, name: str) -> None:
        pass

    def ended(self, name: str, outcome: Outcome) -> None:
        pass


class Scheduler:
    """Runs a graph of steps through a runner.

    Args:
        reads: step -> the steps that it reads, in an order in which each follows those it reads.
        known: outcomes that are known before, as of steps whose results are there; not submitted.
        demands: step -> what it takes; nothing where it is not named.
        seconds: step -> how long it may take, to find the longest way; 1 where it is not named.
    """

    def __init__(
        self,
        reads: Mapping[str, Sequence[str]],
        runner: Runner,
        *,
        slots: int = 1,
        known: Mapping[str, Outcome] | None = None,
        demands: Mapping[str, Demand] | None = None,
        capacity: Demand = UNLIMITED,
        seconds: Mapping[str, float] | None = None,
        retries: int = 1,
        watcher: Watcher | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reads, self.runner, self.slots = reads, runner, slots
        self.outcomes: dict[str, Outcome] = dict(known or {})
        self.demands, self.capacity, self.retries = demands or {}, capacity, retries
        self.watcher = watcher or Unwatched()
        self._sleep, self._clock = sleep, clock
        self._readers: dict[str, list[str]] = {name: [] for name in reads}
        for name, read in reads.items():
            for each in dict.fromkeys(read):
                self._readers[each].append(name)
        self._way = _ways(self._readers, seconds or {})
        self._place = {name: place for place, name in enumerate(reads)}
        self._missing: dict[str, int] = {}
        self._ready: list[str] = []
        self._running: list[str] = []
        self._due: dict[str, float] = {}  # busy steps: when to try again
        self._attempts: dict[str, int] = {}
        self._losses: dict[str, int] = {}

    def run(self) -> dict[str, Outcome]:
        """Run every step that can run; gives the outcome of each, in the order of the graph."""
        for name, read in self.reads.items():
            if name not in self.outcomes:
                needed = dict.fromkeys(read)
                self._missing[name] = sum(1 for each in needed if not self._there(each))
        self._ready = [name for name in self.reads if self._missing.get(name) == 0]
        for name, outcome in list(self.outcomes.items()):
            if not outcome.there:
                self._give_up_readers(name)
        self._sort()
        while self._ready or self._running or self._due:
            self._start()
            if self._running:
                for name, outcome in self.runner.finished(self._pause()):
                    self._end(name, outcome)
            elif self._due:
                self._sleep(self._pause() or 0.0)
        return {name: self.outcomes[name] for name in self.reads}

    def _there(self, name: str) -> bool:
        outcome = self.outcomes.get(name)
        return outcome is not None and outcome.there

    def _sort(self) -> None:
        self._ready.sort(key=lambda name: (-self._way[name], self._place[name]))

    def _pause(self) -> float | None:
        if not self._due:
            return None
        return max(0.0, min(self._due.values()) - self._clock())

    def _start(self) -> None:
        now = self._clock()
        for name in [name for name, due in self._due.items() if due <= now]:
            del self._due[name]
            self._ready.append(name)
        for name in list(self._ready):
            if len(self._running) >= self.slots:
                return
            alone = self._demand(name)
            if not alone.within(self.capacity):
                self._ready.remove(name)
                message = f"step_resources are {alone}; there are {self.capacity}"
                self._end(name, Outcome("failed", failure=Failure("ValueError", message)))
                continue
            if not sum(map(self._demand, self._running), alone).within(self.capacity):
                continue
            self._ready.remove(name)
            self._running.append(name)
            self.watcher.started(name)
            self.runner.submit(name)

    def _demand(self, name: str) -> Demand:
        return self.demands.get(name, Demand())

    def _end(self, name: str, outcome: Outcome) -> None:
        if name in self._running:
            self._running.remove(name)
        if outcome.state == "lost":
            self._losses[name] = self._losses.get(name, 0) + 1
            if self._losses[name] > self.retries:
                failure = Failure("LostWorker", outcome.note)
                outcome = replace(outcome, state="failed", failure=outcome.failure or failure)
        self.watcher.ended(name, outcome)
        if outcome.state == "busy":
            attempts = self._attempts[name] = self._attempts.get(name, 0) + 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 1.5 ** min(attempts - 1, 30))
            self._due[name] = self._clock() + pause
            return
        if outcome.state == "lost":
            self._ready.append(name)
            self._sort()
            return
        self.outcomes[name] = outcome
        if not outcome.there:
            self._give_up_readers(name)
            return
        for reader in self._readers[name]:
            if reader in self._missing and reader not in self.outcomes:
                self._missing[reader] -= 1
                if self._missing[reader] == 0:
                    self._ready.append(reader)
        self._sort()

    def _give_up_readers(self, name: str) -> None:
        left = list(self._readers[name])
        while left:
            reader = left.pop(0)
            if reader not in self.outcomes:
                self.outcomes[reader] = Outcome("not run", note=f"{name} failed")
                self.watcher.ended(reader, self.outcomes[reader])
                left += self._readers[reader]


def _ways(readers: Mapping[str, Sequence[str]], seconds: Mapping[str, float]) -> dict[str, float]:
    """How long it takes from the start of each step to the end of the graph, at best."""
    ways: dict[str, float] = {}
    for name in reversed(list(readers)):
        below = max((ways[each] for each in readers[name]), default=0.0)
        ways[name] = seconds.get(name, 1.0) + below
    return ways
