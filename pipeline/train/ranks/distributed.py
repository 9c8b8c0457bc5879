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

from pipeline.train.ranks.meeting import Attempt


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    Args:
        local: its number among those of its machine, and of its GPU.
        attempt: of a run that spans machines.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    attempt: Attempt | None = None

    def require_open(self) -> None:
        """Raises PipelineError where another process has begun to train what these ranks do."""
        if self.attempt is not None:
            self.attempt.require_open()

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
        return self.told(make() if self.rank == 0 else None)[0]

    def told(self, said: Any, group: Any = None) -> list[Any]:
        """What each rank says, a value of JSON, by rank, in every rank; nothing is pickled.

        Args:
            group: in which the ranks meet, on the CPU; by default that of the run.
        """
        if self.size == 1:
            return [said]
        device = self.device if group is None else torch.device("cpu")
        text = json.dumps(said).encode()
        lengths = self._gathered(torch.tensor([len(text)], device=device), group)
        filled = bytearray(text.ljust(max(int(each) for each in lengths)))
        mine = torch.frombuffer(filled, dtype=torch.uint8).to(device)
        return [json.loads(bytes(each.tolist())) for each in self._gathered(mine, group)]

    def _gathered(self, mine: torch.Tensor, group: Any) -> list[torch.Tensor]:
        """A tensor of one shape from each rank."""
        held = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(held, mine, group=group)
        return held

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()
