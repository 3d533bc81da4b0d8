"""Sharded weights (FSDP): how a network is sharded, and how full tensors go in and out.

    shard(network, mesh)                            # in place; each block, and the rest, is gathered when it is used
    gather_full(parameter)                          # the full tensor on the CPU; an unsharded one unchanged
    shard_like(full_tensor, parameter)              # a full tensor placed and sharded as `parameter` is

Other modules call these functions whether or not weights are sharded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from diffusion_lm.backbones.base import Backbone


def shard(network: Backbone, mesh: Any) -> None:
    """Shard the parameters of a network along a one-dimensional device mesh, block by block."""
    from torch.distributed.fsdp import fully_shard

    for block in network.blocks:
        fully_shard(block, mesh=mesh)
    # Kept gathered after the forward pass, because the embedding is used at the start and the head at the end.
    fully_shard(network, mesh=mesh, reshard_after_forward=False)


def gather_full(value: Tensor) -> Tensor:
    """The full tensor of `value`; a collective call if it is sharded."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def shard_like(value: Tensor, own: Tensor) -> Tensor:
    """The full tensor `value` moved to the device of `own` and, if `own` is sharded, sharded in the same way."""
    if isinstance(own, DTensor):
        return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
    return value.to(own.device)


def full_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network with full tensors; a collective call if weights are sharded."""
    return {name: gather_full(value) for name, value in network.state_dict().items()}


def scale_gradients(network: nn.Module, factor: Tensor) -> None:
    """Multiply all gradients in place by `factor` [], which is not copied to the host."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    local = [value.to_local() if isinstance(value, DTensor) else value for value in gradients]
    torch._foreach_mul_(local, factor)
