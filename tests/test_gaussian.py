"""The Gaussian behind uniform noise: closed values, autodiff and simulation."""

from __future__ import annotations

import pytest
import torch

from diffusion_lm.families.gaussian import kept_probability, largest_is_true, noised_onehot


@pytest.mark.parametrize(("gamma", "expected"), [(-3.5, 0.99905), (-1.75, 0.55976), (-1.0, 0.29704), (2.0, 0.0434)])
def test_probability_that_the_true_one_is_largest(gamma, expected):
    """Values of a simulation with 100,000 draws, 50 symbols."""
    assert float(largest_is_true(torch.tensor([gamma]), 50)) == pytest.approx(expected, abs=5e-3)


def test_two_symbols_have_a_closed_form():
    """P(alpha + sigma (e1 - e2) > 0) = Phi(alpha / (sqrt 2 sigma)), alpha / sigma = e^(-gamma/2)."""
    gamma = torch.linspace(-6, 4, 21, dtype=torch.float64)
    expected = torch.special.ndtr(torch.exp(-gamma / 2) / 2**0.5)
    assert torch.allclose(largest_is_true(gamma, 2), expected, atol=1e-10)


def test_no_signal_means_chance_for_any_number_of_symbols():
    far = torch.tensor([60.0])
    for count in (2, 50, 10_000, 1_000_000):
        assert float(largest_is_true(far, count)) == pytest.approx(1 / count, rel=1e-5)
        assert abs(float(kept_probability(far, count)[0])) < 1e-9


def test_slope_is_the_difference_quotient():
    gamma, step = torch.linspace(-5, -1, 9, dtype=torch.float64), 1e-4
    _, slope = kept_probability(gamma, 1000)
    higher, lower = (kept_probability(gamma + sign * step, 1000)[0] for sign in (1, -1))
    assert torch.allclose(slope, (higher - lower) / (2 * step), rtol=1e-5)
    assert (slope < 0).all()


def test_largest_coordinate_is_uniform_noise():
    """Kept with probability alpha, else any symbol alike: counts within 4.5 standard errors."""
    count, size = 40_000, 5
    x = torch.full((count,), 2)
    for gamma in (-2.0, 0.5):
        w = noised_onehot(x, torch.full((count,), gamma), size, torch.Generator().manual_seed(1))
        share = torch.bincount(w.argmax(-1), minlength=size).double() / count
        alpha = float(kept_probability(torch.tensor([gamma]), size)[0])
        expected = torch.full((size,), (1 - alpha) / size, dtype=torch.float64)
        expected[2] += alpha
        assert ((share - expected).abs() < 4.5 * (expected * (1 - expected) / count).sqrt()).all()
