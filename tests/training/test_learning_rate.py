"""The learning-rate schedule: its values at the borders of its phases, and its shape between them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from diffusion_lm.config import OptimConfig, TrainConfig, TrainerConfig
from diffusion_lm.training.learning_rate import learning_rate_factor

THREE = OptimConfig(lr=1e-4, schedule="cosine", warmup_steps=10, stable_steps=30, final_factor=0.01)


def test_values_at_the_borders_of_the_phases():
    factors = {step: learning_rate_factor(THREE, step, 100) for step in (0, 4, 9, 10, 39, 40, 70, 100, 130)}
    assert factors[0] == 0.1 and factors[4] == 0.5, "the warm-up rises linearly"
    assert factors[9] == factors[10] == factors[39] == factors[40] == 1, "the stable phase, borders included"
    assert factors[70] == pytest.approx((1 + 0.01) / 2), "half way of the cosine is half way of the rates"
    assert factors[100] == factors[130] == pytest.approx(0.01), "the end, and it stays there"


def test_without_a_stable_phase_it_is_torchs_cosine():
    options = OptimConfig(lr=1.0, schedule="cosine", warmup_steps=0, final_factor=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.1)
    for step in range(20):
        assert learning_rate_factor(options, step, 20) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_it_never_rises_after_the_warm_up_nor_jumps():
    factors = [learning_rate_factor(THREE, step, 100) for step in range(10, 101)]
    steps = [before - after for before, after in itertools.pairwise(factors)]
    assert min(steps) >= 0 and max(steps) <= 0.99 * math.pi / 2 / 60 + 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stable_steps": 5}, "optim.stable_steps 5 with optim.schedule 'constant'"),
        ({"stable_steps": -1, "schedule": "cosine"}, "optim.stable_steps -1"),
    ],
)
def test_a_stable_phase_without_a_decay_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**options)


def test_a_cosine_that_never_begins_is_refused():
    with pytest.raises(ValueError, match="would begin at step 40; expected less than trainer.max_steps 40"):
        TrainConfig(optim=THREE, trainer=TrainerConfig(max_steps=40))
