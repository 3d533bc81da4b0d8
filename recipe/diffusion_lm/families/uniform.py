"""Uniform diffusion: noise is a random symbol, without a mask (UDLM, arXiv 2412.10193; Duo, arXiv 2506.10892).

    q_t(z | x) = alpha(t) onehot(x) + (1 - alpha(t))/N over the N symbols

UDLM is by Schiff et al., Duo by Sahoo et al. The network is conditioned on -ln alpha(t). The bound equals that of Duo,
equation by equation (tests/families/test_mixture.py).

Curriculum of Duo (`curriculum_steps`): in the first training steps the network does not read the noised symbols but
softmax(w/tau), where w is the Gaussian whose argmax they are (families/gaussian.py) and tau falls from 0.1 to 0.01. The
loss is still that of the symbols, at times at which gamma of the Gaussian lies between gamma_min and gamma_max. Every
such step draws [tokens x symbols] random numbers.
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
    """Uniform diffusion. Every position always holds a real symbol, and one network run predicts all of them."""

    time_eps: float = 1e-3
    """Times lie in [time_eps, 1 - time_eps]."""
    curriculum_steps: int = 0
    """Number of optimizer steps with Gaussian inputs; 0 for no curriculum."""
    gamma_min: float = -3.5
    """Log noise-to-signal ratio of the Gaussian at the smallest time of the curriculum."""
    gamma_max: float = -1.75
    """Log noise-to-signal ratio of the Gaussian at the largest time of the curriculum."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.curriculum_steps < 0 or self.gamma_min >= self.gamma_max:
            raise ValueError(
                f"family.curriculum_steps {self.curriculum_steps}, gamma_min {self.gamma_min}, "
                f"gamma_max {self.gamma_max}: expected steps >= 0 and gamma_min < gamma_max"
            )
        build_schedule(self.schedule, **self.schedule_options)

    def mixture(self, t: Tensor) -> Mixture:
        t, noise, count = t.double(), self.noise, len(self.symbols)
        alpha = noise.alpha(t)
        # uniform' - (alpha'/alpha) uniform with uniform = (1 - alpha)/N simplifies to sigma'/N.
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
        kept, _ = self.answers
        index_of = torch.zeros(kept, dtype=torch.int64)
        index_of[symbols] = torch.arange(count)
        w = noised_onehot(index_of[x.cpu()].to(draw.device), gamma[row].to(draw.device), count, draw.generator())
        symbols = on_device_of(symbols, w)
        temperature = 10 ** (-1 - draw.step / self.curriculum_steps)
        weights = w.new_zeros(len(x), kept)
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
