"""torchrun's agent of a machine, as one that notes how its ranks ended and tells why they restart.

torch's own tells of one rank that failed, and of that only when it starts them no more. A rank that
is killed leaves no word itself, and those that lost their connection to it are not the cause.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.launcher import api

from pipeline.train.ranks.failures import Failure, failures_in, first_failure, put_by

logger = logging.getLogger(__name__)


@contextmanager
def telling_agents(folder: Path, timeout_seconds: int) -> Iterator[None]:
    """Within, the agents that torch makes note in a folder how their ranks ended."""

    class Telling(LocalElasticAgent):
        def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
            for worker in worker_group.workers:  # before torch ends the others for the first of all
                _note_end(folder, worker.global_rank, _exit_code(worker.id))
            result: RunResult = super()._monitor_workers(worker_group)
            for rank, each in result.failures.items():
                _note_end(folder, rank, each.exitcode)
            return result

        def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
            failure = None
            with suppress(OSError):
                failure = first_failure(failures_in(folder), 0, timeout_seconds)
            if failure is not None:
                logger.warning("the ranks are started again: %s", failure.told())
            for worker in worker_group.workers:
                with suppress(OSError):
                    put_by(folder, worker.global_rank)
            started: dict[int, Any] = super()._start_workers(worker_group)
            return started

    before = vars(api)["LocalElasticAgent"]
    api.LocalElasticAgent = Telling  # type: ignore[attr-defined]
    try:
        yield
    finally:
        api.LocalElasticAgent = before  # type: ignore[attr-defined]


def _note_end(folder: Path, rank: int, exit_code: int) -> None:
    """Note how a rank's process ended, if it left no word itself and the folder can be written."""
    with suppress(OSError):
        if exit_code and not Failure.path_of(folder, rank).exists():
            Failure.ended(rank, exit_code).write(folder)


def _exit_code(pid: int) -> int:
    """How a child ended whose end nobody has looked at so far; 0 where nothing is known."""
    with suppress(ChildProcessError, AttributeError):  # macOS has it from Python 3.13 on
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if end is not None:
            return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
    return 0
