"""How to train and how to run it, as values; nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipeline.core.seeds import seed_fault
from pipeline.tokens.order import MOST_BATCH
from pipeline.train.evaluations import Evaluation, check_evaluations
from pipeline.train.monitors import Monitor
from pipeline.train.ranks.launches import Launch as Launch
from pipeline.train.spikes import SkipRule, SpikeRule

Precision = Literal["fp32", "bf16"]
Lease = Callable[[], AbstractContextManager[Any]]  # held while a series is written to
MOST_CHECKPOINTS = 100_000
WARMUP_START = 0.1  # of the peak: OLMo's warm-up does not begin at nothing


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay on matrices; embeddings are not decayed.

    Source: allenai/OLMo, `configs/official/OLMo-7B.yaml`; eps is fixed in `olmo/optim.py`.
    """

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-5
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}; both must lie in [0, 1)")
        if not (0 < self.eps < math.inf and 0 <= self.weight_decay < math.inf):
            raise ValueError(
                f"eps is {self.eps}, weight_decay is {self.weight_decay}; must be > 0 and >= 0"
            )


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each update: warm-up in a line from a tenth of the peak, then a decay.

    Called with the number of the update, from 1. After `total_steps` it stays at the final rate.

    Args:
        warmup_steps: updates before the peak is reached.
        final_fraction: of the peak, at `total_steps`; OLMo's `alpha_f`.

    Source: allenai/OLMo, `olmo/optim.py`, `LinearWithWarmup` and `CosWithWarmup`.
    """

    peak_lr: float
    warmup_steps: int
    total_steps: int
    final_fraction: float = 0.1

    VERSION: ClassVar[str] = "001"

    def __post_init__(self) -> None:
        if not 0 < self.peak_lr < math.inf:
            raise ValueError(f"peak_lr is {self.peak_lr}; it must be positive")
        if not 0 <= self.warmup_steps < self.total_steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}; it must be at least 0 and below "
                f"total_steps, {self.total_steps}"
            )
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(f"final_fraction is {self.final_fraction}; it must lie in [0, 1]")

    def __call__(self, update: int) -> float:
        """The rate of update number `update`."""
        if update <= self.warmup_steps:
            start = WARMUP_START * self.peak_lr
            return start + (self.peak_lr - start) * update / self.warmup_steps
        final = self.final_fraction * self.peak_lr
        return final + (self.peak_lr - final) * self.left(min(update, self.total_steps))

    def left(self, update: int) -> float:
        """The share of the way from the final rate to the peak that is left, after the warm-up."""
        raise NotImplementedError

    def done(self, update: int, start: int) -> float:
        """The share of the updates from `start` to `total_steps` that are made."""
        return (update - start) / (self.total_steps - start)


@dataclass(frozen=True)
class Linear(Schedule):
    """Linear decay to `final_fraction` of the peak."""

    def left(self, update: int) -> float:
        return 1 - self.done(update, self.warmup_steps)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine down to `final_fraction` of the peak."""

    def left(self, update: int) -> float:
        return (1 + math.cos(math.pi * self.done(update, self.warmup_steps))) / 2


@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """The peak from the warm-up until the last `decay_steps` updates, then a decay.

    Up to there no rate depends on `total_steps`. A `stop_at` in the constant part gives a view of
    the series that the whole run goes on with; one at its end, update `decay_start`, the weights
    that every decay begins with. A decay from an earlier update is another `total_steps`, so
    another schedule and a series of its own.

    Args:
        decay_steps: updates that lead from the peak to the final rate, the last of all.
        decay: in a line, or with one less the root of the share of those that are made.

    Source: Hu et al. 2024, "MiniCPM", section 4 (WSD); Hägele et al. 2024, "Scaling Laws and
        Compute-Optimal Training Beyond Fixed Training Durations", section 3 (1-sqrt).
    """

    decay_steps: int = field(kw_only=True)
    decay: Literal["linear", "1-sqrt"] = "1-sqrt"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.decay_steps <= self.total_steps - self.warmup_steps:
            raise ValueError(
                f"decay_steps is {self.decay_steps}; it must be at least 1 and at most "
                f"{self.total_steps - self.warmup_steps}, the updates after the warm-up"
            )
        if self.decay not in ("linear", "1-sqrt"):
            raise ValueError(f"decay is {self.decay!r}; it must be 'linear' or '1-sqrt'")

    @property
    def decay_start(self) -> int:
        """The last update at the peak."""
        return self.total_steps - self.decay_steps

    def left(self, update: int) -> float:
        if update <= self.decay_start:
            return 1.0
        done = self.done(update, self.decay_start)
        return 1 - (math.sqrt(done) if self.decay == "1-sqrt" else done)


