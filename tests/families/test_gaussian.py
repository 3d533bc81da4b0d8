"""The Gaussian behind uniform noise: closed values, autodiff and simulation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from conftest import random_model
from diffusion_lm.draws import draw_noise
from diffusion_lm.families import SpecialIds, build_family
from diffusion_lm.families.gaussian import kept_probability, largest_is_true, noised_onehot
from diffusion_lm.layout import Sentences
from diffusion_lm.process import Marginal, token_nelbo


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


SPECIAL = SpecialIds(num_pieces=6, mask_id=3, bos_id=0, eos_id=1, num_inputs=6)  # symbols 2, 4 and 5
ROWS = Sentences.of([(2, 4, 5, 5), (4,)], bos_id=0, eos_id=1)


class Reader:
    """A network that answers from what it reads at a position, and remembers it."""

    def __call__(self, ids, layout, sigma, select, blend=None):
        self.sigma, self.blend = sigma, blend
        read = F.one_hot(ids[select], 6).float() if blend is None else blend.weights
        return read @ torch.arange(36.0).reshape(6, 6).sin() + sigma[layout.row[select], None]


def drawn(step, seed=3):
    return draw_noise(ROWS.layout.lengths, torch.Generator().manual_seed(1), stratified=True, step=step, seed=seed)


def test_curriculum_reads_mixtures_and_is_the_loss_of_their_largest_symbols():
    """At its end the mixture is nearly its largest symbol; the loss is the bound's integrand there with the Gaussian's own rates."""
    family = build_family({"name": "uniform", "curriculum_steps": 1000}, SPECIAL)
    network = Reader()
    loss = family.training_loss(network, ROWS, drawn(999))
    z = network.blend.weights.argmax(-1)
    assert torch.allclose(network.blend.weights.sum(-1), torch.ones(5))
    assert set(z.tolist()) <= {2, 4, 5} and (network.blend.weights[:, [0, 1, 3]] == 0).all()
    assert network.blend.weights.max(-1).values.min() > 0.6
    gamma = -3.5 + 1.75 * drawn(999).time.double()
    alpha, slope = kept_probability(gamma, 3)
    assert torch.allclose(network.sigma, -alpha.log().float())
    process = Marginal(alpha, ((1 - alpha) / 3)[:, None] * F.one_hot(torch.tensor([2, 4, 5]), 6).sum(0), None)
    rate = (-1.75 * slope / alpha / 3)[:, None].expand(2, 6)  # beta' - alpha'/alpha beta with beta = (1 - alpha)/3
    inner = family.scored(ROWS)
    row = ROWS.layout.row[inner]
    answers = network.blend.weights @ torch.arange(36.0).reshape(6, 6).sin() + network.sigma[row, None]
    log_x_hat = family.log_probs(answers)
    expected = token_nelbo(process._replace(rate_in=rate), log_x_hat, ROWS.ids[inner], z, row)
    assert torch.allclose(loss.loss.double(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(loss.loss, family.training_loss(network, ROWS, drawn(999)).loss), "from the seed alone"


def test_curriculum_ends_and_never_touches_the_bound():
    plain, taught = (build_family({"name": "uniform", "curriculum_steps": steps}, SPECIAL) for steps in (0, 10))
    for step in (-1, 10, 50):
        both = [family.training_loss(Reader(), ROWS, drawn(step)).loss for family in (plain, taught)]
        assert torch.equal(*both)
    assert torch.equal(*(family.nelbo(Reader(), ROWS, drawn(5)) for family in (plain, taught)))
    with pytest.raises(ValueError, match="gamma_min"):
        build_family({"name": "uniform", "gamma_min": 0.0}, SPECIAL)


def test_network_reads_a_mixture_as_the_mean_of_embeddings(vocab):
    """A mixture of one symbol is that symbol."""
    model = random_model(vocab, {"name": "uniform"})
    framed = model.sentences(["the king said"])
    select, sigma = torch.tensor([1, 2]), torch.tensor([0.5])
    weights = F.one_hot(framed.ids[select], vocab.num_pieces).float()
    garbage = framed.ids.index_fill(0, select, 5)
    expected = model.network(framed.ids, framed.layout, sigma, select)
    found = model.network(garbage, framed.layout, sigma, select, blend=(select, weights))
    assert torch.allclose(found, expected, atol=1e-5)
