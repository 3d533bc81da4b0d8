"""A family defined by its noise process: alpha and beta_pi give the loss, the bound, the samples and the scores.

    @dataclass(frozen=True)
    class NeighbourFamily(ProcessFamily):
        def alpha(self, t: Tensor) -> Tensor:        # [B] -> [B] probability that a token is kept until t
            return 1 - t

        def beta_pi(self, t: Tensor) -> Tensor:      # [B] -> [B, num_inputs] probability of each replacement
            return t[:, None] * self.frequencies

    FAMILIES.add("neighbour", NeighbourFamily)       # now `family.name: neighbour` trains, samples and scores

The bound is the integral between t0 = time_eps and t1 = 1 - time_eps, plus the reconstruction R0 at t0 (a second run of
the network), plus the divergence from the prior K1 at t1, computed by the functions of process.py on [tokens x symbols]
numbers in float64. A process with a cheaper form overrides `terms` and `end_terms` with the same results
(families/mixture.py; tests/families/test_process_family.py).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families.base import Denoiser, Family, TokenLoss, on_device_of, sum_over_rows
from diffusion_lm.layout import Sentences
from diffusion_lm.process import (
    ForwardProcess,
    Marginal,
    corrupt,
    prior_divergence,
    reconstruction,
    token_terms,
)


@dataclass(frozen=True)
class ProcessFamily(Family):
    """Base class of such families.

    BOS is never noised or scored, and neither is EOS unless `score_eos`. The score is p(pieces | their number), so
    rescoring should also tune a length term.
    """

    time_eps: float = 1e-4
    """Times lie in [time_eps, 1 - time_eps]."""
    time_conditioning: bool = True
    """Condition the network on the noise level, `level_of_time`."""
    antithetic_sampling: bool = True
    """Spread the training times evenly over the batch."""
    shift: bool = False
    """Predict a token at the position before it, as an autoregressive network does."""
    score_eos: bool = False
    """Noise and score EOS too, which is then one of the symbols; packed rows need it."""

    runs_per_draw: ClassVar[int] = 2
    sampler_kind: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        if not 0 < self.time_eps < 0.1:
            raise ValueError(f"family.time_eps {self.time_eps}: expected a value between 0 and 0.1")

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Probability that a token is kept until t. [B] float64 -> [B], differentiable in t."""

    @abstractmethod
    def beta_pi(self, t: Tensor) -> Tensor:
        """Probability of each input id as a replacement. [B] float64 -> [B, num_inputs], differentiable in t.

        Each row and alpha together sum to 1. Only symbols and the mask may have a probability above 0; BOS has 0, and
        so has EOS unless `score_eos` makes it a symbol.
        """

    @property
    def scores_end(self) -> bool:
        return self.score_eos

    @property
    def process(self) -> ForwardProcess:
        return _ProcessOf(self)

    @property
    def sees_errors(self) -> bool:
        return True

    @property
    def time_range(self) -> tuple[float, float]:
        return self.time_eps, 1 - self.time_eps

    def time(self, uniform: Tensor) -> Tensor:
        """Map uniform numbers [B] in [0, 1) to times [B], float64."""
        return self.time_eps + (1 - 2 * self.time_eps) * uniform.double()

    def training_weight(self, weight: Tensor, t: Tensor) -> Tensor:
        """[M] training weight of each token's divergence, from its weight [M] in the bound and its time [M]."""
        return weight

    def training_loss(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        t = self.time(draw.time)
        weight, divergence = self.terms(network, sentences, draw, t)
        row = sentences.layout.row[self.scored(sentences)]
        loss = self.training_weight(weight, on_device_of(t[row], weight)) * divergence
        return TokenLoss(loss.float(), self.num_scored(sentences.layout).sum().clamp(min=1))

    def nelbo(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> Tensor:
        """[B] nats: one sample of the integral, plus R0 and K1; it takes two runs of the network."""
        weight, divergence = self.terms(network, sentences, draw, self.time(draw.time))
        total = (1 - 2 * self.time_eps) * weight * divergence
        for term in self.end_terms(network, sentences, draw):
            total = total + term
        return sum_over_rows(total, sentences.layout.row[self.scored(sentences)], len(draw.time))

    def terms(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw, t: Tensor) -> tuple[Tensor, Tensor]:
        """(weight, divergence) of each scored token at times t [B], [M] float64 each.

        Their product is the bound per unit of time.
        """
        marginal, scored = self.process.marginal(t), self.scored(sentences)
        z = self._noised(marginal, sentences, draw)
        log_x_hat = self._over_inputs(self.denoised(network, z, sentences, t))
        x, z, row = (on_device_of(part[scored], log_x_hat) for part in (sentences.ids, z, sentences.layout.row))
        return token_terms(_beside(marginal, log_x_hat), log_x_hat, x, z, row)

    def end_terms(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> Sequence[Tensor]:
        """Terms of the bound at the ends of the integral, R0 and K1, for each scored token: [M] nats each."""
        first, last = (
            self.process.marginal(torch.full_like(draw.time, end, dtype=torch.float64)) for end in self.time_range
        )
        scored, z = self.scored(sentences), self._noised(first, sentences, draw)
        log_x_hat = self._over_inputs(self.denoised(network, z, sentences, torch.full_like(draw.time, self.time_eps)))
        x, z, row = (on_device_of(part[scored], log_x_hat) for part in (sentences.ids, z, sentences.layout.row))
        r0 = reconstruction(_beside(first, log_x_hat), log_x_hat, x, z, row)
        return r0, prior_divergence(_beside(last, log_x_hat), x, row)

    def _noised(self, marginal: Marginal, sentences: Sentences, draw: NoiseDraw) -> Tensor:
        """[N] noised ids; row b is noised at time b of the marginal [B]."""
        scored = self.scored(sentences)
        z = sentences.ids.clone()
        z[scored] = corrupt(marginal, z[scored], sentences.layout.row[scored], draw.keep[scored], draw.category[scored])
        return z

    def denoised(self, network: Denoiser, z: Tensor, sentences: Sentences, t: Tensor) -> Tensor:
        """[M, symbols] the network's log p of the clean token at all scored positions of noised ids z [N] at times t
        [B].
        """
        select = self.scored(sentences).nonzero()[:, 0]
        return self.predict(network, z, sentences.layout, level=self.level_of_time(t).float(), select=select)

    def _over_inputs(self, log_x_hat: Tensor) -> Tensor:
        """Extend [M, symbols] to [M, num_inputs]; ids that the network never predicts get probability 0."""
        return F.pad(log_x_hat, (0, self.special.num_inputs - log_x_hat.shape[1]), value=-torch.inf)


class _ProcessOf(ForwardProcess):
    """Forward process with the alpha and beta_pi of a family; the base class derives the rates."""

    def __init__(self, family: ProcessFamily):
        self.family = family

    def alpha(self, t: Tensor) -> Tensor:
        return self.family.alpha(t)

    def beta_pi(self, t: Tensor) -> Tensor:
        return self.family.beta_pi(t)


def _beside(marginal: Marginal, answers: Tensor) -> Marginal:
    return Marginal(*(on_device_of(part, answers) for part in marginal))
