"""Through shared memory ranks have the gradients that gloo gives them."""

import errno
import os
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.distributed as dist

from pipeline.model.config import OlmoConfig
from pipeline.train.ranks import sharding, shared_memory
from pipeline.train.ranks.launches import Launch
from pipeline.train.ranks.launching import run_ranks
from pipeline.train.ranks.shared_memory import NUM_REDUCED, SharedReduce
from pipeline.train.stages.objectives import NextToken
from tests.train.conftest import config

UNEVEN = OlmoConfig(  # no parameter has a whole number of rows for three ranks
    d_model=32, n_layers=3, n_heads=2, mlp_hidden_size=64, vocab_size=128, max_sequence_length=16
)


@dataclass(frozen=True)
class Asked:
    """Notes in `noted` whether ranks shared memory; or has them not do so."""

    noted: list
    refuse: bool

    def __call__(self, units, ranks):
        self.noted.append(not self.refuse and shared_memory.share_memory(units, ranks))
        return self.noted[-1]


def gradients(ranks, launch, refuse):
    """This rank's parts of the gradients of three batches, of two passes each, one by one."""
    noted: list[bool] = []
    sharding.share_memory = Asked(noted, refuse)
    try:
        model = sharding.build_model(UNEVEN, ranks, launch)
    finally:
        sharding.share_memory = shared_memory.share_memory
    assert noted == [not refuse]
    model.init_weights(1)
    made = []
    for batch in range(3):
        drawn = torch.Generator().manual_seed(10 * batch + ranks.rank)
        for _ in range(2):
            ids = torch.randint(UNEVEN.vocab_size, (2, 16), generator=drawn)
            NextToken().total(model, {"input_ids": ids}).backward()
        made += [each.grad.to_local().clone() for each in model.parameters()]
        model.zero_grad()
    return made


def compare(folder, launch, ranks):
    """Note how far apart the two ways are, of the largest gradient."""
    pairs = zip(*(gradients(ranks, launch, refuse) for refuse in (True, False)), strict=True)
    apart = [float((a - b).abs().max() / a.abs().max()) for a, b in pairs if len(a)]
    (folder / f"apart-{ranks.rank}").write_text(str(max(apart)))


@pytest.mark.parametrize(("size", "held"), [(2, False), (2, True), (3, False)])
def test_gradients_are_those_that_gloo_gives(tmp_path, size, held):
    launch = Launch(ranks=size, threads=1, reshard_after_forward=not held)
    run_ranks(partial(compare, tmp_path, launch), launch, tmp_path)
    apart = [float((tmp_path / f"apart-{rank}").read_text()) for rank in range(size)]
    # the mean of two is the same in any order; of three it is rounded
    assert max(apart) <= (0 if size == 2 else 1e-6)


def without_room(work, ranks):
    shared_memory._new_memory = lambda num_bytes: None
    work(ranks)


def in_another_machine(work, ranks):
    if ranks.rank:  # where the first rank's number is that of another process, or of none
        shared_memory.os.readlink = lambda path: "/dev/null"
    work(ranks)


def note_shared(folder, launch, ranks):
    model = sharding.build_model(UNEVEN, ranks, launch)
    model.init_weights(1)
    NextToken().total(model, {"input_ids": torch.zeros(1, 16, dtype=torch.int64)}).backward()
    shared = isinstance(
        model._get_fsdp_state()._fsdp_param_group._reduce_scatter_comm, SharedReduce
    )
    (folder / f"shared-{ranks.rank}").write_text(str(shared))
    ranks.wait()  # gloo is not ended in the middle of what it does


@pytest.mark.parametrize("where", [without_room, in_another_machine])
def test_ranks_that_cannot_share_memory_talk_by_gloo(tmp_path, where):
    launch = Launch(ranks=2, threads=1)
    run_ranks(partial(where, partial(note_shared, tmp_path, launch)), launch, tmp_path)
    assert {each.read_text() for each in tmp_path.glob("shared-*")} == {"False"}


def test_room_is_taken_when_the_memory_is_made_not_when_it_is_filled(tmp_path, monkeypatch):
    process, number, name = shared_memory._new_memory(1 << 20)
    assert process == os.getpid() and "olmo-tango-" in name
    assert os.fstat(number).st_blocks * 512 >= 1 << 20
    os.close(number)
    assert shared_memory._new_memory(1 << 60) is None
    (tmp_path / "memory.max").write_text("1000000\n")
    monkeypatch.setattr(shared_memory, "LIMIT", tmp_path / "memory.max")
    assert shared_memory._new_memory(1 << 20) is None


def test_a_system_without_such_memory_or_room_for_it_is_told_so(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    open_before = set(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        assert shared_memory._new_memory(1) is None
    assert set(os.listdir("/proc/self/fd")) == open_before
    monkeypatch.delattr(os, "memfd_create")
    assert shared_memory._new_memory(1) is None


def test_the_largest_unit_is_reckoned_with_its_padding():
    block, model = torch.nn.Linear(5, 7, bias=False), torch.nn.Module()
    model.block, model.head = block, torch.nn.Linear(3, 10, bias=False)
    assert shared_memory._num_bytes([block, model], 3) == 192  # 9 rows of 5, as 4 x 45 is less
    assert shared_memory._num_bytes([block, model], 1) == 192  # 7 rows of 5: 140, whole 64ths


def test_another_kind_of_reduction_is_refused():
    reduce = SharedReduce([[torch.zeros(64, dtype=torch.uint8)] * 2] * NUM_REDUCED, 0)
    held = reduce.allocate((4,), dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="must be AVG or SUM"):
        reduce(held[:2], held, None, dist.ReduceOp.MAX)


@pytest.mark.slow
def test_training_through_shared_memory_is_bit_for_bit_repeatable(run):
    digests = set()
    for series in ("a", "b"):
        made = run(config(6), Launch(ranks=2, threads=1), series=series * 64, name=series)
        digests.add(made.latest.weights)
    assert len(digests) == 1
