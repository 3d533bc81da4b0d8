"""Reveal uncertain and important positions first, with the network that adaptive training has learned importance with.

    drawn = ImportantFirst(model, policy="run/policy.safetensors", share=0.1).draw_all([12, 9], seed=1)

As ATAT's sampler, it reveals the positions with the largest product of entropy and importance. Importance is the score
of the policy (families/importance.py). The policy reads clean text, so masked positions are filled with the network's
first choice for it: the order then depends on the noised text only, and with one position per pass the text is drawn by
the chain rule (by_entropy.py).
"""

from __future__ import annotations

import os
from typing import ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diffusion_lm.layout import Layout
from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling.by_entropy import CertainFirst


class ImportantFirst(CertainFirst):
    """Reveals the positions with the highest product of entropy and importance first.

    policy: the policy.safetensors of the run that trained the model. share, adapt: as in CertainFirst. ValueError for a
    model without a policy and for a file of another network.
    """

    sign: ClassVar[float] = -1.0

    def __init__(self, model: LanguageModel, *, policy: str, share: float = 0.0, adapt: bool = False):
        super().__init__(model, share=share, adapt=adapt)
        self.policy = load_policy(model, policy)

    def importance(self, log_probs: Tensor, ids: Tensor, layout: Layout, select: Tensor) -> Tensor:
        guessed = ids.clone()
        guessed[select] = log_probs.argmax(-1)
        return self.policy(self.model.network.embedding(guessed), layout)[select]


def load_policy(model: LanguageModel, path: str | os.PathLike[str]) -> nn.Module:
    """The policy in a file that training wrote, on the model's device."""
    if not model.family.has_policy:
        raise ValueError(f"{path}: a policy is for a model of an adaptive family, which this one is not")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file; expected the policy.safetensors of a run of an adaptive family")
    policy = model.family.build_policy(model.network.embedding.embedding_dim)
    try:
        policy.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: not the policy of this model ({reason}); expected its run's file") from None
    if not all(torch.isfinite(value).all() for value in policy.state_dict().values()):
        raise ValueError(f"{path}: weights that are nan or inf; expected the file that training wrote")
    return policy.to(model.device).eval().requires_grad_(False)
