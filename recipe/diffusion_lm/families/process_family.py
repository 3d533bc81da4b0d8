"""A family from its noise process alone: what replaces a token, and how probably, gives the loss, the bound, the samples and the scores.

    @dataclass(frozen=True)
    class NeighbourFamily(ProcessFamily):
        def alpha(self, t: Tensor) -> Tensor:               # [B] -> [B] probability that a token is kept until t
            return 1 - t

        def beta_pi(self, t: Tensor) -> Tensor:             # [B] -> [B, num_inputs] probability of each symbol as its replacement
            return t[:, None] * self.frequencies

    FAMILIES.add("neighbour", NeighbourFamily)              # now `family.name: neighbour` trains, reports, samples and scores

With the four functions of process.py: the bound is the integral between t0 = time_eps and t1 = 1 - time_eps, plus the reconstruction R0 at t0
(a second run of the network), plus the divergence from the prior K1 at t1. They work on [tokens x symbols] numbers in float64; a process with
a cheaper form overrides `terms` and `end_terms` (families/mixture.py), whose results must be the same (tests/families/test_process_family.py).
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
    """BOS and EOS are never noised or scored. The score is p(pieces | their number): tune a length term beside it."""

    time_eps: float = 1e-4
    """Times lie in [time_eps, 1 - time_eps]."""
    time_conditioning: bool = True
    """Tell the network the noise level, `level_of_time`."""
    antithetic_sampling: bool = True
    """Training times are spread evenly over the batch."""
    shift: bool = False
    """Read the prediction of a token off the position before it, as an autoregressive network does."""

    runs_per_draw: ClassVar[int] = 2
    sampler_kind: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        if not 0 < self.time_eps < 0.1:
            raise ValueError(f"family.time_eps {self.time_eps}: expected a value between 0 and 0.1")

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """[B] float64 -> [B] probability that a token is kept until t; differentiable in t."""

    @abstractmethod
    def beta_pi(self, t: Tensor) -> Tensor:
        """[B] float64 -> [B, num_inputs] probability of each input id as a replacement; differentiable in t.

        With alpha a row sums to 1. 0 for BOS and EOS, and for any other id than the mask that is no symbol.
        """

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
        """Times [B], float64, from uniform numbers [B] in [0, 1)."""
        return self.time_eps + (1 - 2 * self.time_eps) * uniform.double()

    def training_weight(self, weight: Tensor, t: Tensor) -> Tensor:
        """What a token's divergence counts in training, from its weight in the bound [M] and its time [M]."""
        return weight

    def training_loss(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        t = self.time(draw.time)
        weight, divergence = self.terms(network, sentences, draw, t)
        row = sentences.layout.row[self.scored(sentences)]
        loss = self.training_weight(weight, on_device_of(t[row], weight)) * divergence
        return TokenLoss(loss.float(), self.num_scored(sentences.layout).sum().clamp(min=1))

    def nelbo(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> Tensor:
        """[B] the integral at one time, R0 and K1; two runs of the network."""
        weight, divergence = self.terms(network, sentences, draw, self.time(draw.time))
        total = (1 - 2 * self.time_eps) * weight * divergence
        for term in self.end_terms(network, sentences, draw):
            total = total + term
        return sum_over_rows(total, sentences.layout.row[self.scored(sentences)], len(draw.time))

    def terms(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw, t: Tensor) -> tuple[Tensor, Tensor]:
        """(weight, divergence) of each scored token at times t [B], [M] float64; their product is its bound per unit of time."""
        marginal, scored = self.process.marginal(t), self.scored(sentences)
        z = self._noised(marginal, sentences, draw)
        log_x_hat = self._over_inputs(self.denoised(network, z, sentences, t))
        x, z, row = (on_device_of(part[scored], log_x_hat) for part in (sentences.ids, z, sentences.layout.row))
        return token_terms(_beside(marginal, log_x_hat), log_x_hat, x, z, row)

    def end_terms(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> Sequence[Tensor]:
        """What the ends of the integral add to the bound of each scored token, in parts of [M] nats: R0 and K1."""
        first, last = (
            self.process.marginal(torch.full_like(draw.time, end, dtype=torch.float64)) for end in self.time_range
        )
        scored, z = self.scored(sentences), self._noised(first, sentences, draw)
        log_x_hat = self._over_inputs(self.denoised(network, z, sentences, torch.full_like(draw.time, self.time_eps)))
        x, z, row = (on_device_of(part[scored], log_x_hat) for part in (sentences.ids, z, sentences.layout.row))
        told = reconstruction(_beside(first, log_x_hat), log_x_hat, x, z, row)
        return told, prior_divergence(_beside(last, log_x_hat), x, row)

    def _noised(self, marginal: Marginal, sentences: Sentences, draw: NoiseDraw) -> Tensor:
        """[N] noised ids; each row at its own time of the marginal [B]."""
        scored = self.scored(sentences)
        z = sentences.ids.clone()
        z[scored] = corrupt(marginal, z[scored], sentences.layout.row[scored], draw.keep[scored], draw.category[scored])
        return z

    def denoised(self, network: Denoiser, z: Tensor, sentences: Sentences, t: Tensor) -> Tensor:
        """The network's log p of the clean token at all scored positions of z [N], told times t [B]: [M, symbols]."""
        select = self.scored(sentences).nonzero()[:, 0]
        return self.predict(network, z, sentences.layout, level=self.level_of_time(t).float(), select=select)

    def _over_inputs(self, log_x_hat: Tensor) -> Tensor:
        """[M, num_inputs] from [M, symbols]: what the network never says has probability 0."""
        return F.pad(log_x_hat, (0, self.special.num_inputs - log_x_hat.shape[1]), value=-torch.inf)


class _ProcessOf(ForwardProcess):
    """alpha and beta_pi of a family, with the rates that follow from them."""

    def __init__(self, family: ProcessFamily):
        self.family = family

    def alpha(self, t: Tensor) -> Tensor:
        return self.family.alpha(t)

    def beta_pi(self, t: Tensor) -> Tensor:
        return self.family.beta_pi(t)


def _beside(marginal: Marginal, answers: Tensor) -> Marginal:
    return Marginal(*(on_device_of(part, answers) for part in marginal))
