"""Sharded weights (FSDP): how a network is sharded, and how full tensors go in and out.

    shard(network, mesh)                            # in place; each block, and the rest, is gathered when it is used
    gather_full(parameter)                          # the full tensor on the CPU; a tensor that is not sharded as it is
    shard_like(full_tensor, parameter)              # a full tensor placed and sharded as `parameter` is

Other modules call these functions and do not ask whether weights are sharded.
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
    # Gathered once a step and kept: the embedding is needed at the start, the head at the end.
    fully_shard(network, mesh=mesh, reshard_after_forward=False)


def gather_full(value: Tensor) -> Tensor:
    """The full tensor. All ranks have to call this together where `value` is sharded."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def shard_like(value: Tensor, own: Tensor) -> Tensor:
    """A full tensor `value` on the device of `own` and, if `own` is sharded, sharded in the same way."""
    if isinstance(own, DTensor):
        return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
    return value.to(own.device)


def full_state(network: nn.Module) -> dict[str, Tensor]:
    """The state of a network in full tensors, under its own names. All ranks have to call this together."""
    return {name: gather_full(value) for name, value in network.state_dict().items()}


def scale_gradients(network: nn.Module, factor: Tensor) -> None:
    """Multiply all gradients by a number [] that stays on the device."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    local = [value.to_local() if isinstance(value, DTensor) else value for value in gradients]
    torch._foreach_mul_(local, factor)
