"""Numbers that go to a device and come back without waiting for the work that is queued there.

    ids = sent(ids, device)       # at once; the copy takes its turn
    loss = Later(tensor)          # at once, too
    ...                           # the next step is queued
    float(loss)                   # waits for that copy only; float(tensor) would wait for everything queued since

Between a GPU and other than page-locked memory a copy may wait for all of it. On a CPU there is nothing to wait for.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sent(value: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`; itself if it is there."""
    device = torch.device(device)
    if device.type == "cuda" and value.device.type == "cpu":
        value = value.pin_memory()
    return value.to(device, non_blocking=True)


class Later:
    """Of a tensor with one element."""

    def __init__(self, value: Tensor):
        self._value, self._copied = value.detach(), None
        if value.is_cuda:
            self._value = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            self._value.copy_(value.detach(), non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def __float__(self) -> float:
        if self._copied is not None:
            self._copied.synchronize()
        return float(self._value)
