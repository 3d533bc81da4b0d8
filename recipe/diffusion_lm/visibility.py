"""Visibility: which positions a position may attend to. A family defines it, and a network is built with it.

    DiT(config, ..., visibility=family.visibility)          # "bidirectional", "causal" or Blocks(4)
    doubled_mask(longest, 4)                                # [2 longest, 2 longest] bool, for the input of blocks

The attention of a network implements it (backbones/attention.py); neither families nor networks import each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Blocks:
    """A row is divided into blocks from its start, and the clean row is a second input: see `doubled_mask`."""

    size: int
    """Positions of a block."""


Visibility = Literal["bidirectional", "causal"] | Blocks


def doubled_mask(longest: int, size: int, device: torch.device | str = "cpu") -> Tensor:
    """[2 n, 2 n] True where a query (row) attends to a key (column); n = `longest`, the noisy half comes first.

    With block(i) = i // size, a noisy position sees the noisy positions of its block and the clean blocks before it; a
    clean position sees the clean blocks up to and including its own (Arriola et al., arXiv 2503.09573, section 3).
    """
    block = torch.arange(longest, device=device) // size
    query, key = block[:, None], block[None, :]
    noisy = torch.cat([query == key, query > key], dim=1)
    clean = torch.cat([torch.zeros_like(query == key), query >= key], dim=1)
    return torch.cat([noisy, clean])
