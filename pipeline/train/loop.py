"""The loop: batches and an objective go in, a series of checkpoints comes out.

The batch of an update is a function of its number, so to resume is to know the step: a run that was
killed goes on from its last checkpoint and ends with the same bits on the same machine. A run that
is asked to stop (`pipeline/core/stopping.py`) finishes its update and saves its state aside from
the series, so that no view of it has a checkpoint more or less.
"""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from pipeline.core.artifacts import Checkpoints
from pipeline.core.errors import CorruptShard, DivergedTraining
from pipeline.core.files import StoredFile
from pipeline.core.stopping import Stopped, heeding, stop_requested
from pipeline.model.config import OlmoConfig
from pipeline.store.series import history_line, last_whole_step
from pipeline.train import checkpoint, history
from pipeline.train.config import Launch, TrainConfig, check_launch
from pipeline.train.distributed import Ranks
from pipeline.train.launches import Joining
from pipeline.train.launching import run_ranks
from pipeline.train.objectives import Batch, Objective, num_read
from pipeline.train.optimizer import clip_gradients, gradient_norm, make_optimizer
from pipeline.train.processor import kept_memory, precision_of_products
from pipeline.train.progress import Progress
from pipeline.train.sharding import build_model, reduce_gradients
from pipeline.train.speed import Speed

Plan = tuple[list[int], list[int], int | None]  # steps that are there, missing, and stopped after


class Batches(Protocol):
    """What a rank reads at a step, from 0: arrays by name, a row an item or several."""

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Training:
    """A run of the loop, as it is handed to every rank.

    Args:
        batches: makes the batches, in each rank for itself.
        start: file of the parameters to start from; without it they are drawn from the seed.
    """

    model: OlmoConfig
    objective: Objective
    batches: Callable[[], Batches]
    config: TrainConfig
    launch: Launch
    series: Path
    start: Path | None = None


def train(training: Training, *, tokenizer: str, out: Path) -> Checkpoints:
    """Make the checkpoints that the series lacks, and a view of it up to the last step.

    Args:
        tokenizer: content digest of the tokenizer whose ids the model reads.

    Raises:
        DivergedTraining: a loss or gradient norm is not finite; nothing of that step is kept.
        Stopped: this process was asked to; the next call goes on after the last update made.
    """
    config, launch, series = training.config, training.launch, Path(training.series)
    check_launch(config, launch)
    series.mkdir(parents=True, exist_ok=True)
    if isinstance(launch, Joining):
        led = replace(training, launch=launch.of)
        run_ranks(partial(_train, led, None), launch, series)
    elif (plan := _plan(training))[1]:
        run_ranks(partial(_train, training, None if launch.SPANS else plan), launch, series)
        there, missing, paused = plan
        if paused is not None and paused <= max([*there, *missing]):
            shutil.rmtree(checkpoint.stopped_folder(series), ignore_errors=True)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    shard = history.write_history(series, config.last_step, out)
    return Checkpoints.of(
        out,
        series=series.name,
        model=asdict(training.model),
        tokenizer=tokenizer,
        objective=training.objective.name,
        steps=[checkpoint.as_checkpoint(series, step) for step in config.kept_steps],
        history=StoredFile(shard.path, shard.num_bytes, shard.content, shard.sha256),
    )


def _found(series: Path, config: TrainConfig) -> tuple[list[int], list[int]]:
    """The checkpoints that are there, and those that are to be made.

    A series may hold terabytes: digested are those that training goes on from. Only where nothing
    is to be made, as when one of them was found damaged where it was read, are all.
    """
    last = last_whole_step(series)  # a checkpoint beyond it is made again, with its history
    while True:
        there = [s for s in checkpoint.find_checkpoints(series, thorough=False) if s <= last]
        missing = [step for step in config.kept_steps if step not in there]
        if not missing:
            there = [step for step in checkpoint.find_checkpoints(series) if step <= last]
            missing = [step for step in config.kept_steps if step not in there]
            return there, missing
        begins = {max((s for s in there if s <= step), default=None) for step in missing}
        folders = [checkpoint.folder_of(series, s) for s in begins if s is not None]
        if all([checkpoint.is_whole(each) for each in folders]):
            return there, missing


def _plan(training: Training) -> Plan:
    return *_found(training.series, training.config), checkpoint.find_stopped(training.series)


def _train(training: Training, plan: Plan | None, ranks: Ranks) -> None:
    """The work of a rank.

    Args:
        plan: what is to be made; where it is not given, as ranks that torchrun starts again find
            more than the run began with, the first rank looks.
    """
    there, missing, paused = plan or ranks.agreed(lambda: _plan(training))
    label, last_step = f"train {training.objective.name}", training.config.last_step
    progress = Progress(label, last_step, shown=ranks.rank == 0)
    with progress, heeding(), kept_memory():
        run = Run(training, ranks)
        for step in missing:
            before = max((each for each in there if each <= step), default=None)
            if before is None:
                run.begin()
                run.save(checkpoint.folder_of(training.series, 0))
                there = [*there, 0]
            elif paused is not None and before < paused < step and run.step < paused:
                run.resume(checkpoint.stopped_folder(training.series), paused)
            elif run.step < before:
                run.resume(checkpoint.folder_of(training.series, before), before)
            if run.step < step:
                run.advance(step, progress)
                if run.step < step:
                    run.save(checkpoint.stopped_folder(training.series))
                    raise Stopped(stop_requested() or signal.SIGTERM)
                run.save(checkpoint.folder_of(training.series, step))
                there = [*there, step]


