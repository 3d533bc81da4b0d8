"""A training step asks the device nothing, so that its work can be queued ahead.

The device of these tests is PyTorch's "meta": it runs every operator and holds no numbers, so whatever waits for one (the places where a
mask is true, a comparison, a copy to the host, an index chosen by value) is an error here, and nowhere else but in time.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from diffusion_lm.backbones.dit import DiT, DiTConfig
from diffusion_lm.draws import draw_noise
from diffusion_lm.families import FAMILIES, SpecialIds, build_family
from diffusion_lm.layout import Sentences
from diffusion_lm.training.averaging import ExponentialMovingAverage
from diffusion_lm.training.sharding import scale_gradients

SPECIAL = SpecialIds(num_pieces=11, mask_id=11, bos_id=12, eos_id=13, num_inputs=14)
OPTIONS: dict[str, list[dict[str, object]]] = {
    "masked": [
        {},
        {"shift": True, "weighting": "masked_mean"},
        {"score_eos": True, "T": 1000},
        {"importance_sampling": True, "time_conditioning": True},
        {"parameterization": "d3pm", "T": 1000},
        {"parameterization": "sedd"},
    ],
    "block": [
        {"block_size": 1},
        {"block_size": 4},
        {"block_size": 3, "fill_last": False, "sampling_min": 0.3, "sampling_max": 0.8, "resample": True},
    ],
    "hybrid": [{}, {"p_uniform": 0.0, "weighting": "nelbo"}],
}
CASES = [(name, options) for name in sorted(FAMILIES) for options in OPTIONS.get(name, [{}])]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_a_training_step_never_looks_at_a_number_of_the_device(name, options, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none for this device
    family = build_family({"name": name, **options}, SPECIAL)
    if family.has_policy:
        pytest.skip("the scores of a policy, which are worked out on the device, decide what is masked")
    size = DiTConfig(16, 2, 2, cond_dim=8, adaln=family.time_conditioning)
    network = DiT(size, num_inputs=SPECIAL.num_inputs, num_outputs=family.num_outputs, visibility=family.visibility).to(
        "meta"
    )
    average = ExponentialMovingAverage(network, 0.9)

    rows = [[1, 2, 3, 4, 5], [6], [7, 8, 9, 10, 0, 1, 2]]
    sentences = Sentences.of(rows, bos_id=SPECIAL.bos_id, eos_id=SPECIAL.eos_id)
    draw = draw_noise(sentences.layout.lengths, torch.Generator().manual_seed(1), stratified=True, step=0, seed=1)
    loss = family.training_loss(network, sentences, draw._replace(device="meta"))
    mean = loss.loss.sum() / loss.weight
    mean.backward()
    scale_gradients(network, torch.tensor(0.5))
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    average.update(network)

    assert mean.device.type == "meta" and torch.as_tensor(loss.weight).device.type == "cpu"
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_device_of_these_tests_refuses_to_be_asked():
    values = torch.zeros(3, device="meta")
    for question in (lambda: (values > 0).nonzero(), lambda: float(values.sum()), lambda: values.cpu()):
        with pytest.raises((RuntimeError, NotImplementedError)):
            question()
