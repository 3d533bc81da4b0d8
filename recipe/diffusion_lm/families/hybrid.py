"""Hybrid diffusion with mask and uniform noise: GIDD (von Ruette et al., arXiv 2503.04482).

    alpha = (1 - t) / C,   mask = t / C,   each of N symbols: c / (N C)
    c = B (t (1 - t))^(gamma/2),   C = 1 + c,   B = 2^gamma p/(1 - p)

p = `p_uniform` is the share of uniform noise at t = 1/2, where it is largest; with p = 0 this is masked diffusion with
alpha = 1 - t. The training weights "nelbo" are those of the bound; "clip" clamps them; "dynamic" (GIDD+) divides by
their common factor 1/(2 t (1 - t)) and then clamps, so that for gamma = 1 a masked token has weight 2, a wrong one 1,
and a right one (B/N) sqrt(t/(1 - t)). The bound itself is never reweighted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lm.families.mixture import Mixture, MixtureFamily

# Training weights, from the weights [M] in the bound and the times [M].
WEIGHTINGS: dict[str, Callable[[HybridFamily, Tensor, Tensor], Tensor]] = {
    "nelbo": lambda family, weight, t: weight,
    "clip": lambda family, weight, t: family.clamped(weight),
    "dynamic": lambda family, weight, t: family.clamped(2 * t * (1 - t) * weight),
}
LEAST = math.exp(-20)  # lower limit of p_uniform and B, which keeps logarithms finite without uniform noise


@dataclass(frozen=True)
class HybridFamily(MixtureFamily):
    """Hybrid diffusion, conditioned on t itself.

    With `p_uniform` above 0 the model sees errors, so that `one_pass` is meaningful.
    """

    p_uniform: float = 0.1
    """Share of uniform noise at t = 1/2, where it is largest."""
    gamma: float = 1.0
    """Exponent of uniform noise over time: c is proportional to (t (1 - t))^(gamma/2)."""
    weighting: str = "dynamic"
    """Training weights: "nelbo", "clip" or "dynamic" (that of GIDD+)."""
    min_weight: float = 0.0
    """Smallest training weight for "clip" and "dynamic"."""
    max_weight: float = 2.0
    """Largest training weight for "clip" and "dynamic"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.p_uniform < 1 or self.gamma <= 0:
            raise ValueError(
                f"family.p_uniform {self.p_uniform}, family.gamma {self.gamma}: expected p in [0, 1) and gamma > 0"
            )
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"family.weighting {self.weighting!r}; expected one of {', '.join(WEIGHTINGS)}")
        if not 0 <= self.min_weight < self.max_weight:
            raise ValueError(
                f"family.min_weight {self.min_weight}, family.max_weight {self.max_weight}: expected 0 <= min < max"
            )

    @property
    def sees_errors(self) -> bool:
        return self.p_uniform > 0

    @property
    def scale(self) -> float:
        """The factor B = 2^gamma p/(1 - p) of the uniform noise."""
        share = max(self.p_uniform, LEAST)
        return max(2**self.gamma * share / (1 - share), LEAST)

    def mixture(self, t: Tensor) -> Mixture:
        t = t.double()
        count = len(self.symbols)
        c = self.scale * (t * (1 - t)) ** (self.gamma / 2)
        c_prime = self.gamma / 2 * (1 - 2 * t) / (t * (1 - t)) * c
        total = 1 + c
        return Mixture(
            alpha=(1 - t) / total,
            uniform=c / (count * total),
            mask=t / total,
            rate_uniform=(c + (1 - t) * c_prime) / ((1 - t) * count * total),
            rate_mask=1 / ((1 - t) * total),
        )

    def training_weight(self, weight: Tensor, t: Tensor) -> Tensor:
        return WEIGHTINGS[self.weighting](self, weight, t)

    def clamped(self, weight: Tensor) -> Tensor:
        """The weights within [min_weight, max_weight]."""
        return torch.clamp(weight, self.min_weight, self.max_weight)
