"""The device of a network, and copies to and from it that do not wait for the work queued there.

    device = usable_device("auto")  # the first GPU if there is one, else the CPU
    ids = to_device(ids, device)  # queues the copy and returns
    loss = AsyncScalar(tensor)    # queues the copy back and returns
    ...                           # queue the next step
    float(loss)                   # waits for that copy alone; float(tensor) would wait for everything queued since

Host memory is page-locked because a copy between a GPU and pageable memory may wait for the whole queue.
"""

from __future__ import annotations

import torch
from torch import Tensor


def usable_device(name: torch.device | str) -> torch.device:
    """The device of that name; "auto": the first GPU if there is one, else the CPU. ValueError if it is unusable."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(name)!r} can not be used here ({str(error).splitlines()[0]})") from None


def to_device(value: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`, copied without waiting; the tensor itself if it is there already."""
    device = torch.device(device)
    if device.type == "cuda" and value.device.type == "cpu":
        value = value.pin_memory()
    return value.to(device, non_blocking=True)


class AsyncScalar:
    """A one-element tensor that is copied to the host without synchronising; `float()` waits for that copy alone."""

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
