"""How hard is each token: a small network beside the language model, for training only, and what it learns from.

    policy = ImportanceNetwork(embedding_width, width=256, num_layers=2)
    score = policy(network.embedding(ids).detach(), layout)          # [N] in (0, 1), of the clean text
    loss = rank_error(score[seen], difficulty, weight)               # its own loss; nothing flows back into the language model

A score is the predicted rank of a token's cross-entropy among those of the batch, 0 easy and 1 hard. It reads the clean text: a planner that
saw the masked text would learn to find the masks, one that reads the text and decides what is masked must pay for it (adaptive.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffusion_lm.layout import Layout


class ImportanceNetwork(nn.Module):
    """Pre-norm transformer on sinusoidal positions, no dropout (it uses no random numbers). A new one says 1/2 of every token."""

    def __init__(self, embedding_width: int, *, width: int, num_layers: int):
        super().__init__()
        self.width = width
        self.inputs = nn.Linear(embedding_width, width)
        heads = max(1, width // 64)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, embedded: Tensor, layout: Layout) -> Tensor:
        """embedded [N, embedding_width] of the clean ids -> [N] in (0, 1), float32."""
        x = self.inputs(embedded) + sinusoids(layout.position, self.width).to(embedded)
        rows = x.new_zeros(len(layout.lengths) * layout.longest, self.width).index_copy(0, layout.slot, x)
        rows = rows.view(len(layout.lengths), layout.longest, self.width)
        for layer in self.layers:
            rows = layer(rows, src_key_padding_mask=~layout.valid)
        x = rows.reshape(-1, self.width)[layout.slot]
        return torch.sigmoid(self.head(self.norm(x))[:, 0].float())


def sinusoids(position: Tensor, width: int) -> Tensor:
    """[N] -> [N, width], half sines, half cosines (width even)."""
    half = width // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, device=position.device) / half)
    angle = position[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def weighted_rank(value: Tensor, weight: Tensor) -> Tensor:
    """[M] in [0, 1]: the share of the total weight below each value plus half of that at it; float64.

    With weights 1/pi of a sample that holds each token with probability pi this estimates its rank among all of them. Equal values get
    equal ranks: a new network, to which all tokens are alike, teaches nothing.
    """
    ordered, order = value.detach().double().sort()
    below = torch.nn.functional.pad(weight.double()[order].cumsum(0), (1, 0))
    place = value.detach().double()
    first, last = (torch.searchsorted(ordered, place, right=right) for right in (False, True))
    return (below[first] + below[last]) / (2 * below[-1].clamp(min=1e-300))


def rank_error(score: Tensor, difficulty: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean squared error of scores [M] against the ranks of difficulties [M] (no gradient into them); 0 if there is none."""
    target = weighted_rank(difficulty, weight).to(score)
    return (weight * (score - target) ** 2).sum() / weight.sum().clamp(min=1e-30)
