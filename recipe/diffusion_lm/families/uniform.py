"""Uniform diffusion: noise is any symbol, there is no mask (UDLM, Schiff et al., arXiv 2412.10193; Duo, Sahoo et al., arXiv 2506.10892).

    q_t(z | x) = alpha(t) onehot(x) + (1 - alpha(t))/N over the N symbols

The network is told -ln alpha(t). The bound in this form is the one of Duo, equation by equation (tests/test_mixture.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffusion_lm.families.mixture import Mixture, MixtureFamily
from diffusion_lm.schedule import Schedule, build_schedule


@dataclass(frozen=True)
class UniformFamily(MixtureFamily):
    """Every position is always a real token, so one run predicts all of them."""

    time_eps: float = 1e-3
    schedule: str = "loglinear"
    schedule_options: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        build_schedule(self.schedule, **self.schedule_options)

    @property
    def noise(self) -> Schedule:
        return build_schedule(self.schedule, **self.schedule_options)

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
