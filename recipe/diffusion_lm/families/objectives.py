"""What a masked network is trained on: the losses of MDLM (SUBS), D3PM and SEDD.

    objective = Subs(times, weighting="nelbo")                         # times: families/times.py
    loss = objective.loss(family, network, sentences, draw)            # a TokenLoss

In D3PM (Austin et al., arXiv 2107.03006) the network can also predict the mask. In SEDD (Lou et al., arXiv 2310.16834)
it predicts ratios of probabilities s_y = p(z with y at i) / p(z), whose sum is not fixed. Both predict two things at a
masked position: when it is revealed, and as which symbol. The outputs normalised over the real symbols are a denoiser.
The time of the reveal is the same for every token, so there is nothing to learn, and errors in it only add to the loss.
For every token and every mask,

    d3pm_loss >= SUBS loss of that denoiser in discrete time
    sedd_loss >= SUBS loss of that denoiser in continuous time

with equality if the network never predicts the mask, or if its ratios sum to alpha/(1 - alpha). Scores from the
denoiser are therefore a valid bound (SUBS only needs a normalised denoiser) that is at least as tight as the training
loss.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families.base import Denoiser, Family, TokenLoss, on_device_of
from diffusion_lm.families.log_probs import at_least_float32
from diffusion_lm.families.times import ContinuousTimes, DiscreteTimes, Times
from diffusion_lm.layout import Sentences

LARGEST_LOG_MASS = 20.0  # nats; above it `sedd_loss` replaces e^a by its tangent


@dataclass(frozen=True)
class Objective(ABC):
    """The loss of one training batch of a masked family."""

    times: Times
    """How training times are drawn."""

    @abstractmethod
    def loss(self, family: Family, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        """The loss, as in `Family.training_loss`."""


def bound(cross_entropy: Tensor, weight: Tensor, num_masked: Tensor, num_scored: Tensor) -> TokenLoss:
    """The loss whose expectation is the bound. cross_entropy, weight: [M]; the two numbers are those of the batch."""
    return TokenLoss(on_device_of(weight, cross_entropy) * cross_entropy, num_scored.clamp(min=1))


def masked_mean(cross_entropy: Tensor, weight: Tensor, num_masked: Tensor, num_scored: Tensor) -> TokenLoss:
    """The mean cross-entropy of the masked tokens, without the weights of the bound."""
    return TokenLoss(cross_entropy, num_masked.clamp(min=1))


WEIGHTINGS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], TokenLoss]] = {
    "nelbo": bound,
    "masked_mean": masked_mean,
}


@dataclass(frozen=True)
class Subs(Objective):
    """Cross-entropy of the masked tokens (MDLM)."""

    weighting: str
    """Key of WEIGHTINGS."""

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"family.weighting {self.weighting!r}; expected one of {', '.join(WEIGHTINGS)}")

    def loss(self, family: Family, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        rho, weight, level = self.times.at(draw.time)
        row = sentences.layout.row
        masked = (draw.keep < rho[row]) & family.scored(sentences)
        cross_entropy = -family.token_log_probs(network, sentences, masked, level=level)
        num_scored = family.num_scored(sentences.layout).sum()
        return WEIGHTINGS[self.weighting](cross_entropy, weight[row[masked]], masked.sum(), num_scored)


@dataclass(frozen=True)
class D3pm(Objective):
    """The step at masked positions, and from a second network run the reconstruction -log p(x | z = x, t = 0) at all
    scored positions.
    """

    times: DiscreteTimes
    """How training times are drawn, in discrete time."""
    subs_masking: bool
    """Whether the network never predicts the mask."""

    def __post_init__(self) -> None:
        if not isinstance(self.times, DiscreteTimes):
            raise ValueError("family.parameterization 'd3pm' is in discrete time; expected family.T > 0, e.g. 1000")

    def loss(self, family: Family, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        noise, row, num_steps = self.times.noise, sentences.layout.row, self.times.T
        number = self.times.number(draw.time)
        s, t = (number - 1) / num_steps, number / num_steps
        step = Step(noise.alpha(s), noise.mask_probability(s), noise.alpha(t), noise.mask_probability(t))
        level = noise.sigma(t).to(draw.time)
        free = family.scored(sentences)
        masked = (draw.keep < step.rho_t.to(draw.keep)[row]) & free
        log_prob, log_mask = self._with_mask(family, network, sentences, masked, level, masked)
        steps = Step(*(on_device_of(part[row[masked]], log_prob) for part in step))
        diffusion = d3pm_loss(log_prob, log_mask, steps, num_steps)
        clean = noise.sigma(torch.zeros_like(draw.time))
        reconstruction = -self._with_mask(family, network, sentences, torch.zeros_like(free), clean, free)[0]
        return TokenLoss(torch.cat([diffusion, reconstruction]), family.num_scored(sentences.layout).sum().clamp(min=1))

    def _with_mask(
        self, family: Family, network: Denoiser, sentences: Sentences, masked: Tensor, level: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """([M] log p of the clean token, [M] log p of the mask), normalised together, where `wanted` [N] is True."""
        mask_id, select = family.special.mask_id, wanted.nonzero()[:, 0]
        z = sentences.ids.masked_fill(masked, mask_id)
        logits = family.logits(network, z, sentences.layout, level=level, select=select)
        symbols = family.possible(logits)
        mask = at_least_float32(logits[:, mask_id])
        if self.subs_masking:
            mask = torch.full_like(mask, -torch.inf)
        total = torch.logaddexp(symbols.logsumexp(-1), mask)
        clean = symbols.gather(1, on_device_of(sentences.ids[select], symbols)[:, None])[:, 0]
        return clean - total, mask - total


@dataclass(frozen=True)
class Sedd(Objective):
    """Score entropy with log s = logits + log(alpha/(1 - alpha)) - log(number of symbols).

    The scale alpha/(1 - alpha) comes from the schedule. MDLM takes it from the network's noise level, which is 0
    without time conditioning, and therefore needs time conditioning here.
    """

    def __post_init__(self) -> None:
        if not isinstance(self.times, ContinuousTimes):
            raise ValueError(
                "family.parameterization 'sedd' is in continuous time with uniform times; expected family.T 0, "
                "without family.importance_sampling or family.change_of_variables"
            )

    def loss(self, family: Family, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        rho, weight, level = self.times.at(draw.time)
        row = sentences.layout.row
        masked = (draw.keep < rho[row]) & family.scored(sentences)
        z, select = sentences.ids.masked_fill(masked, family.special.mask_id), masked.nonzero()[:, 0]
        logits = family.possible(family.logits(network, z, sentences.layout, level=level, select=select))
        total = logits.logsumexp(-1)
        log_prob = logits.gather(1, on_device_of(sentences.ids[select], logits)[:, None])[:, 0] - total
        log_mass = total - math.log(len(family.symbols))
        loss = sedd_loss(log_prob, log_mass, on_device_of(weight[row[select]], log_prob))
        return TokenLoss(loss, family.num_scored(sentences.layout).sum().clamp(min=1))


OBJECTIVES: dict[str, type[Objective]] = {"subs": Subs, "d3pm": D3pm, "sedd": Sedd}


class Step(NamedTuple):
    """A step of the reverse process from t to s < t for each of M tokens. rho = 1 - alpha is stored too, because either
    can be tiny.
    """

    alpha_s: Tensor
    """[M] probability that a token is kept until s."""
    rho_s: Tensor
    """[M] 1 - alpha_s; 0 at s = 0."""
    alpha_t: Tensor
    """[M] probability that a token is kept until t."""
    rho_t: Tensor
    """[M] 1 - alpha_t, above 0."""


def d3pm_loss(log_prob: Tensor, log_mask: Tensor, step: Step, num_steps: int) -> Tensor:
    """num_steps KL(q(z_s | z_t = mask, x) || p(z_s | z_t = mask)), [M] nats, >= 0; in the dtype of `log_prob`.

    log_prob [M]: log p of the clean token. log_mask [M]: log p of the mask, -inf if the network can not predict it.
    Both are normalised over all symbols and the mask. With q = exp(log_mask), reveal = (alpha_s - alpha_t)/rho_t, A =
    log(1 + alpha_t q/rho_t), B = log(1 + alpha_s q/rho_s):

        loss = T [reveal (A - log p(x)) + (1 - reveal) (A - B)]

    At s = 0 everything is revealed and (1 - reveal) B -> 0. The formula as written gives 0 times infinity there, so the
    code takes the limit.
    """
    dtype = log_prob.dtype
    # float64, because T (A - B) is a difference of nearly equal numbers; it is cheap for M numbers.
    log_prob, log_mask = log_prob.double(), log_mask.double()
    alpha_s, rho_s, alpha_t, rho_t = (part.double() for part in step)
    reveal, stay = (alpha_s - alpha_t) / rho_t, rho_s / rho_t
    now = F.softplus(log_mask + (alpha_t / rho_t).log(), threshold=40)
    before = F.softplus(log_mask + (alpha_s / rho_s.masked_fill(rho_s <= 0, 1)).log(), threshold=40)
    return (num_steps * (reveal * (now - log_prob) + stay * (now - before))).to(dtype)


def sedd_loss(log_prob: Tensor, log_mass: Tensor, weight: Tensor) -> Tensor:
    """Score entropy of the absorbing process at masked positions, [M] nats, >= 0.

    log_prob [M]: log s_x - log sum_y s_y, the log p of the denoiser. log_mass [M]: a = log((sum_y s_y)/r), summed over
    the real symbols y. weight [M]: that of the SUBS loss, w = sigma' r with r = alpha/(1 - alpha). In these terms, the
    score entropy sigma' [sum_y s_y - r log s_x + r (log r - 1)] is

        loss = w (-log_prob + e^a - 1 - a)

    Above a = LARGEST_LOG_MASS (ratios e^20 times too large) e^a is replaced by its tangent. The loss is then lower than
    the score entropy, but finite, and its gradient still reduces a. A new network starts at a = 0, and a perfect one
    has a = 0.
    """
    within = log_mass.clamp(max=LARGEST_LOG_MASS)
    exponential = torch.expm1(within) + torch.exp(within) * (log_mass - within)
    return weight * (exponential - log_mass - log_prob)
