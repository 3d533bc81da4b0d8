"""Elementwise operations in the form that is fast on a CPU. On any other device, and for compilers, each is the plain operation.

    x = dropout(x, 0.1, self.training)
    x = F.pad(x, (0, 0, 0, padding(len(x), x.device)))
    x = add_product(x, y, spread_rows(gate, row, x))        # x + y * gate[row]

Attention on a CPU is in cpu_attention.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 1 << 16  # values of a random number: one of torch's 64-bit numbers gives four
MULTIPLE = 256


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """x with each entry 0 with probability p and 1 / (1 - p) times as large otherwise; on a CPU p is rounded to 1/65536.

    The random numbers come from torch's global generator, as those of torch's own dropout, of which one costs eight times as much on a CPU.
    """
    if not training or p == 0 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p, training)
    dropped = min(round(p * LEVELS), LEVELS - 1)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    kept = bits.view(torch.int16)[: x.numel()] >= dropped - LEVELS // 2
    return x * kept.view(x.shape).to(x.dtype).mul_(LEVELS / (LEVELS - dropped))


def padding(count: int, device: torch.device) -> int:
    """Number of padding positions that round `count` up to a multiple of 256 on a CPU, where `count` is larger than that.

    oneDNN compiles and keeps a kernel for every new shape: gigabytes in an hour of training if counts did not repeat.
    """
    return -count % MULTIPLE if device.type == "cpu" and count > MULTIPLE else 0


def padded_selection(count: int, select: Tensor | None, ids: Tensor) -> tuple[int, Tensor | None]:
    """Number of wanted positions, and their indices with padding: what follows the last attention is computed for these alone.

    `count` of the positions of `ids` are no padding and no context. The indices are None if all positions, padding included, are computed.
    """
    if select is None and count == len(ids):
        return count, None
    chosen = torch.arange(count, device=ids.device) if select is None else select
    return len(chosen), F.pad(chosen, (0, padding(len(chosen), ids.device)))


def spread_rows(values: Tensor, row: Tensor | None, x: Tensor) -> Tensor:
    """Values of rows [B, d] at the positions of x: [N, d] by row [N], or [1, d] as it is for row None.

    On a CPU they come in the type of x: kernels there convert a whole tensor before they mix types.
    """
    values = values.to(x.dtype) if x.device.type == "cpu" else values
    return values if row is None else values.index_select(0, row)


def add_product(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """x + y * z, on a CPU as one operation."""
    return torch.addcmul(x, y.to(x.dtype), z) if x.device.type == "cpu" else x + y * z
