"""The registry of networks: `model.network` names one of `NETWORKS`.

    network = build_network(DiTConfig(), num_inputs=V + 1, num_outputs=V + 1, visibility="bidirectional")
    NETWORKS.add("mine", Network(MyConfig, MyNetwork))      # from a program of your own

The interface of a network is in base.py.
"""

from __future__ import annotations

from diffusion_lm.backbones.base import DEFAULT, Backbone, Network, NetworkConfig
from diffusion_lm.backbones.dit import DiT, DiTConfig
from diffusion_lm.visibility import Visibility
from returnn_bridge.files import quoted
from returnn_bridge.registry import Registry

NETWORKS: Registry[Network] = Registry("model.network", {DEFAULT: Network(DiTConfig, DiT)})

__all__ = ["NETWORKS", "Backbone", "Network", "NetworkConfig", "build_network", "config_class"]


def config_class(name: object) -> type[NetworkConfig]:
    """The configuration class of the network `name`. ValueError for an unknown name or a value that is no string."""
    if not isinstance(name, str):
        raise ValueError(f"model.network {quoted(name)}; expected one of {', '.join(NETWORKS)}")
    return NETWORKS[name].config


def build_network(config: NetworkConfig, *, num_inputs: int, num_outputs: int, visibility: Visibility) -> Backbone:
    """A network of the size `config` with initial weights drawn from torch's global generator.

    Args:
        config: size of the network; its class and `network` select the network's class.
        num_inputs: number of input symbols, special ones included.
        num_outputs: number of symbols that have a logit.
        visibility: which positions a position may see.
    """
    backbone = NETWORKS[config.network].backbone
    return backbone(config, num_inputs=num_inputs, num_outputs=num_outputs, visibility=visibility)
