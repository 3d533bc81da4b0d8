"""Policies of adaptive masking: which tokens are masked and predicted, given the predicted ranks of their difficulty.

    policy = Tilted(beta=1.0)
    choice = policy.choose(score, rho, free, layout, draw)       # score, rho, free: [N]

adaptive.py says what each policy does to the training loss.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families.base import sum_over_rows
from diffusion_lm.layout import Layout

UNIFORM_SHARE = 0.5
"""Share of the rows with uniform masks in "proposal"; it keeps every weight below 2 (Owen and Zhou, 2000)."""
LARGEST_SECOND_MOMENT = 2.0
"""Tilts of a row in "proposal" are scaled down until its E[W^2] is at most this, an effective sample size of half."""
# Interval of scores of each stage of the curriculum.
BANDS = {"easy": (0.0, 0.3), "medium": (0.3, 0.7), "hard": (0.7, 1.0)}


class Choice(NamedTuple):
    """What a policy trains on in one batch."""

    masked: Tensor
    """[N] True where a token is masked."""
    select: Tensor
    """[M] flat positions of the masked tokens that are predicted."""
    factor: Tensor
    """[M] factor of their losses."""
    represented: Tensor
    """[M] number of masked tokens that each of them represents."""
    penalty: Tensor | float = 0.0
    """Nats, sum over the batch, that makes the loss a bound."""
    weight: Tensor | None = None
    """[B] importance weights of the rows, part of `factor`; None: all are 1."""


class Policy(ABC):
    """A way to choose what is trained on."""

    is_bound: ClassVar[bool] = False
    """Whether its training loss is the bound of another model, which holds in continuous time only."""
    is_weighted: ClassVar[bool] = False
    """Whether rows have importance weights, so that the divisor of the loss must not depend on the masks."""

    @abstractmethod
    def choose(self, score: Tensor, rho: Tensor, free: Tensor, layout: Layout, draw: NoiseDraw) -> Choice:
        """What is masked and predicted.

        score [N]: predicted ranks of difficulty in (0, 1). rho [N]: mask probabilities of the masked family. free [N]:
        True where a token can be masked.
        """


@dataclass(frozen=True)
class Losses(Policy):
    """Masks are uniform, and hard masked tokens are predicted more often than easy ones."""

    pi_min: float
    """Smallest probability that the loss of a masked token is computed."""

    def __post_init__(self) -> None:
        if not 0 < self.pi_min <= 1:
            raise ValueError(f"family.pi_min {self.pi_min}: expected a probability above 0")

    def choose(self, score: Tensor, rho: Tensor, free: Tensor, layout: Layout, draw: NoiseDraw) -> Choice:
        masked = (draw.keep < rho) & free
        inclusion = self.pi_min + (1 - self.pi_min) * score
        select = (masked & (draw.category < inclusion)).nonzero()[:, 0]
        factor = 1 / inclusion[select]
        return Choice(masked, select, factor, factor)


@dataclass(frozen=True)
class Curriculum(Policy):
    """Masks are uniform, and tokens of the difficulty of the current stage weigh more."""

    curriculum_steps: int
    """Length in optimizer steps."""
    easy_until: float
    """Share of them after which stage "medium" begins."""
    medium_until: float
    """Share of them after which stage "hard" begins."""
    focus: float
    """Weight of tokens in the band of the current stage."""

    def __post_init__(self) -> None:
        if self.curriculum_steps < 1:
            raise ValueError(f"family.curriculum_steps {self.curriculum_steps}: expected a number of optimizer steps")
        if not 0 <= self.easy_until <= self.medium_until <= 1 or self.focus < 1:
            raise ValueError(
                f"family.easy_until {self.easy_until}, family.medium_until {self.medium_until}, "
                f"family.focus {self.focus}: expected 0 <= easy <= medium <= 1 and focus >= 1"
            )

    def choose(self, score: Tensor, rho: Tensor, free: Tensor, layout: Layout, draw: NoiseDraw) -> Choice:
        masked = (draw.keep < rho) & free
        select = masked.nonzero()[:, 0]
        return Choice(masked, select, self.emphasis(score[select], draw.step), torch.ones_like(score[select]))

    def stage(self, step: int) -> str:
        """Name of the stage at an optimizer step."""
        done = step / self.curriculum_steps
        return "easy" if done < self.easy_until else "medium" if done < self.medium_until else "hard"

    def emphasis(self, score: Tensor, step: int) -> Tensor:
        """[M] weights with mean 1; tokens in the band of the stage weigh `focus` times as much as the others."""
        low, high = BANDS[self.stage(step)]
        weight = torch.where((score >= low) & (score <= high), self.focus, 1.0)
        return weight / weight.mean()


@dataclass(frozen=True)
class Tilted(Policy):
    """Tokens with a high score are masked more often, at a penalty."""

    is_bound: ClassVar[bool] = True

    beta: float
    """Largest difference of the log-odds of being masked, nats."""

    def __post_init__(self) -> None:
        _check_beta(self.beta)

    def choose(self, score: Tensor, rho: Tensor, free: Tensor, layout: Layout, draw: NoiseDraw) -> Choice:
        tilt = self.beta * centred(score, free, layout)
        masked = (draw.keep < tilted_rate(rho, tilt)) & free
        select = masked.nonzero()[:, 0]
        factor = tilted_weight(rho[select], tilt[select])
        return Choice(masked, select, factor, torch.ones_like(factor), tilt_penalty(tilt[free]).sum())


@dataclass(frozen=True)
class Proposal(Policy):
    """Tokens with a high score are masked more often in half of the rows, and rows are weighted for it."""

    is_weighted: ClassVar[bool] = True

    beta: float

    def __post_init__(self) -> None:
        _check_beta(self.beta)

    def choose(self, score: Tensor, rho: Tensor, free: Tensor, layout: Layout, draw: NoiseDraw) -> Choice:
        row, rows = layout.row, len(layout.lengths)
        tilt = self.beta * centred(score, free, layout)
        tilt = tilt * bounded_scale(tilt, rho, free, layout)[row]
        second = torch.cumsum(layout.lengths, 0) - layout.lengths + 1  # every row has BOS and EOS
        tilted = draw.category[second] >= UNIFORM_SHARE
        masked = (draw.keep < torch.where(tilted[row], tilted_rate(rho, tilt), rho)) & free
        # log of the probability of these masks if they are uniform, minus that if they are tilted
        log_ratio = torch.log1p(rho * torch.expm1(tilt)) - tilt * masked
        log_ratio = sum_over_rows(log_ratio[free], row[free], rows)
        weight = (1 / (UNIFORM_SHARE + (1 - UNIFORM_SHARE) * torch.exp(-log_ratio))).to(score)
        select = masked.nonzero()[:, 0]
        factor = weight[row[select]]
        return Choice(masked, select, factor, factor, weight=weight)


POLICIES: dict[str, type[Policy]] = {
    "losses": Losses,
    "curriculum": Curriculum,
    "tilted": Tilted,
    "proposal": Proposal,
}


def centred(score: Tensor, free: Tensor, layout: Layout) -> Tensor:
    """[N] score minus its mean over the free tokens of the row, between -1 and 1."""
    ones = torch.ones_like(score[free])
    total, count = (sum_over_rows(part, layout.row[free], len(layout.lengths)) for part in (score[free], ones))
    mean = total / count.clamp(min=1)
    return score - mean.to(score)[layout.row]


def log_second_moment(tilt: Tensor, rho: Tensor) -> Tensor:
    """log E[W^2] of a token, where W is the ratio of its mask probabilities, uniform to tilted; E is over tilted masks.

    E[W^2] = rho^2/m + (1 - rho)^2/(1 - m) = 1 + 2 rho (1 - rho) (cosh(tilt) - 1) for m = `tilted_rate`. The weight of a
    row is the product over its tokens, and 1/E[W^2] is its effective sample size as a share.
    """
    return torch.log1p(2 * rho * (1 - rho) * (torch.cosh(tilt) - 1))


def bounded_scale(tilt: Tensor, rho: Tensor, free: Tensor, layout: Layout) -> Tensor:
    """[B] the largest factor up to 1 of a row's tilts with which its E[W^2] is at most LARGEST_SECOND_MOMENT."""
    row, rows = layout.row[free], len(layout.lengths)
    dtype, tilt, rho = tilt.dtype, tilt[free].double(), rho[free].double()
    limit = math.log(LARGEST_SECOND_MOMENT)

    def fits(scale: Tensor) -> Tensor:
        return sum_over_rows(log_second_moment(tilt * scale[row], rho), row, rows) <= limit

    high = torch.ones(rows, dtype=torch.float64, device=tilt.device)
    whole, low = fits(high), torch.zeros_like(high)
    for _ in range(20):  # E[W^2] grows with the factor
        middle = (low + high) / 2
        fitting = fits(middle)
        low, high = torch.where(fitting, middle, low), torch.where(fitting, high, middle)
    return torch.where(whole, 1.0, low).to(dtype)


def tilted_rate(rho: Tensor, tilt: Tensor) -> Tensor:
    """Probability of being masked if the odds of rho are multiplied by e^tilt; exactly rho where the tilt is 0."""
    return rho * torch.exp(tilt) / (1 + rho * torch.expm1(tilt))


def tilted_weight(rho: Tensor, tilt: Tensor) -> Tensor:
    """Reverse rate m'/m of a tilted token divided by the untilted rate rho'/rho."""
    return 1 / (1 + rho * torch.expm1(tilt))


def tilt_penalty(tilt: Tensor) -> Tensor:
    """a coth(a/2) - 2 nats, >= 0 and even in a.

    It is the integral of m (1/t - r + r log(r t)) dt with r = m'/m and the model's rate 1/t.
    """
    a = tilt.double()
    # For small a the closed form is a difference of nearly equal numbers, so the series is used there.
    series = a**2 / 6 - a**4 / 360
    near = a.abs() < 0.03
    return torch.where(near, series, a / torch.tanh(a.masked_fill(near, 1.0) / 2) - 2).to(tilt)


def _check_beta(beta: float) -> None:
    if not -10 <= beta <= 10:
        raise ValueError(f"family.beta {beta}: expected -10 to 10 nats")
