"""The model on the device of a rank, its parameters sharded over the ranks with FSDP2."""

from __future__ import annotations

import torch
import torch.distributed as dist

from pipeline.model.config import OlmoConfig
from pipeline.model.olmo import Block, Olmo
from pipeline.train.config import Precision
from pipeline.train.ranks.distributed import Ranks
from pipeline.train.ranks.launches import Launch
from pipeline.train.ranks.shared_memory import share_memory


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
        _shard(model, ranks, launch, precision)
    model.to_empty(device=ranks.device)
    return model


def _shard(model: Olmo, ranks: Ranks, launch: Launch, precision: Precision) -> None:
    """Over one dimension of ranks or, with `shard_within`, over two: copies, and parts of each."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    half = torch.bfloat16 if precision == "bf16" else None
    policy = MixedPrecisionPolicy(
        param_dtype=half,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # rotary tables stay float32
    )
    device, parts = ranks.device.type, launch.shard_within or ranks.size
    if parts == ranks.size:
        mesh = init_device_mesh(device, (parts,))
    else:
        shape = (ranks.size // parts, parts)
        mesh = init_device_mesh(device, shape, mesh_dim_names=("copies", "parts"))
    for block in model.blocks:
        fully_shard(
            block,
            mesh=mesh,
            mp_policy=policy,
            reshard_after_forward=launch.reshard_after_forward,
        )
    fully_shard(model, mesh=mesh, mp_policy=policy)
    if device == "cpu" and parts == ranks.size > 1:
        share_memory([*model.blocks, model], ranks)


def reduce_gradients(model: Olmo, launch: Launch, *, last: bool) -> None:
    """Say whether the backward pass to come, `last` of an update or not, averages over the ranks.

    By default each does. With `reduce_each_microbatch` false the last one alone does, and until
    then a rank holds the whole model's gradients, in float32.
    """
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last or launch.reduce_each_microbatch)
