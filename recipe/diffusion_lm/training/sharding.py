"""Weights cut up over several processes (FSDP): how a network is cut, and how whole tensors go in and out.

    shard(network, mesh)                # in place; each block and the rest are gathered when they are used
    whole(parameter)                    # the same tensor in one piece, on the CPU; any other tensor as it is
    like(whole_tensor, parameter)       # a whole tensor cut up and placed as `parameter` is

Other modules go through these functions and do not ask whether weights are cut up.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(network: nn.Module, mesh: Any) -> None:
    """Cut the parameters of a network along a one-dimensional device mesh; its blocks one by one."""
    from torch.distributed.fsdp import fully_shard

    for block in getattr(network, "blocks", ()):
        fully_shard(block, mesh=mesh)
    # Gathered once a step and kept: the embedding is needed at the start, the head at the end.
    fully_shard(network, mesh=mesh, reshard_after_forward=False)


def whole(value: Tensor) -> Tensor:
    """All ranks have to call this together where `value` is cut up."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def like(value: Tensor, own: Tensor) -> Tensor:
    """`value` on the device of `own` and, if that is cut up, cut up in the same way."""
    if isinstance(own, DTensor):
        return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
    return value.to(own.device)


def whole_state(network: nn.Module) -> dict[str, Tensor]:
    """The state of a network in whole tensors, under its own names. All ranks together."""
    return {name: whole(value) for name, value in network.state_dict().items()}


def scale_gradients(network: nn.Module, factor: Tensor) -> None:
    """Multiply all gradients by a number [] that stays on the device."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    local = [value.to_local() if isinstance(value, DTensor) else value for value in gradients]
    torch._foreach_mul_(local, factor)
