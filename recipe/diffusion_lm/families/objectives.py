"""Training losses of the masked process for networks that say more than which piece it is: D3PM and SEDD, token by token.

    loss = d3pm_loss(log_prob, log_mask, Step(alpha_s, rho_s, alpha_t, rho_t), num_steps=1000)      # [M] nats
    loss = sedd_loss(log_prob, log_mass, weight)                                                    # [M] nats

D3PM (Austin et al., arXiv 2107.03006): the network may answer "still masked" too. SEDD (Lou et al., arXiv 2310.16834): it gives ratios of
probabilities s_y = p(z with y at i) / p(z) whose sum is free. Both say two things at a masked place: how soon it is revealed, and as what.
The second alone is a denoiser: the answers normalised over the real symbols. The first is the same for every token, the network has nothing
to learn there, and being wrong about it costs extra. So, token by token and mask by mask,

    d3pm_loss >= SUBS loss in discrete time of that denoiser,      sedd_loss >= SUBS loss in continuous time of that denoiser,

equal where the network never answers the mask, or its ratios add up to alpha/(1 - alpha). Whoever scores with the denoiser has a bound that is
valid (SUBS needs nothing but a normalised denoiser) and no looser than what was trained.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_LOG_MASS = 20.0  # nats; above it e^a is continued by its tangent


class Step(NamedTuple):
    """A step of the reverse process from t to s < t for each of M tokens; rho = 1 - alpha, kept apart because one of them is tiny."""

    alpha_s: Tensor
    """[M] probability that a token is kept until s."""
    rho_s: Tensor
    """[M] 1 - alpha_s; 0 where s is the clean end."""
    alpha_t: Tensor
    """[M] probability that a token is kept until t."""
    rho_t: Tensor
    """[M] 1 - alpha_t, above 0."""

    def at(self, row: Tensor) -> Step:
        return Step(*(part[row] for part in self))


def d3pm_loss(log_prob: Tensor, log_mask: Tensor, step: Step, num_steps: int) -> Tensor:
    """num_steps KL(q(z_s | z_t = mask, x) || p(z_s | z_t = mask)), [M] nats, >= 0; in the dtype of `log_prob`.

    log_prob [M] log of the network's probability of the clean token, log_mask [M] that of the mask; together over all symbols they sum to 1
    (-inf where the mask is forbidden). With reveal = (alpha_s - alpha_t)/rho_t, A = log(1 + alpha_t q/rho_t), B = log(1 + alpha_s q/rho_s):

        loss = T [reveal (A - log p(x)) + (1 - reveal) (A - B)]

    At s = 0 everything is revealed and (1 - reveal) B -> 0, so the second term is 0 there; written down as it stands it is 0 times infinity.
    """
    dtype = log_prob.dtype
    # M numbers, not M rows of symbols: float64 is free, and T (A - B) is a difference of nearly equal numbers.
    log_prob, log_mask = log_prob.double(), log_mask.double()
    alpha_s, rho_s, alpha_t, rho_t = (part.double() for part in step)
    reveal, stay = (alpha_s - alpha_t) / rho_t, rho_s / rho_t
    now = F.softplus(log_mask + (alpha_t / rho_t).log(), threshold=40)
    before = F.softplus(log_mask + (alpha_s / rho_s.masked_fill(rho_s <= 0, 1)).log(), threshold=40)
    return (num_steps * (reveal * (now - log_prob) + stay * (now - before))).to(dtype)


def sedd_loss(log_prob: Tensor, log_mass: Tensor, weight: Tensor) -> Tensor:
    """Score entropy of the absorbing process at masked places, [M] nats, >= 0.

    log_prob [M] log s_x - log sum_y s_y, the denoiser's; log_mass [M] a = log((sum_y s_y)/r), y over the real symbols; weight [M] of the SUBS
    loss, w = sigma' r with r = alpha/(1 - alpha). Written with these, the score entropy sigma' [sum_y s_y - r log s_x + r (log r - 1)] is

        loss = w (-log_prob + e^a - 1 - a)

    Above a = LARGEST_LOG_MASS (ratios e^20 times too large) e^a goes on as its tangent: the loss is then lower than the score entropy, but
    finite, and its gradient still leads back. A new network starts at a = 0, a perfect one ends there.
    """
    within = log_mass.clamp(max=LARGEST_LOG_MASS)
    exponential = torch.expm1(within) + torch.exp(within) * (log_mass - within)
    return weight * (exponential - log_mass - log_prob)
