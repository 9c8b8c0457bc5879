"""The model on the device of a rank, its parameters sharded over the ranks with FSDP2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from pipeline.model.config import OlmoConfig
from pipeline.model.olmo import Block, Olmo
from pipeline.train.config import Precision
from pipeline.train.ranks.distributed import Ranks
from pipeline.train.ranks.launches import Launch
from pipeline.train.ranks.shared_memory import share_memory

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def build_model(
    config: OlmoConfig, ranks: Ranks, launch: Launch, precision: Precision = "fp32"
) -> Olmo:
    """The model on this rank's device, sharded if it is of a process group; its values are not set.

    Each layer and the rest are a unit of FSDP2; parameters are float32. With precision bf16 they
    are gathered as bf16, and their gradients reduced as float32.
    """
    with torch.device("meta"):
        model = Olmo(config)
    model.compiled = launch.compile
    if launch.compile:
        torch._dynamo.reset()  # else the sizes of a model before this one make these dynamic
    for block in model.blocks:
        assert isinstance(block, Block)
        block.recomputed = launch.activation_checkpointing
        if launch.compile:
            block.compile()
    if dist.is_initialized():
        mesh = _mesh(ranks, launch)
        _shard(model, mesh, launch.reshard_after_forward, precision)
        if ranks.device.type == "cpu" and mesh.ndim == 1 and ranks.size > 1:
            share_memory([*model.blocks, model], ranks)
    model.to_empty(device=ranks.device)
    return model


@torch.no_grad()
def float32_copy(model: Olmo, ranks: Ranks) -> Olmo:
    """The parameters of a model from `build_model` in one of their own, which computes in float32.

    It is sharded as the model is and not compiled. The model's own are not gathered, so it is as
    it was, and a rank holds its shard of them twice.
    """
    with torch.device("meta"):
        copy = Olmo(model.config)
    given = dict(model.named_parameters())
    mesh = getattr(next(iter(given.values())), "device_mesh", None)
    if mesh is not None:
        _shard(copy, mesh, True, "fp32")
    copy.to_empty(device=ranks.device)
    for name, parameter in copy.named_parameters():
        parameter.copy_(given[name])
    return copy


def _mesh(ranks: Ranks, launch: Launch) -> DeviceMesh:
    """One dimension of ranks or, with `shard_within`, two: copies, and parts of each."""
    from torch.distributed.device_mesh import init_device_mesh

    device, parts = ranks.device.type, launch.shard_within or ranks.size
    if parts == ranks.size:
        return init_device_mesh(device, (parts,))
    shape = (ranks.size // parts, parts)
    return init_device_mesh(device, shape, mesh_dim_names=("copies", "parts"))


def _shard(model: Olmo, mesh: DeviceMesh, reshard: bool, precision: Precision) -> None:
    """Each layer and the rest over the ranks of a mesh.

    Args:
        reshard: give back a layer's gathered parameters after its forward pass.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    half = torch.bfloat16 if precision == "bf16" else None
    policy = MixedPrecisionPolicy(
        param_dtype=half,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # rotary tables stay float32
    )
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def reduce_gradients(model: Olmo, launch: Launch, *, last: bool) -> None:
    """Say whether the backward pass to come, `last` of an update or not, averages over the ranks.

    By default each does. With `reduce_each_microbatch` false the last one alone does, and until
    then a rank holds the whole model's gradients, in float32.
    """
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last or launch.reduce_each_microbatch)
