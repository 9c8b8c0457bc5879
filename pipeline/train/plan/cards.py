"""GPUs by the numbers of their data sheets; nothing here imports torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

GBPS = 1e9 / 8  # bytes a second


@dataclass(frozen=True)
class Card:
    """One device, which of an MI250X is half of the card.

    Args:
        name: the parts of it that a device's own name must have, in any order.
        peak_flops: dense bf16 matrix products, operations per second.
        memory: bytes as it is sold, thousands to a unit. A driver tells some 4 % more; what it
            keeps for itself and for NCCL is about that.
        watts: thermal design power.
        link: bytes a second, each way, to the other cards of a node: NVLink through a switch, or
            Infinity Fabric (of an MI250X a single link, which some neighbours have), else PCIe, as
            an NVLink bridge joins two to four cards of a node and not all.
        network: bytes a second, each way, out of a node, for each of its cards, in the machine
            that the card is known from; None where machines differ.

    Source: data sheets of NVIDIA and AMD, with half of a bandwidth that is told of both ways. DGX
        A100 has eight adapters of 200 Gb/s; DGX H100, H200 and B200 and nodes of eight MI300X have
        eight of 400; LUMI-G has four of 200 for the eight devices of its MI250X
        (docs.lumi-supercomputer.eu, "GPU nodes - LUMI-G"), Alps one of 200 a GH200.
    """

    name: str
    peak_flops: float
    memory: float
    watts: float
    link: float
    network: float | None = None


CARDS = (
    Card("H100", 989e12, 80e9, 700, 450e9, 400 * GBPS),
    Card("H100 PCIe", 756e12, 80e9, 350, 64e9),
    Card("H100 NVL", 835e12, 94e9, 400, 64e9),
    Card("H200", 989e12, 141e9, 700, 450e9, 400 * GBPS),
    Card("H200 NVL", 835e12, 141e9, 600, 64e9),
    Card("GH200", 989e12, 96e9, 1000, 450e9, 200 * GBPS),
    Card("B200", 2250e12, 180e9, 1000, 900e9, 400 * GBPS),
    Card("A100", 312e12, 80e9, 400, 300e9, 200 * GBPS),
    Card("A100 40GB", 312e12, 40e9, 400, 300e9, 200 * GBPS),
    Card("A100 PCIe", 312e12, 80e9, 300, 32e9),
    Card("A100 PCIe 40GB", 312e12, 40e9, 250, 32e9),
    Card("L40S", 362e12, 48e9, 350, 32e9),
    Card("MI250X", 191.5e12, 64e9, 280, 50e9, 100 * GBPS),
    Card("MI300X", 1307e12, 192e9, 750, 448e9, 400 * GBPS),
)
VARIANTS = {"pcie", "nvl"}  # words of a name that tell another card


def find_card(name: str) -> Card | None:
    """The card that a name, of a device or as a person writes it, is of; None for an unknown one.

    `NVIDIA A100-SXM4-40GB` and `a100-40gb` are the same; `B200 NVL` is none that is known, and not
    a B200.
    """
    words = set(_words(name))
    found = [
        each
        for each in CARDS
        if words.issuperset(own := set(_words(each.name))) and not words & VARIANTS - own
    ]
    return max(found, key=lambda each: len(_words(each.name)), default=None)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.lower())
