"""Numbers that a family draws beyond its two a position: keyed by these two, never by a seed that all draws share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffusion_lm.draws import NoiseDraw, draw_noise
from rescore.estimators.drawn_noise import Draw
from rescore.lms.network_noise import _stacked


def gaussian_of(lengths, seed=1, width=4):
    draw = draw_noise(torch.tensor(lengths), torch.Generator().manual_seed(seed), stratified=False)
    return draw, draw.gaussian(width)


def test_gaussian_numbers_are_standard_normal_and_independent():
    """Moments within 5 standard errors; correlations between the numbers of a position and of neighbours too."""
    _, found = gaussian_of([20000], width=8)
    count = found.numel()
    assert found.shape == (20000, 8) and found.dtype == torch.float32 and bool(found.isfinite().all())
    assert abs(float(found.mean())) < 5 / math.sqrt(count)
    assert abs(float(found.var()) - 1) < 5 * math.sqrt(2 / count)
    for left, right in ((found[:, :-1], found[:, 1:]), (found[:-1], found[1:])):
        assert abs(float((left * right).mean())) < 5 / math.sqrt(left.numel())


def test_gaussian_numbers_follow_from_the_position_and_not_from_the_batch():
    draw, together = gaussian_of([3, 5])
    alone = NoiseDraw(draw.time[1:], draw.keep[3:], draw.category[3:]).gaussian(4)
    assert torch.equal(together[3:], alone)


def test_every_draw_of_a_score_has_its_own_gaussian_numbers_and_hypotheses_share_them():
    generator = np.random.default_rng(1)
    first, second = (Draw(0, 0.5, *generator.random((2, 3))) for _ in range(2))
    shorter = Draw(0, 0.5, first.keep[1:], first.category[1:])  # a hypothesis without the first token
    found = _stacked([first, second, shorter]).gaussian(4)
    rows = found[1:4], found[5:8], found[9:11]  # behind BOS
    assert not bool((rows[0] == rows[1]).any())
    assert torch.equal(rows[0][1:], rows[2])


def test_a_score_refuses_a_family_that_would_draw_from_a_seed_that_all_draws_share():
    draw = _stacked([Draw(0, 0.5, *np.full((2, 3), 0.5))])
    with pytest.raises(ValueError, match="has no seed"):
        draw.generator()
    assert draw._replace(seed=3).generator().initial_seed() == 3
