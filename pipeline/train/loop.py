"""The loop: batches and an objective go in, a series of checkpoints comes out.

The batch of an update is a function of its number, so to resume is to know the step: a run that was
killed goes on from its last checkpoint and ends with the same bits on the same machine. A run that
is asked to stop (`pipeline/core/stopping.py`) finishes its update and saves its state aside from
the series, so that no view of it has a checkpoint more or less.
"""

from __future__ import annotations

import math
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch

from pipeline.core.artifacts import Checkpoints
from pipeline.core.energy import EnergyMeter
from pipeline.core.errors import CorruptShard, DivergedTraining
from pipeline.core.files import StoredFile
from pipeline.core.stopping import Stopped, heeding, stop_requested
from pipeline.model.config import OlmoConfig
from pipeline.store.checkpoints import CheckpointRecord, stopped_at, stopped_folder
from pipeline.store.history import forget_read, history_rows, reading_once, sealed_line
from pipeline.train.batches import Batches, CountsSources, NamesDocuments, parts_of
from pipeline.train.config import UPKEEP, Launch, Lease, TrainConfig, Upkeep, check_launch
from pipeline.train.evaluating import Evaluating
from pipeline.train.monitors import Row, listening
from pipeline.train.optimizer import clip_gradients, gradient_norm, make_optimizer, parameter_norm
from pipeline.train.processor import kept_memory, precision_of_products
from pipeline.train.progress import Progress
from pipeline.train.ranks.distributed import Ranks
from pipeline.train.ranks.launches import Joining
from pipeline.train.ranks.launching import run_ranks
from pipeline.train.ranks.sharding import build_model, reduce_gradients
from pipeline.train.series import checkpoint, history, saved
from pipeline.train.series.recent import watch_from
from pipeline.train.series.writing import CheckpointWriter
from pipeline.train.speed import Speed, peak_memory
from pipeline.train.stages.objectives import Objective, num_read


@dataclass(frozen=True)
class Training:
    """A run of the loop, as it is handed to every rank.

    Args:
        batches: makes the batches, in each rank for itself.
        start: checkpoint whose parameters to start from; without it they are drawn from the seed.
    """

    model: OlmoConfig
    objective: Objective
    batches: Callable[[], Batches]
    config: TrainConfig
    launch: Launch
    series: Path
    start: Path | None = None
    upkeep: Upkeep = UPKEEP


@reading_once()
def train(
    training: Training,
    *,
    tokenizer: str,
    out: Path,
    lease: Lease = nullcontext,
) -> Checkpoints:
    """Make the checkpoints that the series lacks, and a view of it up to the last step.

    Args:
        tokenizer: content digest of the tokenizer whose ids the model reads.
        lease: held while the series is written to; what is already saved is viewed without it.

    Raises:
        DivergedTraining: a loss or gradient norm is not finite, or a loss is a spike; of that
            step nothing is kept but a row.
        PipelineError: a checkpoint was not written; those before it stand.
        MissingDependency: the package of a monitor is not installed.
        MismatchedInputs: an evaluation is of another tokenizer than the model.
        Stopped: this process was asked to; the next call goes on after the last update made.
    """
    config, launch, series = training.config, training.launch, Path(training.series)
    check_launch(config, launch)
    series.mkdir(parents=True, exist_ok=True)
    if isinstance(launch, Joining):
        led = replace(training, launch=launch.of)
        run_ranks(partial(_train, led, None), launch, series)
    elif not saved.is_saved(series, config):
        with lease():
            _make_missing(training, tokenizer)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    skips = config.skip is not None
    shard = history.write_history(series, config.last_step, out, with_skips=skips)
    return Checkpoints.of(
        out,
        series=series.name,
        model=asdict(training.model),
        tokenizer=tokenizer,
        objective=training.objective.name,
        steps=[saved.as_checkpoint(series, step) for step in config.kept_steps],
        history=StoredFile(shard.path, shard.num_bytes, shard.content, shard.sha256),
    )


def _make_missing(training: Training, tokenizer: str) -> None:
    series = training.series
    stretches = saved.plan(series, training.config)
    if not stretches:
        return
    for monitor in training.upkeep.monitors:
        monitor.require()
    for evaluation in training.upkeep.evaluations:
        evaluation.require(training.model, tokenizer)
    launch = training.launch
    how = {"launch": launch.TYPE, **asdict(launch)}
    with history.noting_failure(series, stretches[0].start, **how):
        run_ranks(partial(_train, training, None if launch.SPANS else stretches), launch, series)
    saved.drop_stopped(series)


