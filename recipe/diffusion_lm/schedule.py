"""Noise schedules: the probability that a token is unmasked at time t, and its derivative for the loss weight.

    schedule = build_schedule("loglinear")
    schedule.alpha(t); schedule.alpha_prime(t); schedule.sigma(t); schedule.weight(t)

Time t is in [0, 1], 0 is clean and 1 fully noised; alpha decreases from about 1 to about 0. A schedule defines
sigma = -ln alpha and its derivative; alpha' = -sigma' alpha and the NELBO weight
w = -alpha'/(1 - alpha) = sigma'/(e^sigma - 1) follow. The five schedules are those of MDLM (Sahoo et al.,
arXiv 2406.07524).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor

from returnn_bridge.registry import Registry


class Schedule(ABC):
    """alpha(t) of a forward process. t: any shape, values in [0, 1]; every method returns the shape of t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """-ln alpha(t), total noise in nats."""

    @abstractmethod
    def sigma_prime(self, t: Tensor) -> Tensor:
        """d sigma / dt."""

    def alpha(self, t: Tensor) -> Tensor:
        """Probability that a token is kept until t."""
        return torch.exp(-self.sigma(t))

    def alpha_prime(self, t: Tensor) -> Tensor:
        """d alpha / dt."""
        return -self.sigma_prime(t) * self.alpha(t)

    def mask_probability(self, t: Tensor) -> Tensor:
        """rho(t) = 1 - alpha(t), the probability that a token is masked at t."""
        return -torch.expm1(-self.sigma(t))

    def weight(self, t: Tensor) -> Tensor:
        """w(t) = -alpha'/(1 - alpha), the weight of a masked token's cross-entropy in the continuous-time NELBO."""
        return self.sigma_prime(t) / torch.expm1(self.sigma(t))

    def time_of_log_mask_probability(self, log_rho: Tensor) -> Tensor:
        """The t with ln rho(t) = log_rho, for importance sampling. ValueError for a schedule without a closed form."""
        raise ValueError(
            f"schedule {type(self).__name__} has no inverse; importance sampling needs loglinear or linear"
        )


@dataclass(frozen=True)
class LogLinear(Schedule):
    """alpha = 1 - (1 - eps) t, with mask probability (1 - eps) t and weight 1/t for every eps."""

    eps: float = 1e-3
    """Share of tokens that are kept at t = 1, so that sigma stays finite."""

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.log1p(-(1 - self.eps) * t)

    def sigma_prime(self, t: Tensor) -> Tensor:
        return (1 - self.eps) / (1 - (1 - self.eps) * t)

    def mask_probability(self, t: Tensor) -> Tensor:
        return (1 - self.eps) * t

    def weight(self, t: Tensor) -> Tensor:
        return 1 / t

    def time_of_log_mask_probability(self, log_rho: Tensor) -> Tensor:
        return torch.exp(log_rho) / (1 - self.eps)


@dataclass(frozen=True)
class Linear(Schedule):
    """sigma linear in t between sigma_min and sigma_max."""

    sigma_min: float = 1e-3
    """Noise level at t = 0."""
    sigma_max: float = 7.0
    """Noise level at t = 1."""

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min + t * (self.sigma_max - self.sigma_min)

    def sigma_prime(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.sigma_max - self.sigma_min)

    def time_of_log_mask_probability(self, log_rho: Tensor) -> Tensor:
        sigma = -torch.log1p(-torch.exp(log_rho))
        return (sigma - self.sigma_min) / (self.sigma_max - self.sigma_min)


@dataclass(frozen=True)
class Geometric(Schedule):
    """sigma geometric in t between sigma_min and sigma_max."""

    sigma_min: float = 1e-4
    """Noise level at t = 0."""
    sigma_max: float = 20.0
    """Noise level at t = 1."""

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min ** (1 - t) * self.sigma_max**t

    def sigma_prime(self, t: Tensor) -> Tensor:
        return self.sigma(t) * math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha = eps + (1 - eps) cos(pi t / 2)."""

    eps: float = 1e-3
    """Lower limit of alpha, which keeps sigma finite."""

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.log(self.eps + (1 - self.eps) * torch.cos(math.pi / 2 * t))

    def sigma_prime(self, t: Tensor) -> Tensor:
        cosine, sine = torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t)
        return math.pi / 2 * (1 - self.eps) * sine / (self.eps + (1 - self.eps) * cosine)


@dataclass(frozen=True)
class CosineSquared(Schedule):
    """alpha = eps + (1 - eps) cos^2(pi t / 2)."""

    eps: float = 1e-3
    """Lower limit of alpha, which keeps sigma finite."""

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.log(self.eps + (1 - self.eps) * torch.cos(math.pi / 2 * t) ** 2)

    def sigma_prime(self, t: Tensor) -> Tensor:
        alpha = self.eps + (1 - self.eps) * torch.cos(math.pi / 2 * t) ** 2
        return math.pi / 2 * (1 - self.eps) * torch.sin(math.pi * t) / alpha


SCHEDULES: Registry[type[Schedule]] = Registry(
    "noise schedule",
    {
        "loglinear": LogLinear,
        "linear": Linear,
        "geometric": Geometric,
        "cosine": Cosine,
        "cosinesqr": CosineSquared,
    },
)


def build_schedule(name: str, **options: float) -> Schedule:
    """The schedule of that name. ValueError listing the known names or options if one is unknown."""
    kind = SCHEDULES[name]
    try:
        return kind(**options)
    except TypeError:
        known = ", ".join(signature(kind).parameters) or "none"
        raise ValueError(f"noise schedule {name!r} got options {sorted(options)}; it takes: {known}") from None
