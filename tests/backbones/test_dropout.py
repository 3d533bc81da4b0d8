"""Dropout on a CPU is dropout: who is left out, by which factor the others grow, and the gradient."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion_lm.backbones.cpu import dropout


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_share_and_factor(p):
    torch.manual_seed(1)
    count = 200_003
    x = torch.rand(count).add(1).requires_grad_()
    out = dropout(x, p, True)
    kept = out != 0
    assert abs(int(kept.sum()) - (1 - p) * count) < 4 * math.sqrt(count * p * (1 - p))
    assert torch.allclose(out[kept], x[kept] / (1 - p), rtol=2e-4)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.allclose(gradient, kept / (1 - p), rtol=2e-4)


def test_neighbours_are_independent():
    """Four numbers come from one of the generator's."""
    torch.manual_seed(1)
    kept = (dropout(torch.ones(400_000), 0.5, True) != 0).double().view(-1, 4)
    assert torch.corrcoef(kept.T).fill_diagonal_(0).abs().max() < 4 / math.sqrt(len(kept))


def test_it_follows_the_seed_and_is_nothing_in_evaluation():
    x = torch.randn(3, 5)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(dropout(x, 0.5, True))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(dropout(x, 0.5, False), x)
    assert torch.equal(dropout(x, 0.0, True), x)
    assert torch.isfinite(dropout(x, 0.999999, True)).all()
