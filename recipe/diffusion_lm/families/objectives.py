"""Training losses of D3PM and SEDD per token: masked diffusion where the network also predicts when a token is
revealed.

    loss = d3pm_loss(log_prob, log_mask, Step(alpha_s, rho_s, alpha_t, rho_t), num_steps=1000)      # [M] nats
    loss = sedd_loss(log_prob, log_mass, weight)                                                    # [M] nats

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

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_LOG_MASS = 20.0  # nats; above it `sedd_loss` replaces e^a by its tangent


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

    def at(self, row: Tensor) -> Step:
        return Step(*(part[row] for part in self))


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
