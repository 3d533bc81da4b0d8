"""A second network in thirty lines: the mean of what a position sees, between an embedding and a linear head.

NETWORKS.add("toy", TOY)            # and `model.network=toy model.width=8`
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_lm.backbones import NETWORKS, Backbone, Network, NetworkConfig
from diffusion_lm.layout import Layout
from diffusion_lm.visibility import Blocks, Visibility, doubled_mask


@dataclass(frozen=True)
class ToyConfig(NetworkConfig):
    """Its size."""

    network: str = "toy"
    width: int = 16


class ToyNetwork(Backbone):
    """One layer without attention; the noise level is not looked at."""

    def __init__(self, config: ToyConfig, *, num_inputs: int, num_outputs: int, visibility: Visibility):
        super().__init__(config, num_inputs=num_inputs, num_outputs=num_outputs, visibility=visibility)
        self.embedding = nn.Embedding(num_inputs, config.width)
        self.blocks = nn.ModuleList([nn.Linear(2 * config.width, config.width)])
        self.head = nn.Linear(config.width, num_outputs)

    def forward(
        self,
        ids: Tensor,
        layout: Layout,
        sigma: Tensor | None = None,
        select: Tensor | None = None,
        context: Tensor | None = None,
        blend: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        count = len(ids)
        x = self.embedding(ids if context is None else torch.cat([ids, context]))  # [N or 2 N, d]
        if blend is not None:
            positions, weights = blend
            x = x.index_copy(0, positions, weights.to(x.dtype) @ self.embedding.weight[: weights.shape[1]])
        where = layout.position.float()[:, None] / 10  # [N, 1]
        x = x + torch.cat([where] * (len(x) // count)).cos()
        seen = visible(layout, self.visibility).to(x.dtype)  # [N or 2 N, N or 2 N]
        mean = seen @ x / seen.sum(1, keepdim=True)
        x = x + F.gelu(self.blocks[0](torch.cat([x, mean], dim=1)))
        return self.head(x[:count] if select is None else x[:count][select])


def visible(layout: Layout, visibility: Visibility) -> Tensor:
    """[N, N] bool, for blocks [2 N, 2 N]: which position (row) sees which (column)."""
    row, position = layout.row, layout.position
    if isinstance(visibility, Blocks):
        row, position = row.repeat(2), torch.cat([position, position + layout.longest])
        rule = doubled_mask(layout.longest, visibility.size)[position][:, position]
    elif visibility == "causal":
        rule = position[None, :] <= position[:, None]
    else:
        rule = torch.ones(len(row), len(row), dtype=torch.bool)
    return rule & (row[:, None] == row[None, :])


TOY = Network(ToyConfig, ToyNetwork)


@contextmanager
def registered() -> Iterator[None]:
    """The toy network is known as "toy" as long as this is open."""
    NETWORKS.add("toy", TOY)
    try:
        yield
    finally:
        NETWORKS.remove("toy")
