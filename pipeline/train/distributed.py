"""The ranks of a run: start them, shard a model with FSDP2, bring their errors back."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline.core.engine import end_with_parent
from pipeline.core.errors import DivergedTraining, PipelineError
from pipeline.core.stopping import (
    Stopped,
    heeding,
    stop_requested,
    stopping_signals,
)
from pipeline.model.config import OlmoConfig
from pipeline.model.olmo import Block, Olmo
from pipeline.train.config import Launch, Precision

STOPPED = "stopped"  # a rank leaves a file of this name where it was asked to stop


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1

    @property
    def device(self) -> torch.device:
        if torch.cuda.is_available():
            return torch.device("cuda", self.rank % torch.cuda.device_count())
        return torch.device("cpu")

    def summed(self, *numbers: float) -> list[float]:
        """The sum of each number over all ranks, in float64."""
        if self.size == 1:
            return list(numbers)
        held = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(held)
        return [float(each) for each in held]

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()


def run_ranks(work: Callable[[Ranks], None], launch: Launch) -> None:
    """Call `work` in every rank: here if there is one, else in a new process for each.

    Raises:
        PipelineError: a rank failed: its error's name and message; `__cause__` has its traceback.
        Stopped: this process or a rank was asked to stop, and the work heeded it.
    """
    threads = launch.threads or max(1, _num_cores() // launch.ranks)
    if launch.ranks == 1:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            work(Ranks())
        finally:
            torch.set_num_threads(before)
        return
    from torch.multiprocessing.spawn import (
        ProcessExitedException,
        ProcessRaisedException,
        start_processes,
    )

    with tempfile.TemporaryDirectory(prefix="olmo-tango-ranks-") as folder:
        level = logging.getLogger(__name__).getEffectiveLevel()
        start = partial(_rank, work, launch, threads, folder, level)
        context = start_processes(  # type: ignore[no-untyped-call]
            start, nprocs=launch.ranks, join=False, start_method="spawn"
        )
        try:
            _wait_for(context, Path(folder))
        except (ProcessRaisedException, ProcessExitedException) as error:
            raise _told(Path(folder), error) from error
        finally:
            for process in context.processes:
                process.kill()


def _wait_for(context: Any, folder: Path) -> None:
    """Until all ranks have ended; a wish that they stop is passed on, and they stop together."""
    told = False
    with heeding():
        while not context.join(timeout=0.5):
            if stop_requested() and not told:
                told = True
                for process in context.processes:
                    process.terminate()
    if (folder / STOPPED).exists():
        raise Stopped(stop_requested() or signal.SIGTERM)


def _num_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _rank(
    work: Callable[[Ranks], None], launch: Launch, threads: int, folder: str, level: int, rank: int
) -> None:
    end_with_parent()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    torch.set_num_threads(threads)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(Ranks(rank, launch.ranks).device)
    elif sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # ranks of one machine need no network
    try:
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            init_method=Path(folder, "rendezvous").absolute().as_uri(),
            rank=rank,
            world_size=launch.ranks,
            timeout=timedelta(seconds=launch.timeout_seconds),
        )
        with stopping_signals():
            work(Ranks(rank, launch.ranks))
        dist.destroy_process_group()
    except Stopped:
        (Path(folder) / STOPPED).touch()
        raise
    except BaseException as error:
        step = error.step if isinstance(error, DivergedTraining) else None
        reason = error.reason if isinstance(error, DivergedTraining) else ""
        record = {
            "kind": type(error).__name__,
            "message": str(error),
            "step": step,
            "reason": reason,
        }
        path = Path(folder, f"error-{rank}.json")
        path.with_suffix(".tmp").write_text(json.dumps(record), encoding="utf-8")
        os.replace(path.with_suffix(".tmp"), path)
        raise


def _told(folder: Path, error: BaseException) -> PipelineError:
    """The error of the rank that failed first, not of those that lost it."""
    from torch.multiprocessing.spawn import ProcessExitedException

    if isinstance(error, ProcessExitedException):
        return PipelineError(f"rank {error.error_index} ended without a word: {error}")
    records = [(p.stat().st_mtime_ns, p) for p in sorted(folder.glob("error-*.json"))]
    if not records:
        return PipelineError(f"a rank ended without a word: {error}")
    path = min(records)[1]
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["kind"] == DivergedTraining.__name__:
        return DivergedTraining(record["step"], record["reason"])
    rank = path.stem.removeprefix("error-")
    return PipelineError(f"rank {rank}: {record['kind']}: {record['message']}")


def build_model(
    config: OlmoConfig, ranks: Ranks, launch: Launch, precision: Precision = "fp32"
) -> Olmo:
    """The model on this rank's device, sharded if it is of a process group; its values are not set.

    Each layer and the rest are a unit of FSDP2; parameters are float32. With precision bf16 they
    are gathered as bf16, and their gradients reduced as float32.
    """
    with torch.device("meta"):
        model = Olmo(config)
    model.compiled = launch.compile
    if launch.compile:
        torch._dynamo.reset()  # else the sizes of a model before this one make these dynamic
    for block in model.blocks:
        assert isinstance(block, Block)
        block.recomputed = launch.activation_checkpointing
        if launch.compile:
            block.compile()
    if dist.is_initialized():
        _shard(model, ranks, precision)
    model.to_empty(device=ranks.device)
    return model


def _shard(model: Olmo, ranks: Ranks, precision: Precision) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    half = torch.bfloat16 if precision == "bf16" else None
    policy = MixedPrecisionPolicy(
        param_dtype=half,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # rotary tables stay float32
    )
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
