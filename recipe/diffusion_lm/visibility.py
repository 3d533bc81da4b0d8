"""What a position of a network may see. A family says it, a network is built from it, and neither knows the other.

    DiT(config, ..., visibility=family.visibility)          # "bidirectional", "causal" or Blocks(4)
    doubled_mask(longest, 4)                                # [2 longest, 2 longest] bool, who attends whom in the doubled input

How each of these is computed is up to the attention of the backbone (backbones/attention.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Blocks:
    """A row is cut into blocks of `size` positions from its start: see `doubled_mask`. The network wants the clean row too."""

    size: int


Visibility = Literal["bidirectional", "causal"] | Blocks


def doubled_mask(longest: int, size: int, device: torch.device | str = "cpu") -> Tensor:
    """[2 n, 2 n] True where query (row) attends key (column); n = longest, noisy half first, then the clean one.

    With block(i) = i // size, a noisy position sees its own noisy block and the clean blocks before it; a clean position sees the clean
    blocks up to and with its own, and nothing noisy (Arriola et al., arXiv 2503.09573, section 3).
    """
    block = torch.arange(longest, device=device) // size
    query, key = block[:, None], block[None, :]
    noisy = torch.cat([query == key, query > key], dim=1)
    clean = torch.cat([torch.zeros_like(query == key), query >= key], dim=1)
    return torch.cat([noisy, clean])
