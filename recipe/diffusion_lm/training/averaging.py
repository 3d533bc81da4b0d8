"""Averages of weights: over the steps of a training run, and over finished models.

    ema = ExponentialMovingAverage(network, 0.9999); ema.update(network)        # after every step
    average_models(["run/kept/step.00003000", "run/kept/step.00004000"], "averaged")

Both average weights and not outputs, so a model with averaged weights costs no more to use.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_lm.model import LanguageModel, fingerprint
from diffusion_lm.model_folder import made_by
from diffusion_lm.training.sharding import gather_full, shard_like
from returnn_bridge.files import check_replaceable


class ExponentialMovingAverage:
    """Average of the weights with a warm-up of the decay: d = min(decay, (1 + n) / (10 + n)) at update n."""

    def __init__(self, network: torch.nn.Module, decay: float):
        self.decay = decay
        self.num_updates = 0
        self.shadow: list[Tensor] = []
        self.start(network)

    def start(self, network: torch.nn.Module) -> None:
        """Reset the average to the network's weights, with their device and sharding."""
        self.shadow = [parameter.detach().clone() for parameter in network.parameters()]

    def to(self, device: torch.device) -> None:
        """Move the average to a device."""
        self.shadow = [value.to(device) for value in self.shadow]

    @torch.no_grad()
    def update(self, network: torch.nn.Module) -> None:
        """Take in the network's weights after an optimizer step; the decay is lower in the first steps."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(self.shadow, [parameter.detach() for parameter in network.parameters()], 1 - decay)

    @torch.no_grad()
    def swap(self, network: torch.nn.Module) -> None:
        """Exchange the network's weights and the average; a second call puts both back."""
        for parameter, average in zip(network.parameters(), self.shadow):
            keep = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(keep)

    def state_dict(self) -> dict[str, Any]:
        """The state with full tensors; a collective call if weights are sharded."""
        return {
            "decay": self.decay,
            "num_updates": self.num_updates,
            "shadow": [gather_full(value) for value in self.shadow],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with a state, sharded as the network is."""
        self.num_updates = state["num_updates"]
        self.shadow = [shard_like(value, old) for value, old in zip(state["shadow"], self.shadow, strict=True)]


def average_models(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Path:
    """Write to `out` a model with the mean of the weights of the models in `folders`, and return its path.

    ValueError for a model whose family, size or vocabulary is not that of the first (naming the folder), for fewer than
    two models, and for an `out` that holds anything but an earlier average.
    """
    if len(folders) < 2:
        raise ValueError(f"{len(folders)} model to average; expected at least two")
    for folder in folders:
        if Path(out).resolve().is_relative_to(Path(folder).resolve()):
            raise ValueError(f"{out}: is or lies in {folder}, a model to average; expected another folder for the mean")
    replaces = made_by("averaged")
    check_replaceable(Path(out), replaces)
    first = LanguageModel.load(folders[0])
    sums = {name: value.double() for name, value in first.network.state_dict().items()}
    for folder in folders[1:]:
        other = LanguageModel.load(folder)
        for what, expected, found in (
            ("family", first.family_options, other.family_options),
            ("size", first.backbone, other.backbone),
            ("vocabulary", first.vocab, other.vocab),
        ):
            if found != expected:
                raise ValueError(f"{folder}: its {what} is not that of {folders[0]}; expected models of one training")
        for name, value in other.network.state_dict().items():
            sums[name] += value
    first.network.load_state_dict({name: (value / len(folders)).float() for name, value in sums.items()})
    sources = [{"folder": Path(folder).name, "fingerprint": fingerprint(folder)} for folder in folders]
    return first.save(out, facts={**first.facts, "averaged": sources}, replaces=replaces)
