"""A rank among those of a run, what ranks tell each other, and tensors that they hold together."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    Args:
        local: its number among those of its machine, and of its GPU.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def device(self) -> torch.device:
        if torch.cuda.is_available():
            return torch.device("cuda", self.local % torch.cuda.device_count())
        return torch.device("cpu")

    def summed(self, *numbers: float) -> list[float]:
        """The sum of each number over all ranks, in float64."""
        if self.size == 1:
            return list(numbers)
        held = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(held)
        return [float(each) for each in held]

    def added(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of an array over all ranks, in each."""
        if self.size == 1:
            return numbers
        held = torch.from_numpy(numbers).to(self.device)
        dist.all_reduce(held)
        return held.cpu().numpy()

    def agreed(self, make: Callable[[], Any]) -> Any:
        """What the first rank makes, a value of JSON, in every rank."""
        if self.size == 1:
            return make()
        text = json.dumps(make()).encode() if self.rank == 0 else b""
        length = int(self.summed(len(text))[0])
        held = torch.zeros(length, dtype=torch.uint8, device=self.device)
        if self.rank == 0:
            held.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        dist.broadcast(held, 0)
        return json.loads(bytes(held.tolist()))

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()