@reading_once()
def _train(training: Training, stretches: list[saved.Stretch] | None, ranks: Ranks) -> None:
    """The work of a rank.

    Args:
        stretches: what is to be made; where it is not given, as ranks that torchrun starts again
            find more than the run began with, the first rank looks.
    """
    if stretches is None:
        told = ranks.agreed(lambda: saved.plan(training.series, training.config))
        stretches = [saved.Stretch(*each) for each in told]
    label, last_step = f"train {training.objective.name}", training.config.last_step
    series, first_rank = training.series, ranks.rank == 0
    timeout = training.launch.timeout_seconds
    with (
        CheckpointWriter(ranks, training.upkeep.retention, timeout) as writer,
        Progress(label, last_step, shown=first_rank) as progress,
        heeding(),
        kept_memory(),
    ):
        run = Run(training, ranks)
        for stretch in stretches:
            writer.wait()
            run.go_to(stretch.start, stretch.folder)
            run.evaluating.go_to(stretch.start, stretch.replay)
            with history.added_rows(series) if first_rank else nullcontext() as rows:
                noted = run.begin_segment(stretch) if first_rank else {}
                try:
                    with run.monitored(first_rank and not stretch.replay) as tell:
                        run.make(stretch.saves, writer, noted, rows, progress, tell)
                except DivergedTraining as error:
                    run.note_energy(noted)
                    if rows is not None:
                        rows.write(history.diverged_line(error, noted))
                        rows.flush()
                        history.end_segment(series, "diverged", error.reason, error.documents)
                    raise
            if first_rank:
                history.end_segment(series, "finished")


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
        self.evaluating = Evaluating(
            training.upkeep.evaluations, training.series, training.config.last_step, ranks
        )
        self.step, self.num_read, self.num_learned, self.num_skipped = 0, 0, 0, 0
        self.stopping = False

    def go_to(self, step: int, folder: str = "") -> None:
        """To what it was after the update of a checkpoint, or before the first one."""
        if not folder:
            if self.training.start is None:
                self.model.init_weights(self.config.seed)
            else:
                checkpoint.load_weights(self.model, self.training.start)
            self.optimizer.state.clear()
            record = CheckpointRecord(0, 0, 0, "", {})
        else:
            record = checkpoint.load_checkpoint(
                self.model, self.optimizer, self.training.series / folder
            )
        self.step, self.num_skipped = step, record.num_skipped
        self.num_read, self.num_learned = record.num_tokens_read, record.num_tokens_learned
        series, first = self.training.series, self.ranks.rank == 0
        rows = history_rows(series) if first and self.step else {}
        by_source = rows.get(self.step, {}).get("tokens_by_source")
        self.by_source = Counter[str](by_source or {})
        self.num_counted = 0 if by_source is None else self.step  # steps that it counts
        rules = self.training.upkeep.stop_on, self.config.skip
        self.watch = watch_from(series, record, *rules, self.ranks)

    def begin_segment(self, stretch: saved.Stretch) -> Row:
        """Note how the updates from here on are run; gives what their rows say of it."""
        self.ranks.require_open()
        attempt, replay = self.ranks.attempt, stretch.replay
        number = history.begin_segment(
            self.training.series,
            self.step,
            replay=replay,
            died_of=attempt.died_of if attempt else "",
            device=str(self.ranks.device),
            products=self.precision,
            launch=self.training.launch.TYPE,
            world_size=self.ranks.size,
            **asdict(self.training.launch),
        )
        return {"segment": number, **({"replay": True} if replay else {})}

    def monitored(self, tells: bool) -> AbstractContextManager[Callable[[Row], None]]:
        """The monitors begun, if this rank tells them rows; gives what does.

        Of updates that are made again they are told only where the series goes on from them.
        """
        training = self.training
        facts = {
            "objective": self.objective.name,
            "model": asdict(training.model),
            "train": asdict(self.config),
        }
        told = training.upkeep.monitors if tells else ()
        return listening(told, training.series, self.step, facts)

    def make(
        self,
        saves: list[int],
        writer: CheckpointWriter,
        noted: Row,
        rows: IO[str] | None,
        progress: Progress,
        tell: Callable[[Row], None],
    ) -> None:
        """Make the updates up to the last of `saves`, and save each; or fewer, if asked to stop.

        Raises:
            Stopped: any rank was asked to; the state is saved aside.
            PipelineError: a checkpoint was not written.
        """
        evaluate = partial(
            self.evaluating.measure,
            self.model,
            segment=noted.get("segment", 0),
            progress=progress,
            tell=tell,
        )
        progress.begin(self.step, self.num_read)
        forget_read()  # what is known of the history so far, which may be long
        self.meter = EnergyMeter(whole_machine=self.ranks.local == 0)
        for step in saves:
            while self.step < step and not self.stopping:
                writer.check()
                self.stopping = evaluate(self.step)
                if self.stopping:
                    break
                row = self.update(self.step + 1) | noted
                if rows is not None:
                    self.ranks.require_open()
                    row |= self.seen()
                    rows.write(sealed_line(row))
                    rows.flush()
                tell(row)
                loss = math.nan if row["loss"] is None else row["loss"]
                progress.note(self.step, loss, self.num_read)
            if self.step == saves[-1]:  # once it is saved, nobody comes back to it
                evaluate(self.step)
            if rows is not None:
                history.sync(rows)  # a checkpoint never lacks its history
            series = self.training.series
            if self.step == step:
                self.save(writer, checkpoint.folder_of(series, step))
            if self.stopping and self.step < saves[-1]:
                if self.step < step and self.is_farthest():
                    self.save(writer, stopped_folder(series))
                writer.wait()
                self.note_energy(noted)
                raise Stopped(stop_requested() or signal.SIGTERM)
            if self.step < saves[-1]:
                self.note_energy(noted)
        writer.wait()
        self.note_energy(noted)

    def is_farthest(self) -> bool:
        """Whether no run that was stopped left the state of a later step, as before a replay."""
        before = self.ranks.agreed(lambda: stopped_at(self.training.series))
        return self.step > int(before)

    def note_energy(self, noted: Row) -> None:
        """Note what all machines took for the segment so far; all ranks call it."""
        spent = self.meter.spent()
        joules, missing = self.ranks.summed(spent.joules, spent.devices_not_measured)
        if self.ranks.rank == 0:
            whole = spent._replace(joules=joules, devices_not_measured=round(missing))
            history.note_energy(self.training.series, noted["segment"], self.step, whole)

    def seen(self) -> dict[str, dict[str, int]]:
        """Tokens of each source that were read up to this step, where batches can say so."""
        if not isinstance(self.batches, CountsSources):
            return {}
        for step in range(self.num_counted, self.step):
            self.by_source += self.batches.tokens_by_source(step)
        self.num_counted = self.step
        return {"tokens_by_source": dict(self.by_source)}

    def save(self, writer: CheckpointWriter, folder: Path) -> None:
        """Begin to write the state as it is now."""
        read, learned, recent = self.num_read, self.num_learned, self.watch.recent()
        record = CheckpointRecord(self.step, read, learned, "", {}, self.num_skipped, recent)
        writer.save(folder, self.model, self.optimizer, record)

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
        z_total = torch.zeros_like(total)
        parts = list(parts_of(batch, self.objective, self.training.launch.microbatch))
        for number, part in enumerate(parts, 1):
            reduce_gradients(self.model, self.training.launch, last=number == len(parts))
            with torch.autocast(
                ranks.device.type, torch.bfloat16, enabled=self.precision == "bf16"
            ):
                loss = self.objective.total(self.model, part, z_total)
            scaled = loss * (ranks.size / weight)  # FSDP takes the mean over ranks
            torch.autograd.backward(scaled)
            total += loss.detach()
        norms = gradient_norm(self.model.parameters()), parameter_norm(self.model.parameters())
        known = torch.stack((total, z_total, *(each.double() for each in norms)))
        loss_here, z_here, norm, param_norm = (
            known.tolist()
        )  # a card has nothing to do while both are waited for
        mean, z_mean = (each / weight for each in ranks.summed(loss_here, z_here))
        skipped = self._is_left_out(update, mean, norm)
        rate = config.schedule(update)
        if not skipped:
            clip_gradients(self.model.parameters(), norm, config.norm_limit(update))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.step, self.num_skipped = update, self.num_skipped + skipped
        self.num_read += int(read_here)
        self.num_learned += int(learned_here)
        return {
            "step": update,
            "loss": history.finite(mean),
            **({"z_loss": history.finite(z_mean)} if config.z_loss else {}),
            "lr": rate,
            "grad_norm": history.finite(norm),
            "param_norm": history.finite(param_norm),  # before the update
            "num_tokens_read": self.num_read,
            "num_tokens_learned": self.num_learned,
            **({"skipped": skipped} if config.skip else {}),
            **self.speed.row(read_here, time.perf_counter() - started, length),
            "peak_memory": peak_memory(ranks.device),
        }

    def _is_left_out(self, update: int, loss: float, norm: float) -> bool:
        """Whether an update is not made; raises DivergedTraining, which names the documents."""
        try:
            return self.watch.leaves_out(update, loss, norm)
        except DivergedTraining as error:
            if not isinstance(self.batches, NamesDocuments):
                raise
            named = [(each.source, each.id) for each in self.batches.documents(update - 1)]
            raise DivergedTraining(update, error.reason, named, loss=loss, grad_norm=norm) from None
