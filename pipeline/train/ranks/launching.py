"""Starting the ranks of a run: here, in new processes, by torchrun's agents, or as srun's tasks.

However they were started, every rank runs the same work, and its failure ends the run with the
rank's number and traceback. A run that spans machines has a folder that all of them see
(`meeting.py`), where its ranks leave their failures, and other processes may join it with the same
work (`Joining`).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from pipeline.core.engine import end_with_parent
from pipeline.core.errors import PipelineError
from pipeline.core.stopping import (
    Stopped,
    children,
    heeding,
    send,
    stop_requested,
    stopping_signals,
)
from pipeline.store.leases import LostLease
from pipeline.train.ranks.distributed import Ranks
from pipeline.train.ranks.failures import (
    GRACE_SECONDS,
    Failure,
    failures_of,
    first_failure,
    take_put_by,
    wait_for_failures,
)
from pipeline.train.ranks.launches import Joining, Launch, Slurm, SlurmTask, Torchrun
from pipeline.train.ranks.meeting import Attempt, end_other_attempts, meeting
from pipeline.train.ranks.rendezvous import state_as_json
from pipeline.train.ranks.scratch import scratch_folder

Work = Callable[[Ranks], None]
START_SECONDS = 600  # in which all ranks must have started
STOPPED = "stopped"  # a rank leaves a file of this name, with the signal, when it has stopped


def run_ranks(work: Work, launch: Launch, series: Path) -> None:
    """Call `work` in every rank: here if there is one, else in a new process for each.

    Args:
        launch: with `Joining` the ranks are added to a run that another process leads.
        series: a folder that all machines see.

    Raises:
        PipelineError: a rank failed: its number, its error's name and message; `__cause__` has its
            traceback.
        Stopped: this process or a rank was asked to stop, and the work heeded it.
    """
    kind = launch.of if isinstance(launch, Joining) else launch
    if not kind.SPANS:
        end_other_attempts(Path(series))
        return _run_here(work, kind)
    with meeting(Path(series), joins=isinstance(launch, Joining)) as attempt:
        if isinstance(kind, Torchrun):
            with scratch_folder() as here:
                _run_agent(work, kind, attempt, here)
        else:
            assert isinstance(kind, Slurm)
            _run_task(work, kind, attempt)


def _run_here(work: Work, launch: Launch) -> None:
    """Ranks of this machine."""
    threads = _threads(launch)
    if launch.ranks == 1:
        with _threads_of(threads):
            work(Ranks())
        return
    with scratch_folder() as folder:
        level = logging.getLogger(__name__).getEffectiveLevel()
        spawn = multiprocessing.get_context("spawn")
        processes = [
            spawn.Process(target=_local_rank, args=(work, launch, threads, folder, level, rank))
            for rank in range(launch.ranks)
        ]
        try:
            for process in processes:
                process.start()
            _wait_for(processes)
            exit_codes = {rank: each.exitcode for rank, each in enumerate(processes)}
            _tell(launch, folder, launch.ranks, exit_codes)
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()


def _wait_for(processes: Sequence[BaseProcess]) -> None:
    """Until all ranks have ended, or, once one failed, for some seconds.

    A wish that they stop is passed on, and they stop together.
    """
    told, failed = False, None
    with heeding():
        while running := [each for each in processes if each.is_alive()]:
            wait([each.sentinel for each in running], timeout=0.5)
            if stop_requested() and not told:
                told = True
                for process in running:
                    process.terminate()
            if failed is None and any(each.exitcode for each in processes):
                failed = time.monotonic()
            if failed is not None and time.monotonic() - failed > GRACE_SECONDS:
                return


def _tell(launch: Launch, folder: Path, size: int, exit_codes: dict[int, int | None]) -> None:
    """Raises what ended a run before its work was done."""
    if all(code == 0 for code in exit_codes.values()):
        return _require_not_stopped(folder)
    signum = stop_requested()
    if signum is not None and -signal.SIGTERM in exit_codes.values():
        raise Stopped(signum)  # a rank had not begun, so it could not heed
    found = failures_of(exit_codes, folder)
    failure = first_failure(found, size, launch.timeout_seconds)
    raise failure.told() if failure else PipelineError(f"ranks ended with {exit_codes}")


def _require_not_stopped(folder: Path) -> None:
    """Raises Stopped where this process or a rank was asked to stop."""
    path = folder / STOPPED
    if path.exists():
        heard = path.read_text(encoding="utf-8")
        raise Stopped(stop_requested() or int(heard or signal.SIGTERM))


def _threads(launch: Launch) -> int:
    return launch.threads or max(1, _num_cores() // launch.ranks)


@contextmanager
def _threads_of(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _num_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _local_rank(
    work: Work, launch: Launch, threads: int, folder: Path, level: int, rank: int
) -> None:
    end_with_parent()
    _start_log(level)
    torch.set_num_threads(threads)
    ranks = Ranks(rank, launch.ranks, rank)
    address = (folder / "rendezvous").absolute().as_uri()
    with _ending(), _told_once():
        _note_stop(folder, _work(work, ranks, launch, folder, address, alone=True))


@contextmanager
def _ending() -> Iterator[None]:
    """Within, all that a process of ours had to do; it ends here, without Python's own end.

    A thread of gloo's may still hold tensors of a collective that is over. Letting go of them while
    Python ends aborts the process (pytorch/pytorch#179291, which was not merged).
    """
    status = 1
    try:
        yield
        status = 0
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@contextmanager
def _told_once() -> Iterator[None]:
    """Within, an error that is raised on purpose ends a rank's process without a word.

    It was written down, and the process that started the ranks tells of it.
    """
    try:
        yield
    except PipelineError:
        sys.exit(1)


def _note_stop(folder: Path, signum: int | None) -> None:
    if signum is not None:
        (folder / STOPPED).write_text(str(signum), encoding="utf-8")


def _start_log(level: int) -> None:
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")


def _work(
    work: Work, ranks: Ranks, launch: Launch, folder: Path, address: str, *, alone: bool
) -> int | None:
    """Work as one rank of a process group; gives the signal that stopped it, if one did.

    Args:
        folder: where it leaves its failure.
        address: where the ranks meet, a URL of torch's.
        alone: whether all ranks are on this machine.
    """
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(ranks.device)
    elif alone and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # ranks of one machine need no network
    try:
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=_store(address, ranks),
            rank=ranks.rank,
            world_size=ranks.size,
            timeout=timedelta(seconds=launch.timeout_seconds),
        )
        ranks.require_open()  # torchrun starts ranks again that another run has taken over from
        if ranks.rank == 0 and ranks.attempt is not None:
            died_of = take_put_by(folder, ranks.size, launch.timeout_seconds)
            ranks = replace(ranks, attempt=replace(ranks.attempt, died_of=died_of))
        with stopping_signals():
            work(ranks)
        return None
    except Stopped as stop:
        return stop.signum
    except BaseException as error:
        Failure.of(ranks.rank, error).write(folder)
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _store(address: str, ranks: Ranks) -> Any:
    """Where the ranks find each other, once all are there.

    Some start much later than others; that is no reason to let a collective wait so long.
    """
    start = timedelta(seconds=START_SECONDS)
    store, _, _ = next(rendezvous(address, ranks.rank, ranks.size, timeout=start))
    if store.add("olmo-tango/arrived", 1) == ranks.size:
        store.set("olmo-tango/all", "")
    store.wait(["olmo-tango/all"], start)
    return store


def _run_agent(work: Work, launch: Torchrun, attempt: Attempt, here: Path) -> None:
    """Start torchrun's agent of this machine, and wait until the run has ended."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from pipeline.train.ranks.agents import telling_agents

    state_as_json()
    least, most = launch.node_counts
    alone = launch.host in ("localhost", "127.0.0.1", "::1")
    config = LaunchConfig(
        min_nodes=least,
        max_nodes=most,
        nproc_per_node=launch.ranks,
        run_id=f"{launch.id}-{attempt.series.name[:12]}-{attempt.name}",
        rdzv_backend="c10d",
        rdzv_endpoint=launch.rendezvous,
        rdzv_configs={"join_timeout": launch.rendezvous_seconds},
        max_restarts=launch.max_restarts,
        start_method="spawn",
        local_addr=launch.host if alone else None,
        shutdown_timeout=round(GRACE_SECONDS),
        signals_to_handle="SIGQUIT",  # the others are heeded here
        logs_specs=DefaultLogsSpecs(str(here / "logs")),  # else torch leaves a folder of each run
    )
    level = logging.getLogger(__name__).getEffectiveLevel()
    # a store for each attempt: in one that they share, ranks find the addresses of dead ones
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    try:
        with heeding(), _passing_on(), telling_agents(attempt.folder, launch.timeout_seconds):
            elastic_launch(config, _agents_rank)(work, launch, attempt, here, level, alone)
        _require_not_stopped(here)
    except ChildFailedError as error:
        signum, folder = stop_requested(), attempt.folder
        if signum is not None and any(
            each.exitcode == -signal.SIGTERM for each in error.failures.values()
        ):
            raise Stopped(signum) from None  # a rank had not begun, so it could not heed
        found = wait_for_failures(folder, launch.world_sizes[-1])
        failure = first_failure(found, launch.world_sizes[0], launch.timeout_seconds)
        raise (failure.told() if failure else PipelineError(str(error))) from error
    except RendezvousError as error:
        raise PipelineError(
            f"{launch.nodes} agents must meet at {launch.rendezvous}; {type(error).__name__} after "
            f"{launch.rendezvous_seconds} s: {error}"
        ) from error


@contextmanager
def _passing_on() -> Iterator[None]:
    """Within, a wish that this process stops is passed on to its children, to each once."""
    ended, told = threading.Event(), set[int]()

    def look() -> None:
        while not ended.wait(0.5):
            if stop_requested():
                new = [each for each in children() if each not in told]
                told.update(new)
                send(new, signal.SIGTERM)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _agents_rank(
    work: Work,
    launch: Torchrun,
    attempt: Attempt,
    here: Path,
    level: int,
    alone: bool,
) -> None:
    end_with_parent()
    _start_log(level)
    torch.set_num_threads(_threads(launch))
    rank, size, local = (int(os.environ[each]) for each in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    (here / STOPPED).unlink(missing_ok=True)  # of ranks that made way for more
    ranks = Ranks(rank, size, local, attempt)
    with _told_once():
        _note_stop(here, _work(work, ranks, launch, attempt.folder, "env://", alone=alone))


def _run_task(work: Work, launch: Slurm, attempt: Attempt) -> None:
    """Be the rank that srun made of this process."""
    task = SlurmTask.read(launch)
    ranks = Ranks(task.rank, task.size, task.local, attempt)
    address, alone = f"tcp://{task.address}", launch.nodes == 1
    try:
        with _threads_of(_threads(launch)):
            signum = _work(work, ranks, launch, attempt.folder, address, alone=alone)
    except LostLease:
        raise
    except Exception as error:
        found = wait_for_failures(attempt.folder, task.size)
        failure = first_failure(found, task.size, launch.timeout_seconds)
        raise (failure or Failure.of(task.rank, error)).told() from error
    if signum is not None:
        raise Stopped(signum)
