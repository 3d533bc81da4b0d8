"""Dropout whose random numbers cost little on a CPU, where one of torch's takes eight times as long as one of these.

    x = dropout(x, 0.1, self.training)

On any other device, and in a compiled network, it is torch's own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 1 << 16  # of the random numbers: four to one of torch's 64-bit numbers


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """x with each entry 0 with probability p and 1 / (1 - p) times as large otherwise, p rounded to 1/65536 on a CPU.

    From torch's global generator, as torch's own.
    """
    if not training or p == 0 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p, training)
    dropped = min(round(p * LEVELS), LEVELS - 1)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    kept = bits.view(torch.int16)[: x.numel()] >= dropped - LEVELS // 2
    return x * kept.view(x.shape).to(x.dtype).mul_(LEVELS / (LEVELS - dropped))
