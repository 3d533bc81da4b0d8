"""How training times are drawn: a uniform number of each row becomes a mask probability, a weight and a noise level.

    times = ContinuousTimes(noise, low=1e-3, high=1.0)
    rho, weight, level = times.at(draw.time)          # [B] each, from uniform numbers [B] in [0, 1)

The mean over the uniform number of the weighted losses is the bound, whichever of the four ways is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lm.schedule import Schedule


class Noised(NamedTuple):
    """Noise of B rows at their times."""

    rho: Tensor
    """[B] probability that a token is masked."""
    weight: Tensor
    """[B] weight of the cross-entropy of a masked token."""
    level: Tensor
    """[B] noise level that the network is conditioned on."""


@dataclass(frozen=True)
class Times(ABC):
    """A distribution of training times between `low` and `high`."""

    noise: Schedule
    """Schedule of the masks."""
    low: float
    """Smallest time."""
    high: float
    """Largest time."""

    @abstractmethod
    def at(self, uniform: Tensor) -> Noised:
        """The noise of each row, from its uniform number [B]."""

    def level(self, t: Tensor) -> Tensor:
        """[B] noise level for the network at times t [B] within the interval."""
        return self.noise.sigma(t)

    def between(self, uniform: Tensor) -> Tensor:
        """[B] uniform times between `low` and `high`."""
        return self.low + (self.high - self.low) * uniform


@dataclass(frozen=True)
class ContinuousTimes(Times):
    """Uniform times, with the weight w = -alpha'/(1 - alpha)."""

    def at(self, uniform: Tensor) -> Noised:
        t = self.between(uniform)
        return Noised(self.noise.mask_probability(t), self.noise.weight(t), self.noise.sigma(t))


@dataclass(frozen=True)
class DiscreteTimes(Times):
    """Uniform times in 1/T, 2/T .. 1, with the weight T (alpha(s) - alpha(t)) / (1 - alpha(t)) where s = t - 1/T."""

    T: int
    """Number of steps."""

    def number(self, uniform: Tensor) -> Tensor:
        """[B] index of the step of each row, 1 .. T, float64; with T >= 1/low, step 1 is never drawn."""
        return ((self.between(uniform) * self.T).floor() + 1).clamp(max=self.T).double()

    def at(self, uniform: Tensor) -> Noised:
        # float64, because alpha(s) and alpha(t) differ by about 1/T only: float32 would leave three digits.
        t = self.number(uniform) / self.T
        kept_before = self.noise.alpha((t - 1 / self.T).clamp(min=0))
        rho = self.noise.mask_probability(t)
        weight = self.T * (kept_before - self.noise.alpha(t)) / rho
        return Noised(*(part.to(uniform.dtype) for part in (rho, weight, self.noise.sigma(t))))


@dataclass(frozen=True)
class ImportanceTimes(Times):
    """Times with ln rho uniform between its values at the ends, so that the weight is constant: the width of that
    interval. ValueError if the schedule has no inverse.
    """

    def __post_init__(self) -> None:
        self.noise.time_of_log_mask_probability(torch.zeros(1))

    def at(self, uniform: Tensor) -> Noised:
        ends = self.noise.mask_probability(torch.tensor([self.low, self.high], dtype=torch.float64)).log().tolist()
        log_rho = ends[0] + (ends[1] - ends[0]) * uniform
        return Noised(log_rho.exp(), torch.full_like(uniform, ends[1] - ends[0]), self.level_of(uniform, log_rho))

    def level_of(self, uniform: Tensor, log_rho: Tensor) -> Tensor:
        """[B] noise level for the network, given the uniform number and ln rho, [B] each."""
        return self.noise.sigma(self.noise.time_of_log_mask_probability(log_rho))


@dataclass(frozen=True)
class VariateTimes(ImportanceTimes):
    """The same times; the network is conditioned on the uniform number itself."""

    def level_of(self, uniform: Tensor, log_rho: Tensor) -> Tensor:
        return uniform

    def level(self, t: Tensor) -> Tensor:
        ends = self.noise.mask_probability(torch.tensor([self.low, self.high])).log().to(t)
        return (self.noise.mask_probability(t).log() - ends[0]) / (ends[1] - ends[0])
