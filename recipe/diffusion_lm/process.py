"""Forward processes that keep a token with probability alpha(t) and else replace it by a random symbol.

    q_t(z | x) = alpha(t) onehot(x) + beta_pi(t)                   beta_pi: a vector over symbols, sum 1 - alpha
    marginal = process.marginal(t)                                 t [B] -> alpha [B], beta_pi [B, V], rate_in [B, V]
    loss = token_nelbo(marginal, log_x_hat, x, z, row)             nats per token and unit of time

One formula gives the negative ELBO of every such process from its marginal (von Ruette et al., arXiv 2503.04482): with
q = q_t(.|x), q_hat = alpha x_hat + beta_pi, r = q[z] / q_hat[z] and the rate at which symbols replace tokens,
rate_in = beta_pi' - (alpha'/alpha) beta_pi,

    -log p(x) <= int_t0^t1 E_z[ rate_in[z] / q[z] (KL(q || q_hat) + r - log r - 1) ] dt + R0 + K1

R0 is the reconstruction term at t0 and K1 the divergence from the prior at t1. The integral is zero iff x_hat = x, and
tight iff x_hat is the leave-one-out posterior p(x_i | z without position i), because the formula itself adds the
information in z_i. A new family needs only alpha and beta_pi (families/process_family.py); families with a cheaper form
are tested against this one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor


class Marginal(NamedTuple):
    """A process at the times of B rows, computed by `ForwardProcess.marginal`."""

    alpha: Tensor
    """[B] probability that a token is kept."""
    beta_pi: Tensor
    """[B, V] probability that a token is replaced by each symbol; alpha + beta_pi.sum(-1) = 1."""
    rate_in: Tensor
    """[B, V] rate at which each symbol replaces tokens: beta_pi' - (alpha'/alpha) beta_pi, >= 0."""


class ForwardProcess(ABC):
    """alpha and beta_pi over V symbols; rates by automatic differentiation unless a subclass has a closed form."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """[B] -> [B] probability that a token is kept until t."""

    @abstractmethod
    def beta_pi(self, t: Tensor) -> Tensor:
        """[B] -> [B, V] probability of each symbol as a replacement."""

    def marginal(self, t: Tensor) -> Marginal:
        """The marginal at t [B] in (0, 1).

        It is computed in float64, because rates of rare symbols are differences of nearly equal numbers.
        """
        t = t.double()
        ones = torch.ones_like(t)
        alpha, alpha_prime = torch.func.jvp(self.alpha, (t,), (ones,))  # type: ignore[misc]  # two without has_aux
        beta, beta_prime = torch.func.jvp(self.beta_pi, (t,), (ones,))  # type: ignore[misc]
        rate = beta_prime - (alpha_prime / alpha)[:, None] * beta
        return Marginal(alpha, beta, rate.clamp(min=0))


def corrupt(marginal: Marginal, x: Tensor, row: Tensor, keep: Tensor, category: Tensor) -> Tensor:
    """Noised ids [M] of x [M]: x where `keep` [M] < alpha, else a symbol selected by `category` [M] in [0, 1).

    row [M]: index of each token's time among the B times of the marginal.
    """
    alpha, beta_pi, _ = marginal
    cumulative = beta_pi.double().cumsum(-1)
    cumulative = cumulative / cumulative[:, -1:]
    # Row r is shifted to the interval [r, r + 1), so that one search in the flat array serves all rows.
    rows = torch.arange(len(alpha), device=x.device)[:, None]
    drawn = torch.searchsorted((cumulative + rows).flatten(), category.double() + row, right=True)
    symbols = (drawn - row * cumulative.shape[1]).clamp(max=cumulative.shape[1] - 1)
    return torch.where(keep < alpha[row], x, symbols)


def token_nelbo(marginal: Marginal, log_x_hat: Tensor, x: Tensor, z: Tensor, row: Tensor) -> Tensor:
    """Negative ELBO per token and unit of time, [M] nats, >= 0: the product of the two `token_terms`."""
    weight, divergence = token_terms(marginal, log_x_hat, x, z, row)
    return weight * divergence


def token_terms(marginal: Marginal, log_x_hat: Tensor, x: Tensor, z: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """The factors (weight, divergence) of each token's negative ELBO, [M] each, over all V symbols in float64.

    log_x_hat: [M, V] the network's log-probabilities of the clean token. x, z: [M] clean and noised ids.
    row: [M] index of each token's time among the B times of the marginal.
    """
    alpha, beta_pi, rate_in = (part.to(log_x_hat.device).double()[row] for part in marginal)
    q_hat = alpha[:, None] * log_x_hat.double().exp() + beta_pi
    q = beta_pi.clone()
    q.scatter_add_(1, x[:, None], alpha[:, None])
    kl = torch.special.xlogy(q, q).sum(-1) - torch.where(q > 0, q * q_hat.clamp(min=1e-300).log(), 0.0).sum(-1)
    at_z = q.gather(1, z[:, None])[:, 0]
    ratio = at_z / q_hat.gather(1, z[:, None])[:, 0]
    weight = rate_in.gather(1, z[:, None])[:, 0] / at_z
    return weight, kl + ratio - ratio.log() - 1


def reconstruction(marginal: Marginal, log_x_hat: Tensor, x: Tensor, z: Tensor, row: Tensor) -> Tensor:
    """R0 of each token, [M] nats: -log p(x | z) at the smallest time, p(x | z) = x_hat[x] q(z | x) / q_hat[z]."""
    alpha, beta_pi, _ = (part.to(log_x_hat.device).double() for part in marginal)
    log_x_hat = log_x_hat.double()
    beta_z = beta_pi[row, z]
    likelihood = alpha[row] * (x == z) + beta_z
    q_hat = alpha[row] * log_x_hat.gather(1, z[:, None])[:, 0].exp() + beta_z
    return -(log_x_hat.gather(1, x[:, None])[:, 0] + likelihood.log() - q_hat.log())


def prior_divergence(marginal: Marginal, x: Tensor, row: Tensor) -> Tensor:
    """K1 of each token, [M] nats: KL of q_t1(. | x) from the prior beta_pi / (1 - alpha), with t1 the largest time."""
    alpha, beta_x = marginal.alpha.double()[row], marginal.beta_pi.double()[row, x]
    q_x = alpha + beta_x
    # For symbols other than x the ratio of both is 1 - alpha. If the prior never draws x, the divergence is infinite.
    return torch.special.xlogy(q_x, q_x / beta_x) + torch.log1p(-alpha)


def posterior(now: Marginal, before: Marginal, x_hat: Tensor, z: Tensor, row: Tensor) -> Tensor:
    """p(z_s | z_t) for s < t, [M, V] with rows that sum to 1, from probabilities x_hat [M, V] of the clean token:

        q(z_t | z_s) (alpha_s x_hat + beta_pi_s)[z_s] / (alpha_t x_hat + beta_pi_t)[z_t]

    with q(z_t | z_s) = alpha_t/alpha_s onehot(z_s) + beta_pi_t - alpha_t/alpha_s beta_pi_s.
    """
    x_hat = x_hat.double()
    kept = now.alpha / before.alpha
    incoming = (now.beta_pi - kept[:, None] * before.beta_pi).clamp(min=0)  # [B, V] of z_t, rounding below 0 cut off
    joint = before.alpha[row, None] * x_hat + before.beta_pi[row]
    stays = torch.zeros_like(joint).scatter_(1, z[:, None], kept[row, None])
    weights = (stays + incoming[row, z][:, None]) * joint
    return weights / weights.sum(-1, keepdim=True)