class Run:
    """The state of a run in one rank."""

    def __init__(self, training: Training, ranks: Ranks) -> None:
        self.training, self.ranks = training, ranks
        self.config, self.objective = training.config, training.objective
        self.precision = precision_of_products(training.config.precision, ranks.device)
        self.model = build_model(training.model, ranks, training.launch, self.precision)
        self.optimizer = make_optimizer(self.model, training.config.optimizer)
        self.batches = training.batches()
        self.speed = Speed.of(training.model, ranks)
        self.step, self.num_read, self.num_learned = -1, 0, 0
        self.stopping = False

    def begin(self) -> None:
        """Before the first update."""
        if self.training.start is None:
            self.model.init_weights(self.config.seed)
        else:
            checkpoint.load_weights(self.model, self.training.start)
        self.optimizer.state.clear()
        self.step, self.num_read, self.num_learned = 0, 0, 0

    def resume(self, folder: Path, step: int) -> None:
        """As it was after the update of a checkpoint."""
        self.optimizer.state.clear()
        record = checkpoint.load_checkpoint(self.model, self.optimizer, folder)
        self.step = step
        self.num_read, self.num_learned = record.num_tokens_read, record.num_tokens_learned

    def save(self, folder: Path) -> None:
        checkpoint.save_checkpoint(
            self.model,
            self.optimizer,
            step=self.step,
            num_tokens_read=self.num_read,
            num_tokens_learned=self.num_learned,
            folder=folder,
            ranks=self.ranks,
        )

    def advance(self, last: int, progress: Progress) -> None:
        """Make the updates up to `last`, or fewer when any rank is asked to stop."""
        first, read_before, started = self.step, self.num_read, time.perf_counter()
        progress.begin(first, read_before)
        rows = history.added_rows(self.training.series) if self.ranks.rank == 0 else nullcontext()
        with rows as file:
            for update in range(first + 1, last + 1):
                row = self.update(update)
                self.step, self.num_read = update, int(row["num_tokens_read"])
                self.num_learned = int(row["num_tokens_learned"])
                if file is not None:
                    file.write(history_line(row))
                    file.flush()
                progress.note(update, row["loss"], self.num_read)
                if self.stopping:
                    break
        if self.ranks.rank == 0:
            seconds, read = time.perf_counter() - started, self.num_read - read_before
            history.note_segment(
                self.training.series,
                first_step=first,
                last_step=self.step,
                num_tokens_read=read,
                seconds=round(seconds, 3),
                tokens_per_second=round(read / seconds, 1),
                device=str(self.ranks.device),
                products=self.precision,
                launch=self.training.launch.TYPE,
                world_size=self.ranks.size,
                **asdict(self.training.launch),
            )

    def update(self, update: int) -> dict[str, Any]:
        """One optimizer step; gives its row of the history."""
        started = time.perf_counter()
        config, ranks = self.config, self.ranks
        read = self.batches.at(update - 1, ranks.rank, ranks.size)
        batch = {name: torch.as_tensor(each).to(ranks.device) for name, each in read.items()}
        length = batch["input_ids"].shape[1]
        weight, read_here, learned_here, stops = ranks.summed(
            self.objective.weight(batch),
            num_read(batch),
            self.objective.num_learned(batch),
            float(stop_requested() is not None),
        )
        self.stopping = stops > 0
        if weight == 0:
            raise CorruptShard(f"the batch of step {update}", None, "has no token to be learned")
        total = torch.zeros((), dtype=torch.float64, device=ranks.device)
        parts = list(_parts(batch, self.objective, self.training.launch.microbatch))
        for number, part in enumerate(parts, 1):
            reduce_gradients(self.model, self.training.launch, last=number == len(parts))
            with torch.autocast(
                ranks.device.type, torch.bfloat16, enabled=self.precision == "bf16"
            ):
                loss = self.objective.total(self.model, part)
            scaled = loss * (ranks.size / weight)  # FSDP takes the mean over ranks
            torch.autograd.backward(scaled)
            total += loss.detach()
        known = torch.stack((total, gradient_norm(self.model.parameters()).double()))
        loss_here, norm = known.tolist()  # a card has nothing to do while both are waited for
        mean = ranks.summed(loss_here)[0] / weight
        for name, value in (("loss", mean), ("gradient norm", norm)):
            if not math.isfinite(value):
                raise DivergedTraining(update, f"the {name} is {value}")
        clip_gradients(self.model.parameters(), norm, config.norm_limit(update))
        rate = config.schedule(update)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {
            "step": update,
            "loss": mean,
            "lr": rate,
            "grad_norm": norm,
            "num_tokens_read": self.num_read + int(read_here),
            "num_tokens_learned": self.num_learned + int(learned_here),
            **self.speed.row(read_here, time.perf_counter() - started, length),
        }


def _parts(batch: Batch, objective: Objective, microbatch: int | None) -> Iterator[Batch]:
    """A rank's batch cut into forward passes; the rows of one item stay together."""
    groups = objective.rows_per_item
    num_items = len(batch["input_ids"]) // groups
    size = num_items if microbatch is None else max(1, microbatch // groups)
    if size >= num_items:
        yield batch
        return
    for start in range(0, num_items, size):
        items = torch.arange(start, min(start + size, num_items))
        rows = torch.cat([items + group * num_items for group in range(groups)])
        yield {name: each[rows.to(each.device)] for name, each in batch.items()}
