"""FSDP2's gathers and reductions through memory that ranks of one machine share.

Gloo, which ranks on a CPU talk by, sends every parameter and gradient through a socket. Here a rank
copies what is its own into memory that all see, all wait for each other (in gloo: its time limit
holds, and a rank that died is noticed), and each takes what it needs. Sums are taken in the order
of the ranks, so the same launch makes the same bits.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from pipeline.train.ranks.distributed import Ranks

logger = logging.getLogger(__name__)
# A slot is filled anew only after all waited for each other at least once more, when what it held
# was taken. FSDP2 may begin a gather before it took the one before: hence one slot more.
NUM_GATHERED, NUM_REDUCED = 3, 2
ALIGNED = 64  # bytes
LIMIT = Path("/sys/fs/cgroup/memory.max")


def share_memory(units: Sequence[nn.Module], ranks: Ranks) -> bool:
    """Have units of FSDP2 use shared memory, if all ranks see it and it has room; whether they do.

    It takes (3 + 2 R) times the bytes of the largest unit, for R ranks together.

    Args:
        units: all of a model that is divided over all ranks, the one that holds others last.
    """
    num_bytes = _num_bytes(units, ranks.size)
    memory = _shared(num_bytes * (NUM_GATHERED + NUM_REDUCED * ranks.size), ranks)
    if memory is None:
        return False
    slots = [memory[at : at + num_bytes] for at in range(0, len(memory), num_bytes)]
    gather = SharedGather(slots[:NUM_GATHERED])
    reduced = [slots[NUM_GATHERED + slot :: NUM_REDUCED] for slot in range(NUM_REDUCED)]
    reduce = SharedReduce(reduced, ranks.rank)
    for each in units:
        each.set_custom_all_gather(gather)  # type: ignore[operator]
        each.set_custom_reduce_scatter(reduce)  # type: ignore[operator]
    return True


def _num_bytes(units: Sequence[nn.Module], parts: int) -> int:
    """Bytes of the largest unit as float32, each parameter padded to a whole number of rows a part.

    A parameter is of the first unit that holds it.
    """
    seen: set[nn.Parameter] = set()
    largest = 0
    for unit in units:
        own = [each for each in unit.parameters() if each not in seen]
        seen.update(own)
        rows = (-(-each.shape[0] // parts) * parts * each.shape[1:].numel() for each in own)
        largest = max(largest, sum(rows))
    return -(-4 * largest // ALIGNED) * ALIGNED


def _shared(num_bytes: int, ranks: Ranks) -> torch.Tensor | None:
    """So many bytes that all ranks see; None where they cannot, or there is no room."""
    made = ranks.agreed(lambda: _new_memory(num_bytes))
    memory = None
    if made is not None:
        process, number, name = made
        path = f"/proc/{process}/fd/{number}"
        try:
            if os.readlink(path) == name:  # on another machine it is something else, or nothing
                memory = torch.from_file(path, shared=True, size=num_bytes, dtype=torch.uint8)
        except (OSError, RuntimeError):
            pass
    everybody = ranks.summed(float(memory is not None))[0] == ranks.size
    if made is not None and ranks.rank == 0:
        os.close(made[1])
    if not everybody:
        logger.info("ranks share no memory; gloo carries parameters and gradients")
        return None
    return memory


def _new_memory(num_bytes: int) -> tuple[int, int, str] | None:
    """New memory that goes with the processes that hold it: whose it is, its number and its name.

    It has no name in any folder, so that nothing is left of it however the ranks end, and needs no
    `/dev/shm`, which is small in containers. None if there is no room, or the system has no such
    memory, as macOS.
    """
    if not hasattr(os, "memfd_create"):
        return None
    if num_bytes > _machine_bytes() // 2:
        return None  # the system would rather kill processes than refuse it
    unique = f"olmo-tango-{uuid.uuid4().hex}"
    try:
        number = os.memfd_create(unique)
    except OSError:
        return None
    try:
        # taken now, so that it is not lacking in the midst of a step
        os.posix_fallocate(number, 0, num_bytes)
        name = os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        os.close(number)
        return None
    return os.getpid(), number, name


def _machine_bytes() -> int:
    """The memory of the machine, or of the container where it may have less."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(whole, int(LIMIT.read_text(encoding="ascii")))
    except (OSError, ValueError):  # there is none, or it is "max"
        return whole


class SharedGather:
    """`all_gather` of FSDP2: all ranks fill one tensor, each its part.

    Args:
        slots: uint8[num_bytes] each, the same memory in all ranks.
    """

    def __init__(self, slots: Sequence[torch.Tensor]) -> None:
        self.slots, self.num_calls = slots, 0

    def allocate(
        self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        self.num_calls += 1
        return _view(self.slots[self.num_calls % len(self.slots)], size, dtype)

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        async_op: bool = False,
    ) -> None:
        """Wait until all ranks filled their part; `input_tensor` is that of this rank."""
        dist.barrier(group)


class SharedReduce:
    """`reduce_scatter` of FSDP2: a rank fills its own tensor, and sums its part of all of them.

    Args:
        slots: of each slot the memory of every rank, uint8[num_bytes].
    """

    def __init__(self, slots: Sequence[Sequence[torch.Tensor]], rank: int) -> None:
        self.slots, self.rank = slots, rank
        self.num_calls = 0
        self.given: torch.Tensor | None = None  # what is to be filled, until it is reduced

    def allocate(
        self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """The tensor to be filled and then, before it is reduced, one for what comes out."""
        if self.given is not None:
            return torch.empty(*size, dtype=dtype, device=device)
        self.num_calls += 1
        self.given = _view(self._slot[self.rank], size, dtype)
        return self.given

    @property
    def _slot(self) -> Sequence[torch.Tensor]:
        return self.slots[self.num_calls % len(self.slots)]

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> None:
        """Write the mean or the sum of this rank's part of all tensors to `output_tensor`."""
        if op not in (dist.ReduceOp.AVG, dist.ReduceOp.SUM):
            raise ValueError(f"op is {op}; must be AVG or SUM")
        assert self.given is not None and input_tensor.data_ptr() == self.given.data_ptr()
        self.given = None
        dist.barrier(group)
        size, dtype = (input_tensor.numel(),), input_tensor.dtype
        start, length = self.rank * output_tensor.numel(), output_tensor.numel()
        parts = [_view(each, size, dtype).narrow(0, start, length) for each in self._slot]
        torch.add(parts[0], parts[1], out=output_tensor)
        for each in parts[2:]:
            output_tensor += each
        if op == dist.ReduceOp.AVG:
            output_tensor /= len(parts)


def _view(slot: torch.Tensor, size: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    (length,) = size
    return slot[: length * dtype.itemsize].view(dtype)
