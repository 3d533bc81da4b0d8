"""The autoregressive baseline: a causal network predicts every next piece and EOS, which gives the exact log p.

log p(x) = sum_i log p(x_i | BOS, x_1 .. x_{i-1}) + log p(EOS | BOS, x)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families.base import Denoiser, Family, TokenLoss, sum_over_rows
from diffusion_lm.layout import Sentences


@dataclass(frozen=True)
class AutoregressiveFamily(Family):
    """Exact left-to-right language model over pieces and EOS. The mask is neither an input nor predicted."""

    exact: ClassVar[bool] = True
    sampler_kind: ClassVar[str] = "left-to-right"
    scores_end: ClassVar[bool] = True
    shift: ClassVar[bool] = True
    visibility: ClassVar[Literal["bidirectional", "causal"]] = "causal"

    def clean_log_probs(self, network: Denoiser, sentences: Sentences) -> Tensor:
        """[N - B] log p of the token at every position except BOS, in flat order, nats."""
        nothing = torch.zeros_like(sentences.is_bos)
        return self.token_log_probs(network, sentences, nothing, select=self.scored(sentences).nonzero()[:, 0])

    def training_loss(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        """Cross-entropy of each token, nats; the draw is not used."""
        loss = -self.clean_log_probs(network, sentences)
        return TokenLoss(loss, len(loss))

    def nelbo(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> Tensor:
        """[B] exact -log p, nats; the draw is not used."""
        log_probs = self.clean_log_probs(network, sentences)
        return -sum_over_rows(log_probs, sentences.layout.row[self.scored(sentences)], len(sentences.layout.lengths))
