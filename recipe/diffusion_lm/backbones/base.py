"""The interface of a network: the type that families, samplers and training work with.

    class MyNetwork(Backbone): ...                              # forward, embedding, blocks
    NETWORKS.add("mine", Network(MyConfig, MyNetwork))          # backbones/__init__.py; for `model.network: mine`

A network receives a visibility and the numbers of input and output symbols, never the name of a family.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from diffusion_lm.backbones.attention import KeyValueCache
from diffusion_lm.layout import Layout
from diffusion_lm.visibility import Visibility
from returnn_bridge.files import JsonObject

DEFAULT = "dit"
MOST_BLOCKS, MOST_WIDTH = 1000, 65536
"""Limits of every network: a size that a damaged file or a typing error asks for is refused before it is built."""


@dataclass(frozen=True)
class NetworkConfig:
    """The size of a network: the section `model` of a configuration.

    Subclasses add fields of simple types with defaults. For impossible values their `__post_init__` raises a ValueError
    that names the key (`model.hidden_size`).
    """

    network: str = field(default="", kw_only=True)
    """Name of the network in `NETWORKS`; a subclass sets it as the default of this field."""

    @property
    def min_tensors(self) -> int:
        """A lower bound on the number of weight tensors; loading refuses an absurd size by it before building."""
        return 0

    @property
    def head_width(self) -> int | None:
        """Width of an attention head; None for a network without attention heads."""
        return None

    def section(self) -> JsonObject:
        """The section `model` of config.json; `network` is omitted for the default, as in earlier versions."""
        values = dataclasses.asdict(self)
        if self.network == DEFAULT:
            del values["network"]
        return values


class Backbone(nn.Module, ABC):
    """A network on padding-free rows: flat ids [N] in, logits [M, num_outputs] of selected flat positions out.

    A subclass has its configuration class in `NETWORKS` and must define

    * `forward`, whose result for a row does not depend on the other rows of the batch;
    * `embedding`, one row per input symbol: policies read it, and its device is the device of the network;
    * `blocks`, the layers that are sharded, compiled and recomputed one by one; the list may be empty.

    It may override `configure` (other attention, recomputation), `extend` (block by block with a key-value cache) and
    `after_preload`. The defaults of the first two raise a ValueError that names the network.
    """

    embedding: nn.Embedding
    blocks: nn.ModuleList
    visibility: Visibility
    compiled: bool = False

    def __init__(self, config: NetworkConfig, *, num_inputs: int, num_outputs: int, visibility: Visibility):
        super().__init__()
        self.visibility = visibility

    @abstractmethod
    def forward(
        self,
        ids: Tensor,
        layout: Layout,
        sigma: Tensor | None = None,
        select: Tensor | None = None,
        context: Tensor | None = None,
        blend: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Logits [M, num_outputs] on the network's device, in bfloat16 under autocast. The inputs may be on any device.

        Args:
            ids: [N] input symbols of all rows, one after the other.
            layout: lengths of the rows, row and position of each flat position.
            sigma: [B] noise level of each row (nats); None: level 0 for all rows. A network without noise embedding
                raises a ValueError for anything else.
            select: [M] flat positions whose logits are returned; None: all N.
            context: [N] the clean ids, required for visibility `Blocks` and a ValueError for any other.
            blend: (flat positions [K], weights [K, n] of ids 0 .. n - 1); at these positions the input is the weighted
                mean of embeddings instead of the embedding of `ids`.
        """

    def configure(self, *, attention: str = "sdpa", recompute: bool = False) -> None:
        """Choose how the network is computed, without changing its function. ValueError for an unsupported choice.

        Args:
            attention: "sdpa" or another name in `ATTENTIONS` (flex.py).
            recompute: compute each block again in the backward pass instead of keeping its activations.
        """
        if attention != "sdpa":
            raise ValueError(f"trainer.attention {attention!r}: {self._kind} does not offer it; expected sdpa")
        if recompute:
            raise ValueError(f"trainer.activation_checkpointing true: {self._kind} does not offer it; expected false")

    def compile_blocks(self) -> None:
        """Compile each block with torch.compile; equal blocks share one compilation for any number of positions."""
        self.compiled = True
        for block in self.blocks:
            block.compile(dynamic=True)

    def extend(
        self, ids: Tensor, layout: Layout, past: KeyValueCache | None = None, select: Tensor | None = None
    ) -> tuple[Tensor, KeyValueCache]:
        """Read the next block of each row after the finished blocks in `past`.

        ids [N] and `layout` describe the new blocks alone. Returns logits [M, num_outputs] and `past` extended by the
        new blocks; the extended cache is valid only for rows whose new block is complete and without noise.
        """
        raise ValueError(
            f"{self._kind} keeps no keys and values of finished blocks; expected a network that does, such as {DEFAULT}"
        )

    def after_preload(self, names: Collection[str]) -> None:
        """Adapt the initial values of the other weights after those with these names were loaded from another model."""

    @property
    def _kind(self) -> str:
        return f"the network {type(self).__name__}"


class Network(NamedTuple):
    """An entry of `NETWORKS`: the configuration class of a network and the network's class."""

    config: type[NetworkConfig]
    """Dataclass of its options, section `model` of a configuration."""
    backbone: type[Backbone]
    """Class that is built from them."""
