"""Uniform noise as the argmax of Gaussian noise, for the training curriculum of Duo (Sahoo et al., arXiv 2506.10892).

    w = alpha onehot(x) + sigma eps,   eps ~ N(0, 1) for each of N symbols
    alpha^2 = sigmoid(-gamma),   sigma^2 = sigmoid(gamma)

argmax w is distributed exactly as uniform diffusion with the alpha of `kept_probability`. The curriculum trains the
network on softmax(w / tau), which still contains some information about x and is therefore easier. As tau goes to 0,
this becomes the argmax.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NODES = 200  # quadrature nodes; the error is 2e-6 for a million symbols


def largest_is_true(gamma: Tensor, num_symbols: int) -> Tensor:
    """P(gamma), the probability that the true coordinate is the largest.

    Returns [B] float64: int phi(u - e^(-gamma/2)) Phi(u)^(N-1) du.
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    shift = torch.exp(-gamma.double() / 2)
    # phi is negligible farther than 10 from its centre.
    offset = torch.from_numpy(nodes).to(shift.device) * 10
    log_phi = -0.5 * offset**2 - 0.5 * math.log(2 * math.pi)
    log_others = (num_symbols - 1) * torch.special.log_ndtr(offset + shift[:, None])
    return ((log_phi + log_others).exp() * torch.from_numpy(weights).to(shift.device) * 10).sum(-1)


def kept_probability(gamma: Tensor, num_symbols: int) -> tuple[Tensor, Tensor]:
    """(alpha of the uniform process, d alpha / d gamma), [B] float64 each, with alpha = (N P - 1)/(N - 1)."""

    def alpha(value: Tensor) -> Tensor:
        return (num_symbols * largest_is_true(value, num_symbols) - 1) / (num_symbols - 1)

    ones = torch.ones_like(gamma, dtype=torch.float64)
    value, slope = torch.func.jvp(alpha, (gamma.double(),), (ones,))  # type: ignore[misc]
    return value, slope


def noised_onehot(x: Tensor, gamma: Tensor, num_symbols: int, generator: torch.Generator) -> Tensor:
    """Draw w [M, N], float32, for clean symbols x [M] in 0 .. N - 1 and gamma [M], on the device of x."""
    noise = torch.randn(len(x), num_symbols, generator=generator, device=x.device)
    gamma = gamma.float()[:, None]
    return torch.sigmoid(-gamma).sqrt() * F.one_hot(x, num_symbols) + torch.sigmoid(gamma).sqrt() * noise
