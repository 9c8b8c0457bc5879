"""The same training in small: what a rehearsal makes of a model, its updates and its ranks.

Whatever a run can stumble over stays: ratios, tying, flags, warm-up, checkpoints between start and
end, several ranks, several forward passes an update.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pipeline.model.config import OlmoConfig
from pipeline.train.config import TrainConfig, WarmupStableDecay
from pipeline.train.ranks.launches import Launch

S = TypeVar("S")


@dataclass(frozen=True)
class Small:
    """How small.

    Args:
        batch_size: of an update; even, so that two ranks share it.
        compile: whether a run that compiles its layers does so here.
    """

    num_layers: int = 2
    width: int = 32
    num_heads: int = 2
    sequence_length: int = 256
    batch_size: int = 4
    num_updates: int = 4
    num_ranks: int = 2
    compile: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 2 or self.batch_size % 2:
            raise ValueError(f"batch_size is {self.batch_size}; it must be even")

    def model(self, config: OlmoConfig) -> OlmoConfig:
        """Few narrow layers: the ratios of widths, the flags and the vocabulary stay."""
        heads = min(config.n_heads, self.num_heads)
        width = min(config.d_model, self.width) // (2 * heads) * 2 * heads
        hidden = max(1, round(config.mlp_hidden_size / config.d_model * width / 2)) * 2
        if not width:
            heads, width, hidden = config.n_heads, config.d_model, config.mlp_hidden_size
        return replace(
            config,
            d_model=width,
            n_layers=min(config.n_layers, self.num_layers),
            n_heads=heads,
            mlp_hidden_size=hidden,
            max_sequence_length=min(config.max_sequence_length, self.sequence_length),
        )

    def training(self, config: TrainConfig) -> TrainConfig:
        """A few updates of a few rows, warm-up before the end, a checkpoint in the middle."""
        total = config.schedule.total_steps
        few = min(total, self.num_updates)

        def scaled(steps: int) -> int:
            return max(1, round(steps * few / total)) if steps else 0

        schedule = _scaled_steps(config.schedule, scaled)
        fitting = {"total_steps": few, "warmup_steps": min(schedule.warmup_steps, few - 1)}
        if isinstance(schedule, WarmupStableDecay):
            fitting["decay_steps"] = min(schedule.decay_steps, few - fitting["warmup_steps"])
        schedule = replace(schedule, **fitting)
        stop = None if config.stop_at is None else scaled(config.stop_at)
        last = few if stop is None else stop
        between = config.save_steps < config.last_step
        return replace(
            config,
            schedule=schedule,
            batch_size=self.rows(config.batch_size),
            clip_warmup_steps=scaled(config.clip_warmup_steps),
            stop_at=stop,
            save_steps=max(1, min(max(scaled(config.save_steps), -(-last // 2)), last - between)),
        )

    def launch(self, launch: Launch) -> Launch:
        """At most two ranks of this machine, which still share the model, and two passes where
        there were many; copies of the model stay copies."""
        ranks = min(launch.world_sizes[-1], self.num_ranks)
        microbatch = launch.microbatch
        if microbatch is not None:
            microbatch = min(microbatch, max(1, self.batch_size // ranks // 2))
        return Launch(
            ranks=ranks,
            microbatch=microbatch,
            compile=self.compile and launch.compile,
            threads=launch.threads,
            activation_checkpointing=launch.activation_checkpointing,
            timeout_seconds=launch.timeout_seconds,
            shard_within=None if launch.shard_within is None else 1,
            reshard_after_forward=launch.reshard_after_forward,
            reduce_each_microbatch=launch.reduce_each_microbatch,
        )

    def rows(self, batch_size: int) -> int:
        """The rows of an update, a multiple of two wherever two ranks may share it."""
        return min(batch_size - batch_size % 2 or 1, self.batch_size)


def kept_step(step: int, before: list[TrainConfig], after: list[TrainConfig]) -> int:
    """The saved step of shortened trainings that is nearest to one of the trainings they were."""
    kept = sorted(set.intersection(*(set(each.kept_steps) for each in after)))
    share = step / max(each.last_step for each in before)
    last = max(each.last_step for each in after)
    return min(kept, key=lambda each: abs(each - share * last))


def _scaled_steps(schedule: S, scaled: Any) -> S:
    """Every other field that counts updates, whatever the kind of the schedule."""
    values: dict[str, Any] = {}
    for each in dataclasses.fields(schedule):  # type: ignore[arg-type]
        value = getattr(schedule, each.name)
        if each.name.endswith("_steps") and each.name != "total_steps" and isinstance(value, int):
            values[each.name] = scaled(value)
    # a schedule checks itself: the number of all updates must stay above the scaled ones until then
    return replace(schedule, **values)  # type: ignore[type-var]
