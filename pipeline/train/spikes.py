"""Losses that stand out: a rule that stops a run, and one that leaves their update out."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median

from pipeline.core.errors import DivergedTraining
from pipeline.store.checkpoints import RecentLosses


@dataclass(frozen=True)
class SpikeRule:
    """A loss is a spike above `spike_factor` times the median of the last `window` losses.

    Losses whose update was left out do not count; before there are `window` others, none is one.
    """

    spike_factor: float = 2.0
    window: int = 100

    def __post_init__(self) -> None:
        if not 1 < self.spike_factor < math.inf:
            raise ValueError(f"spike_factor is {self.spike_factor}; it must be above 1")
        if self.window < 1:
            raise ValueError(f"window is {self.window}; it must be at least 1")


@dataclass(frozen=True)
class SkipRule(SpikeRule):
    """The update of a batch whose loss is a spike, or is not finite, is left out.

    Args:
        max_in_a_row: after so many updates left out, one after the other, the next one stops the
            run: it is not the batch that is at fault.
        from_step: the rule begins after this update; up to it training is the same as without it,
            and its checkpoints are taken over from the series of the same key but for the rule.
    """

    max_in_a_row: int = 10
    from_step: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_in_a_row < 1:
            raise ValueError(f"max_in_a_row is {self.max_in_a_row}; it must be at least 1")
        if self.from_step < 0:
            raise ValueError(f"from_step is {self.from_step}; it must be at least 0")


class Watch:
    """Judges each update by its loss and gradient norm; the same in all ranks, and after a resume.

    Args:
        stop: what stops the run, beside values that are not finite.
        skip: whose updates are left out; then `stop` sees the others.
    """

    def __init__(self, stop: SpikeRule | None, skip: SkipRule | None) -> None:
        self.stop, self.skip = stop, skip
        self.losses: deque[float] = deque(
            maxlen=max(r.window for r in (stop, skip) if r) if stop or skip else 0
        )
        self.in_a_row = 0

    def recent(self) -> RecentLosses | None:
        """What it judges by, to be recalled after a resume; None without a rule."""
        return RecentLosses(list(self.losses), self.in_a_row) if self.stop or self.skip else None

    def recall(self, recent: RecentLosses) -> None:
        """Judge by what another one has seen."""
        self.losses.clear()
        self.losses.extend(recent.losses)
        self.in_a_row = recent.skipped_since

    def leaves_out(self, update: int, loss: float, norm: float) -> bool:
        """Whether the update is left out.

        Raises:
            DivergedTraining: the loss or the norm is not finite, or the loss is a spike.
        """
        fault = _not_finite(loss, norm)
        rule = self.skip if self.skip is not None and update > self.skip.from_step else None
        reason = fault or self._spike(rule, loss)
        skipped = bool(reason) and rule is not None and self.in_a_row < rule.max_in_a_row
        if not skipped:
            if reason and rule is not None:
                fault = f"{reason}, and the {self.in_a_row} updates before it were left out"
            if fault := fault or self._spike(self.stop, loss):
                raise DivergedTraining(update, fault, loss=loss, grad_norm=norm)
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        if not skipped:
            self.losses.append(loss)
        return skipped

    def _spike(self, rule: SpikeRule | None, loss: float) -> str:
        """Why a loss is a spike; "" where it is none."""
        if rule is None or len(self.losses) < rule.window:
            return ""
        usual = median(list(self.losses)[-rule.window :])
        if loss <= rule.spike_factor * usual:
            return ""
        return (
            f"the loss is {loss:.4g}, more than {rule.spike_factor:g} times {usual:.4g}, "
            f"the median of the last {rule.window}"
        )


def _not_finite(loss: float, norm: float) -> str:
    """Which of an update's values is not finite; "" where both are."""
    for name, value in (("loss", loss), ("gradient norm", norm)):
        if not math.isfinite(value):
            return f"the {name} is {value}"
    return ""
