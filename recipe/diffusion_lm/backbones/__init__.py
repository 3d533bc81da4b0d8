"""Networks: `model.network` names one of `NETWORKS`. A backbone receives a visibility, never a family name.

    network = build_network(DiTConfig(), num_inputs=V + 1, num_outputs=V + 1, visibility="bidirectional")
    NETWORKS.add("mine", Network(MyConfig, MyNetwork))      # from a program of your own; base.py says what a network must offer

base.py says what a network must offer.
"""

from __future__ import annotations

from diffusion_lm.backbones.base import DEFAULT, Backbone, Network, NetworkConfig
from diffusion_lm.backbones.dit import DiT, DiTConfig
from diffusion_lm.visibility import Visibility
from returnn_bridge.registry import Registry

NETWORKS: Registry[Network] = Registry("model.network", {DEFAULT: Network(DiTConfig, DiT)})

__all__ = ["NETWORKS", "Backbone", "Network", "NetworkConfig", "build_network", "config_class"]


def config_class(name: object) -> type[NetworkConfig]:
    """The configuration class of the network of that name. ValueError for an unknown one, and for what is no name."""
    if not isinstance(name, str):
        raise ValueError(f"model.network {name!r}; expected one of {', '.join(NETWORKS)}")
    return NETWORKS[name].config


def build_network(config: NetworkConfig, *, num_inputs: int, num_outputs: int, visibility: Visibility) -> Backbone:
    """A network of that size with fresh weights, drawn from torch's global generator.

    Args:
        num_inputs: symbols it reads, special ones included.
        num_outputs: symbols it has a logit for.
        visibility: what a position may see.
    """
    backbone = NETWORKS[config.network].backbone
    return backbone(config, num_inputs=num_inputs, num_outputs=num_outputs, visibility=visibility)
