"""How fast an update was and what memory it took; none of it is in a result."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass

import torch

from pipeline.model.config import OlmoConfig
from pipeline.train.plan.cards import find_card
from pipeline.train.ranks.distributed import Ranks


def peak_flops(device: torch.device) -> float | None:
    """The bf16 rate of a device by its data sheet; None for a CPU and an unknown card."""
    if device.type != "cuda":
        return None
    card = find_card(torch.cuda.get_device_name(device))
    return card.peak_flops if card else None


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process held so far: of a card allocated, else of RAM resident."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True)
class Speed:
    """Measures a run by the tokens it read and the time that took.

    Model FLOPs utilization (MFU) is tokens per second, times `OlmoConfig.flops_per_token`, over the
    bf16 rate of all devices by their data sheet (`cards.py`), whatever the precision. What is
    computed twice, as with activation checkpointing, counts once.

    Args:
        peak: of one device, in operations per second; None where it is not known.
        ranks: devices.
    """

    model: OlmoConfig
    peak: float | None
    ranks: int

    @classmethod
    def of(cls, model: OlmoConfig, ranks: Ranks) -> Speed:
        return cls(model, peak_flops(ranks.device), ranks.size)

    def mfu(self, tokens_per_second: float, sequence_length: int) -> float | None:
        """Model FLOPs utilization, in [0, 1]; None where the peak is not known."""
        if self.peak is None:
            return None
        used = tokens_per_second * self.model.flops_per_token(sequence_length)
        return used / (self.peak * self.ranks)

    def row(self, num_read: float, seconds: float, sequence_length: int) -> dict[str, float | None]:
        """What the history says of an update beside its results."""
        rate = num_read / seconds
        mfu = self.mfu(rate, sequence_length)
        return {
            "seconds": round(seconds, 4),
            "tokens_per_second": round(rate, 1),
            "mfu": None if mfu is None else round(mfu, 4),
        }
