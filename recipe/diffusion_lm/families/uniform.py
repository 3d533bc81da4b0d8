"""Uniform diffusion: noise is any symbol, there is no mask (UDLM, Schiff et al., arXiv 2412.10193; Duo, Sahoo et al., arXiv 2506.10892).

    q_t(z | x) = alpha(t) onehot(x) + (1 - alpha(t))/N over the N symbols

The network is told -ln alpha(t). The bound in this form is the one of Duo, equation by equation (tests/test_mixture.py).

Curriculum of Duo (`curriculum_steps`): in the first steps of a training the network does not read the noised symbols but softmax(w/tau) of the
Gaussian w whose largest coordinate they are (families/gaussian.py), tau from 0.1 down to 0.01; the loss stays that of the symbols, at
times where the Gaussian has gamma between gamma_min and gamma_max. It needs [tokens x symbols] numbers of noise in every such step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families.base import Blend, Denoiser, ScheduledNoise, TokenLoss, on_device_of
from diffusion_lm.families.gaussian import kept_probability, noised_onehot
from diffusion_lm.families.mixture import Mixture, MixtureFamily
from diffusion_lm.layout import Sentences
from diffusion_lm.schedule import build_schedule


@dataclass(frozen=True)
class UniformFamily(ScheduledNoise, MixtureFamily):
    """Every position is always a real token, so one run predicts all of them."""

    time_eps: float = 1e-3
    """Times lie in [time_eps, 1 - time_eps]."""
    curriculum_steps: int = 0
    """Optimizer steps with Gaussian inputs; 0 is no curriculum."""
    gamma_min: float = -3.5
    """The Gaussian's log noise-to-signal ratio at the smallest time of the curriculum."""
    gamma_max: float = -1.75
    """The same at the largest time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.curriculum_steps < 0 or self.gamma_min >= self.gamma_max:
            raise ValueError(
                f"family.curriculum_steps {self.curriculum_steps}, gamma_min {self.gamma_min}, gamma_max {self.gamma_max}: "
                "expected steps >= 0 and gamma_min < gamma_max"
            )
        build_schedule(self.schedule, **self.schedule_options)

    def mixture(self, t: Tensor) -> Mixture:
        t, noise, count = t.double(), self.noise, len(self.symbols)
        alpha = noise.alpha(t)
        # uniform' - (alpha'/alpha) uniform with uniform = (1 - alpha)/N: what is left is sigma'/N
        return Mixture(
            alpha=alpha,
            uniform=noise.mask_probability(t) / count,
            mask=torch.zeros_like(t),
            rate_uniform=noise.sigma_prime(t) / count,
            rate_mask=torch.zeros_like(t),
        )

    def level_of_time(self, t: Tensor) -> Tensor:
        return self.noise.sigma(t)

    def training_loss(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        if not 0 <= draw.step < self.curriculum_steps:
            return super().training_loss(network, sentences, draw)
        scored = self.scored(sentences)
        select, row, x = scored.nonzero()[:, 0], sentences.layout.row[scored], sentences.ids[scored]
        symbols = torch.tensor(self.symbols)
        count, width = len(symbols), self.gamma_max - self.gamma_min
        gamma = self.gamma_min + width * draw.time.double()
        alpha, slope = kept_probability(gamma, count)
        mixture = Mixture(
            alpha=alpha,
            uniform=(1 - alpha) / count,
            mask=torch.zeros_like(alpha),
            rate_uniform=-width * slope / (alpha * count),
            rate_mask=torch.zeros_like(alpha),
        )
        index_of = torch.zeros(self.special.num_pieces, dtype=torch.int64)
        index_of[symbols] = torch.arange(count)
        w = noised_onehot(index_of[x.cpu()].to(draw.device), gamma[row].to(draw.device), count, draw.generator())
        symbols = on_device_of(symbols, w)
        temperature = 10 ** (-1 - draw.step / self.curriculum_steps)
        weights = w.new_zeros(len(x), self.special.num_pieces)
        weights[:, symbols] = torch.softmax(w / temperature, dim=-1)
        logits = network(
            sentences.ids,
            sentences.layout,
            -alpha.log().float() if self.time_conditioning else None,
            select - 1 if self.shift else select,
            blend=Blend(select, weights),
        )
        weight, divergence = self.token_terms(mixture, self.log_probs(logits), x, symbols[w.argmax(-1)], row)
        return TokenLoss((weight * divergence).float(), self.num_scored(sentences.layout).sum().clamp(min=1))
