"""Elementwise operations in a form that is fast on a CPU; on other devices and under compilation they are torch's own.

    x = dropout(x, 0.1, self.training)
    x = F.pad(x, (0, 0, 0, padding(len(x), x.device)))
    x = add_product(x, y, spread_rows(gate, row, x))        # x + y * gate[row]

Attention on a CPU is in cpu_attention.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 1 << 16  # values of a 16-bit random number; each of torch's 64-bit numbers gives four
MULTIPLE = 256  # positions are padded to a multiple of this


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout: each entry of x is 0 with probability p, else scaled by 1 / (1 - p). On a CPU p is rounded to 1/65536.

    Random numbers come from torch's global generator, as in torch's dropout, which takes eight times as long on a CPU.
    """
    if not training or p == 0 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p, training)
    dropped = min(round(p * LEVELS), LEVELS - 1)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    kept = bits.view(torch.int16)[: x.numel()] >= dropped - LEVELS // 2
    return x * kept.view(x.shape).to(x.dtype).mul_(LEVELS / (LEVELS - dropped))


def padding(count: int, device: torch.device) -> int:
    """Number of padding positions that round a `count` above 256 up to a multiple of 256 on a CPU; else 0.

    oneDNN compiles and keeps a kernel for every new shape, which takes gigabytes in an hour of training without
    padding.
    """
    return -count % MULTIPLE if device.type == "cpu" and count > MULTIPLE else 0


def padded_selection(count: int, select: Tensor | None, ids: Tensor) -> tuple[int, Tensor | None]:
    """Number of requested positions, and their padded indices: layers after the last attention run on these alone.

    The first `count` positions of `ids` are the ones before any context. The indices are None if all positions are
    computed, padding included.
    """
    if select is None and count == len(ids):
        return count, None
    selected = torch.arange(count, device=ids.device) if select is None else select
    return len(selected), F.pad(selected, (0, padding(len(selected), ids.device)))


def spread_rows(values: Tensor, row: Tensor | None, x: Tensor) -> Tensor:
    """Spread `values` [B, d] of rows to positions: [N, d] by `row` [N], or `values` [1, d] unchanged if `row` is None.

    On a CPU the result has the dtype of x, because kernels there convert a full tensor before they mix types.
    """
    values = values.to(x.dtype) if x.device.type == "cpu" else values
    return values if row is None else values.index_select(0, row)


def add_product(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """x + y * z, as a single operation on a CPU."""
    return torch.addcmul(x, y.to(x.dtype), z) if x.device.type == "cpu" else x + y * z
