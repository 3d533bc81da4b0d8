"""A number that a device has yet to work out, looked at later without stopping what it does meanwhile.

    loss = Later(tensor)          # at once; the copy takes its turn behind the work that is queued
    ...                           # the next step is queued
    float(loss)                   # waits for that copy only; float(tensor) would wait for everything queued since

On a CPU there is nothing to wait for.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Later:
    """Of a tensor with one element."""

    def __init__(self, value: Tensor):
        self._value, self._copied = value.detach(), None
        if value.is_cuda:
            # Only a copy into page-locked memory leaves the host free.
            self._value = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            self._value.copy_(value.detach(), non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def __float__(self) -> float:
        if self._copied is not None:
            self._copied.synchronize()
        return float(self._value)
