"""Hybrid diffusion: the mask and uniform noise together, GIDD (von Ruette et al., arXiv 2503.04482).

    alpha = (1 - t) / C,   mask = t / C,   each of N symbols: c / (N C),    c = B (t (1 - t))^(gamma/2),  C = 1 + c,  B = 2^gamma p/(1 - p)

p = `p_uniform` is the share of uniform noise where it is largest, at t = 1/2; with 0 this is masked diffusion with alpha = 1 - t. Training
weights: "nelbo" are those of the bound, "clip" cuts them off, "dynamic" (GIDD+) takes their common factor 1/(2 t (1 - t)) out first: 2 for a
masked token, 1 for a wrong one, (B/N) sqrt(t/(1 - t)) for a right one with gamma = 1. The bound always uses its own weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lm.families.mixture import Mixture, MixtureFamily

WEIGHTINGS = ("nelbo", "clip", "dynamic")
LEAST = math.exp(-20)  # of p_uniform and of B: keeps the logarithms finite where there is no uniform noise


@dataclass(frozen=True)
class HybridFamily(MixtureFamily):
    """Conditioned on t itself. `p_uniform` above 0 lets a model see errors, and one run tell how likely each token of a text is."""

    p_uniform: float = 0.1
    """Share of uniform noise where it is largest, at t = 1/2."""
    gamma: float = 1.0
    """Power of the share over time: c is proportional to (t (1 - t))^(gamma/2)."""
    weighting: str = "dynamic"
    """Training weights: "nelbo", "clip" or "dynamic" (see above)."""
    min_weight: float = 0.0
    """Smallest weight of "clip" and "dynamic"."""
    max_weight: float = 2.0
    """Largest weight of "clip" and "dynamic"."""

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
        """B"""
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
        if self.weighting == "nelbo":
            return weight
        if self.weighting == "dynamic":
            weight = 2 * t * (1 - t) * weight
        return torch.clamp(weight, self.min_weight, self.max_weight)
