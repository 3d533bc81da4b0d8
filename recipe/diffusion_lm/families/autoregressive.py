"""The autoregressive baseline: a causal network, every next piece and the end of the sentence predicted, exact log-probability.

log p(x) = sum_i log p(x_i | BOS, x_1 .. x_{i-1}) + log p(EOS | BOS, x)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families.base import Denoiser, Scoring, SpecialIds, TokenLoss, sum_over_rows
from diffusion_lm.families.log_probs import target_log_probs
from diffusion_lm.layout import Layout, Sentences


@dataclass(frozen=True)
class AutoregressiveFamily:
    """Exact left-to-right language model over pieces and EOS. The mask is never an input and never predicted."""

    special: SpecialIds

    exact: ClassVar[bool] = True
    scoring: ClassVar[Scoring] = "exact"
    scores_end: ClassVar[bool] = True
    runs_per_draw: ClassVar[int] = 1
    visibility: ClassVar[Literal["bidirectional", "causal"]] = "causal"
    stratified: ClassVar[bool] = False
    trained_on_light_masks: ClassVar[bool] = False

    @property
    def num_outputs(self) -> int:
        """As many rows as the input embedding: EOS may follow the pieces."""
        return self.special.num_inputs

    def num_scored(self, layout: Layout) -> Tensor:
        """[B] pieces and EOS."""
        return layout.lengths - 1

    def token_log_probs(self, network: Denoiser, sentences: Sentences) -> Tensor:
        """[N - B] log p of every position but the BOS, in flat order, nats."""
        select = (~sentences.is_eos).nonzero()[:, 0]
        logits = network(sentences.ids, sentences.layout, None, select)
        never = self.special.never(scores_end=True)
        return target_log_probs(logits, sentences.ids[select + 1], kept=self.num_outputs, never=never)

    def training_loss(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        """Cross-entropy per token; the draw is not used."""
        loss = -self.token_log_probs(network, sentences)
        return TokenLoss(loss, len(loss))

    def nelbo(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> Tensor:
        """[B] -log p, exact; the draw is not used."""
        log_probs = self.token_log_probs(network, sentences)
        return -sum_over_rows(log_probs, sentences.layout.row[~sentences.is_eos], len(sentences.layout.lengths))