@dataclass(frozen=True)
class TrainConfig:
    """What is trained: all that changes the weights.

    Args:
        batch_size: instances, examples or pairs of one update, over all ranks.
        max_grad_norm: global L2 norm that gradients are scaled down to; null for no clipping.
        clip_warmup_factor: that norm is so many times larger up to update `clip_warmup_steps`.
        stop_at: updates to make; by default the schedule's `total_steps`.
        save_steps: a checkpoint is kept every so many updates, and at the start and the end.
        precision: of matrix products; parameters and optimizer state are always float32. A CPU
            that multiplies float32 faster than bf16 takes float32 for bf16.
        z_loss: weight of the squared logarithm of the softmax's denominator.
        skip: when the update of a batch is left out; null for never.
    """

    batch_size: int
    schedule: Schedule
    optimizer: AdamW = AdamW()
    max_grad_norm: float | None = 1.0
    clip_warmup_steps: int = 0
    clip_warmup_factor: float = 1.0
    stop_at: int | None = None
    save_steps: int = 1000
    seed: int = 0
    precision: Precision = "fp32"
    z_loss: float = 0.0
    skip: SkipRule | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "save_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.batch_size > MOST_BATCH:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at most {MOST_BATCH}")
        if self.clip_warmup_steps < 0 or not 1 <= self.clip_warmup_factor < math.inf:
            raise ValueError(
                f"clip_warmup_steps is {self.clip_warmup_steps}, clip_warmup_factor is "
                f"{self.clip_warmup_factor}; they must be >= 0 and >= 1"
            )
        total = self.schedule.total_steps
        if self.stop_at is not None and not 1 <= self.stop_at <= total:
            raise ValueError(f"stop_at is {self.stop_at}; it must lie in 1 to total_steps, {total}")
        if self.max_grad_norm is not None and not 0 < self.max_grad_norm < math.inf:
            raise ValueError(f"max_grad_norm is {self.max_grad_norm}; it must be positive or null")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision is {self.precision!r}; it must be 'fp32' or 'bf16'")
        if fault := seed_fault(self.seed):
            raise ValueError(f"seed {fault}")
        if not 0 <= self.z_loss < math.inf:
            raise ValueError(f"z_loss is {self.z_loss}; it must be finite and not negative")
        if self.skip is not None and self.skip.from_step >= total:
            raise ValueError(
                f"skip.from_step is {self.skip.from_step}; it must be below total_steps, {total}"
            )
        if self.num_kept > MOST_CHECKPOINTS:
            raise ValueError(
                f"save_steps is {self.save_steps}, which keeps {self.num_kept} checkpoints of "
                f"{self.last_step} updates; at most {MOST_CHECKPOINTS} are kept"
            )

    def norm_limit(self, update: int) -> float | None:
        """The norm that gradients of an update are scaled down to.

        Source: allenai/OLMo, `olmo/train.py`.
        Differs: there an update has the limit of the one before it, so the larger one holds for
            updates 2 to `clip_warmup_steps` + 1; the first has the plain one, and so has the first
            after a resume.
        """
        if self.max_grad_norm is None or update > self.clip_warmup_steps:
            return self.max_grad_norm
        return self.max_grad_norm * self.clip_warmup_factor

    @property
    def last_step(self) -> int:
        """The number of updates."""
        return self.stop_at if self.stop_at is not None else self.schedule.total_steps

    @property
    def told_last_step(self) -> str:
        """The number of updates in the words of the field that gives it."""
        name = "schedule.total_steps" if self.stop_at is None else "stop_at"
        return f"{name} is {self.last_step}"

    @property
    def kept_steps(self) -> list[int]:
        """The updates after which a checkpoint is kept; 0 is the start."""
        return [0, *range(self.save_steps, self.last_step, self.save_steps), self.last_step]

    @property
    def num_kept(self) -> int:
        """The number of checkpoints that are kept."""
        return 2 + (self.last_step - 1) // self.save_steps


@dataclass(frozen=True)
class Upkeep:
    """What is done with a series while it grows; nothing of it is in any key.

    Args:
        retention: so many of the last checkpoints keep their optimizer's state, so that training
            can go on from them (two, should the last be damaged); null for all. Weights stay.
        stop_on: the spike of the loss that stops a run; null for none.
        monitors: are told of every update.
        evaluations: are made every so many updates.
    """

    retention: int | None = 2
    stop_on: SpikeRule | None = None
    monitors: tuple[Monitor, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()

    def __post_init__(self) -> None:
        check_evaluations(self.evaluations)
        if self.retention is not None and self.retention < 1:
            raise ValueError(f"retention is {self.retention}; it must be at least 1, or null")


UPKEEP = Upkeep()


@dataclass(frozen=True)
class Conduct:
    """Where and how a training is made; nothing of it is in any key.

    Args:
        series: folder of the checkpoints, which every view of the training shares.
        out: folder of the view that is made.
        lease: held while the series is written to.
    """

    series: Path
    out: Path
    launch: Launch = Launch()
    upkeep: Upkeep = UPKEEP
    lease: Lease = nullcontext


def check_launch(config: TrainConfig, launch: Launch, path: str = "") -> None:
    """Raises ValueError where the ranks cannot share a batch evenly."""
    for size in launch.world_sizes:
        if config.batch_size % size:
            raise ValueError(
                f"{path}batch_size is {config.batch_size}; it must be a multiple of ranks, {size}"
            )


def require_no_z_loss(config: TrainConfig, path: str = "") -> None:
    """Raises ValueError where a z-loss is asked of a training on preferences, which has none."""
    if config.z_loss:
        raise ValueError(f"{path}z_loss is {config.z_loss}; it must be 0 for preferences")


def check_saved(wanted: Iterable[int], config: TrainConfig, name: str, path: str) -> None:
    """Raises ValueError for a step after which a run keeps no checkpoint.

    Args:
        name: what the trained model is called.
        path: where the wanted steps are written.
    """
    kept = config.kept_steps
    for place, step in enumerate(wanted):
        if step not in kept:
            near = _told(sorted(kept, key=lambda each: (abs(each - step), each))[:6])
            raise ValueError(
                f"{path}[{place}] is {step}, which {name!r} does not save; it must be one of the "
                f"{len(kept)} that it saves, of which {near} are the nearest"
            )


def _told(steps: Sequence[int]) -> str:
    return ", ".join(str(each) for each in sorted(steps))
