"""The presets of GIDD: sizes as published, counted without memory, and the published optimiser."""

from __future__ import annotations

import pytest
import torch

from diffusion_lm import presets
from diffusion_lm.backbones import build_network
from diffusion_lm.families import SpecialIds, build_family
from diffusion_lm.model import _NoInitialValues

GPT2 = 50_304  # symbols of the published models: 50,257 pieces, mask and padding, rounded up to a multiple of 128
SIZES = {"hybrid-tiny": (28.4, None), "hybrid-small": (92.1, 169.6), "hybrid-base": (321.2, 424.5)}


def network(name):
    config = presets.build(name)
    family = build_family(config.family, SpecialIds(GPT2 - 3, GPT2 - 3, GPT2 - 2, GPT2 - 1, GPT2))
    with torch.device("meta"), _NoInitialValues():
        return build_network(
            config.model, num_inputs=GPT2, num_outputs=family.num_outputs, visibility=family.visibility
        )


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_parameter_counts_are_the_published_ones(name):
    """The published non-embedding counts are those of the blocks alone, and the totals count both tables of symbols.

    Beside these there are the noise embedding, the final norm and its modulation: 0.2 to 0.4 M.
    """
    blocks, total = SIZES[name]
    made = network(name)
    assert round(count(made.blocks) / 1e6, 1) == blocks
    others = count(made) - count(made.blocks) - count(made.embedding) - count(made.head)
    assert 0.15e6 < others < 0.4e6
    if total is not None:
        assert count(made) / 1e6 == pytest.approx(total, abs=0.1)


@pytest.mark.parametrize("name", SIZES)
def test_training_is_the_published_one(name):
    config = presets.build(name)
    optim, trainer, data = config.optim, config.trainer, config.data
    assert (optim.lr, optim.beta1, optim.beta2, optim.eps, optim.weight_decay) == (5e-4, 0.9, 0.99, 1e-9, 0.02)
    assert (optim.schedule, optim.warmup_steps, optim.final_factor, optim.stable_steps) == ("cosine", 10_000, 0.1, 0)
    assert (trainer.max_steps, trainer.ema, trainer.gradient_clip, config.model.dropout) == (500_000, 0, 1.0, 0)
    assert (data.max_seq_length + 2, data.too_long, data.valid_too_long) == (512, "crop", "crop")
    assert data.max_seqs * trainer.accumulate_grad_batches * trainer.devices == 512
    assert data.max_seqs * data.max_seq_length <= data.batch_size
