"""A family from alpha and beta_pi alone: it is the uniform or the hybrid family where it has their noise, and it does all that a family does."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from conftest import random_model
from diffusion_lm.draws import draw_noise
from diffusion_lm.evaluate import evaluate_text
from diffusion_lm.families import FAMILIES, SpecialIds, build_family
from diffusion_lm.families.mixture import Mixture, MixtureFamily
from diffusion_lm.families.process_family import ProcessFamily
from diffusion_lm.layout import Sentences
from diffusion_lm.sampling import sample
from rescore.estimators import build_estimator
from rescore.lms.network import NetworkScorer

SIZE = 5
SPECIAL = SpecialIds(num_pieces=SIZE, mask_id=SIZE, bos_id=SIZE + 1, eos_id=SIZE + 2, num_inputs=SIZE + 3)


@dataclass(frozen=True)
class Twin(ProcessFamily):
    """The same noise as a mixture, by the general formulas; it draws the same noised text from the same numbers."""

    of: MixtureFamily | None = None

    def alpha(self, t):
        return self.of.alpha(t)

    def beta_pi(self, t):
        return self.of.beta_pi(t)

    def level_of_time(self, t):
        return self.of.level_of_time(t)

    def _noised(self, marginal, sentences, draw):
        nothing = torch.zeros_like(marginal.alpha)
        uniform, mask = marginal.beta_pi[:, 0], marginal.beta_pi[:, SPECIAL.mask_id]
        return self.of.corrupt(Mixture(marginal.alpha, uniform, mask, nothing, nothing), sentences, draw)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "uniform"},
        {"name": "uniform", "schedule": "cosine", "shift": True},
        {"name": "hybrid", "weighting": "nelbo"},
        {"name": "hybrid", "weighting": "nelbo", "p_uniform": 0.3, "gamma": 2.0, "time_eps": 1e-2},
        {"name": "uniform", "score_eos": True},
        {"name": "hybrid", "weighting": "nelbo", "score_eos": True},
    ],
    ids=str,
)
def test_the_fast_form_is_the_general_one(options):
    """The bound, the loss before it is rounded to float32, and the gradient of the network."""
    fast = build_family(options, SPECIAL)
    twin = Twin(SPECIAL, fast.time_eps, shift=fast.shift, score_eos=fast.score_eos, of=fast)
    generator = torch.Generator().manual_seed(3)
    sentences = Sentences.of([[0, 3, 1, 2], [], [4, 4]], bos_id=SPECIAL.bos_id, eos_id=SPECIAL.eos_id)
    draw = draw_noise(sentences.layout.lengths, generator, stratified=True)
    table = torch.randn(SPECIAL.num_inputs, SPECIAL.num_inputs, generator=generator, dtype=torch.float64)
    found = []
    for family in (fast, twin):
        weights = table.clone().requires_grad_()

        def network(ids, layout, sigma, select, weights=weights):
            return weights[ids[select]] * (1 + 0.01 * sigma.double()[layout.row[select]])[:, None]

        weight, divergence = family.terms(network, sentences, draw, family.time(draw.time))
        (gradient,) = torch.autograd.grad((weight * divergence).sum(), weights)
        loss = family.training_loss(network, sentences, draw)
        found.append((weight * divergence, gradient, family.nelbo(network, sentences, draw), loss.loss, loss.weight))
    for one, other in zip(*found):
        tolerance = 1e-6 if one.dtype == torch.float32 else 1e-10
        assert torch.allclose(one, other, rtol=tolerance, atol=tolerance)


@dataclass(frozen=True)
class Skewed(ProcessFamily):
    """Noise that is no mixture: a symbol comes in the more often the smaller its id."""

    power: float = 1.0

    def alpha(self, t):
        return 1 - t**self.power

    def beta_pi(self, t):
        share = torch.zeros(self.special.num_inputs, dtype=torch.float64)
        share[self.symbols] = 1 / (1 + torch.arange(len(self.symbols), dtype=torch.float64))
        return (t**self.power)[:, None] * share / share.sum()


@pytest.fixture
def skewed():
    FAMILIES.add("skewed", Skewed)
    yield {"name": "skewed", "power": 2.0}
    FAMILIES.remove("skewed")


def test_two_functions_and_an_entry_are_a_family(skewed, vocab, text_file, tmp_path):
    """It trains, reports its bound, samples, and scores lists; its options are its fields."""
    model = random_model(vocab, skewed)
    sentences = model.sentences(["he hoped", "stew for dinner"])
    draw = draw_noise(sentences.layout.lengths, torch.Generator().manual_seed(1), stratified=model.family.stratified)
    model.network.requires_grad_(True)
    losses = []
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=1e-2)
    for _ in range(5):
        terms = model.family.training_loss(model.network, sentences, draw)
        loss = terms.loss.sum() / terms.weight
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    result = evaluate_text(model, [text_file], passes=2)
    assert 0 < result.nelbo < float("inf") and result.standard_error > 0
    drawn = sample(model, [4, 2], steps=3)
    assert [len(row) for row in drawn.tokens] == [4, 2]
    assert {token for row in drawn.tokens for token in row} <= set(model.family.symbols)
    scorer = NetworkScorer(str(model.save(tmp_path / "model")), estimator=build_estimator("draws", passes=2))
    scores = scorer.score_texts("utterance", ["he hoped", "he hope"])
    assert all(score.log_prob < 0 for score in scores)
    with pytest.raises(ValueError, match="unknown key 'family.powr'; did you mean 'power'"):
        build_family({"name": "skewed", "powr": 2.0}, SPECIAL)
