"""GPUs by the numbers of their data sheets; nothing here imports torch."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One device, which of an MI250X is half of the card.

    Args:
        name: the parts of it that a device's own name must have, in any order.
        peak_flops: dense bf16 matrix products, operations per second.
        memory: bytes as it is sold, thousands to a unit. A driver tells some 4 % more; what it
            keeps for itself and for NCCL is about that.
        watts: thermal design power.
    """

    name: str
    peak_flops: float
    memory: float
    watts: float


# The first whose name is part of a device's counts.
CARDS = (
    Card("H100 PCIe", 756e12, 80e9, 350),
    Card("H100 NVL", 835e12, 94e9, 400),
    Card("H100", 989e12, 80e9, 700),
    Card("H200", 989e12, 141e9, 700),
    Card("GH200", 989e12, 96e9, 1000),
    Card("B200", 2250e12, 180e9, 1000),
    Card("A100 40GB", 312e12, 40e9, 400),
    Card("A100", 312e12, 80e9, 400),
    Card("L40S", 362e12, 48e9, 350),
    Card("MI250X", 191.5e12, 64e9, 280),
    Card("MI300X", 1307e12, 192e9, 750),
)


def find_card(name: str) -> Card | None:
    """The card that a name, of a device or as a person writes it, is of; None for an unknown one.

    `NVIDIA A100-SXM4-40GB` and `a100-40gb` are the same.
    """
    words = set(_words(name))
    return next((each for each in CARDS if words.issuperset(_words(each.name))), None)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.lower())
