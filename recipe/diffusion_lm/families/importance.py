"""A small network that predicts how hard each token is, and its loss. It is used in training only.

    policy = ImportanceNetwork(embedding_width, width=256, num_layers=2)
    score = policy(network.embedding(ids).detach(), layout)          # [N] in (0, 1), of the clean text
    loss = rank_error(score[seen], difficulty, weight)               # no gradient reaches the language model

A score is the predicted rank of a token's cross-entropy within the batch, from 0 (easy) to 1 (hard). The network reads
the clean text, because on masked text it would only learn to find the masks. If its scores decide what is masked, the
bound needs a penalty (adaptive.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffusion_lm.layout import Layout


class ImportanceNetwork(nn.Module):
    """Pre-norm transformer with sinusoidal positions and without dropout, so it needs no random numbers.

    A new one predicts 1/2 for every token.
    """

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
        """Scores [N] in (0, 1), float32, from embeddings [N, embedding_width] of the clean ids."""
        x = self.inputs(embedded) + sinusoids(layout.position, self.width).to(embedded)
        rows = x.new_zeros(len(layout.lengths) * layout.longest, self.width).index_copy(0, layout.slot, x)
        rows = rows.view(len(layout.lengths), layout.longest, self.width)
        for layer in self.layers:
            rows = layer(rows, src_key_padding_mask=~layout.valid)
        x = rows.reshape(-1, self.width)[layout.slot]
        return torch.sigmoid(self.head(self.norm(x))[:, 0].float())


def sinusoids(position: Tensor, width: int) -> Tensor:
    """Positions [N] -> [N, width], the first half sines and the second half cosines; width is even."""
    half = width // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, device=position.device) / half)
    angle = position[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def weighted_rank(value: Tensor, weight: Tensor) -> Tensor:
    """[M] ranks in [0, 1], float64: the share of the total weight below each value, plus half of the share at that
    value.

    If each token was sampled with probability pi and has weight 1/pi, this estimates its rank among all tokens. Equal
    values get equal ranks, so that a new network, for which all tokens are equally hard, gives no training signal.
    """
    ordered, order = value.detach().double().sort()
    below = torch.nn.functional.pad(weight.double()[order].cumsum(0), (1, 0))
    unsorted = value.detach().double()
    first, last = (torch.searchsorted(ordered, unsorted, right=right) for right in (False, True))
    return (below[first] + below[last]) / (2 * below[-1].clamp(min=1e-300))


def rank_error(score: Tensor, difficulty: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean squared error of scores [M] against the ranks of difficulties [M], which get no gradient; 0 for M =
    0.
    """
    target = weighted_rank(difficulty, weight).to(score)
    return (weight * (score - target) ** 2).sum() / weight.sum().clamp(min=1e-30)
