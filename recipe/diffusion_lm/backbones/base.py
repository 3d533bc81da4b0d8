"""What a network has to offer, whatever it is made of: the type that families, samplers and training work with.

    class MyNetwork(Backbone): ...                              # forward, embedding, blocks
    NETWORKS.add("mine", Network(MyConfig, MyNetwork))          # backbones/__init__.py; `model.network: mine` then chooses it

A network receives a visibility and numbers of symbols, never the name of a family.
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


@dataclass(frozen=True)
class NetworkConfig:
    """The size of a network: the section `model` of a configuration. Subclasses add fields with defaults of simple types.

    Impossible values are a ValueError in `__post_init__` that names the key (`model.hidden_size`).
    """

    network: str = field(default="", kw_only=True)
    """Name of the network in `NETWORKS`. A subclass gives its own as the default."""

    @property
    def min_tensors(self) -> int:
        """A lower bound on the number of weight tensors, so that an absurd size is refused before such a network is built."""
        return 0

    @property
    def head_width(self) -> int | None:
        """Width of an attention head, None for a network without attention heads."""
        return None

    def section(self) -> JsonObject:
        """The section `model` of a model folder. `network` is left out for the default, as folders of earlier versions do."""
        values = dataclasses.asdict(self)
        if self.network == DEFAULT:
            del values["network"]
        return values


class Backbone(nn.Module, ABC):
    """A network on padding-free rows: flat ids [N] in, logits [M, num_outputs] of selected flat positions out.

    A subclass takes its own kind of configuration. It has to offer

    * `forward`, whose answer for a row does not depend on the other rows of the batch;
    * `embedding`, whose rows are the input symbols: policies read it, and its device is the network's;
    * `blocks`, the layers that are sharded, compiled and recomputed one by one; it may be empty.

    It may offer `configure` (other attention, recomputation), `extend` (reading block by block with a key-value cache) and
    `after_preload`; what it does not offer is refused with its name.
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
            sigma: [B] noise level of each row (nats), None = level 0 for all rows. ValueError for a network without noise embedding.
            select: [M] flat positions whose logits are wanted, None = all N.
            context: [N] the clean ids: for visibility `Blocks`, and there alone (ValueError otherwise).
            blend: (flat positions [K], weights [K, n] of ids 0 .. n - 1) where the input is a weighted mean of embeddings, not `ids`.
        """

    def configure(self, *, attention: str = "sdpa", recompute: bool = False) -> None:
        """Choose how the same function is computed. ValueError for a way that this network does not offer.

        Args:
            attention: "sdpa" or another name in `ATTENTIONS` (flex.py).
            recompute: in training, compute each block again in the backward pass instead of keeping its activations.
        """
        if attention != "sdpa":
            raise ValueError(f"trainer.attention {attention!r}: {self._kind} does not offer it; expected sdpa")
        if recompute:
            raise ValueError(f"trainer.activation_checkpointing true: {self._kind} does not offer it; expected false")

    def compile_blocks(self) -> None:
        """torch.compile block by block: one compilation serves equal blocks, and any number of positions."""
        self.compiled = True
        for block in self.blocks:
            block.compile(dynamic=True)

    def extend(
        self, ids: Tensor, layout: Layout, past: KeyValueCache | None = None, select: Tensor | None = None
    ) -> tuple[Tensor, KeyValueCache]:
        """Read the next block of each row behind the finished blocks in `past`: (logits [M, num_outputs], `past` with this block).

        ids [N] and `layout` are of the new blocks alone; the longer cache is right for rows whose new block is clean and whole.
        """
        raise ValueError(
            f"{self._kind} keeps no keys and values of finished blocks; expected a network that does, such as {DEFAULT}"
        )

    def after_preload(self, names: Collection[str]) -> None:
        """Called when the weights of these names were taken from another model: adapt the start of the others."""

    @property
    def _kind(self) -> str:
        return f"the network {type(self).__name__}"


class Network(NamedTuple):
    """An entry of `NETWORKS`."""

    config: type[NetworkConfig]
    backbone: type[Backbone]
