"""Families whose noise is the mask, any symbol, or both: the general form, its closed forms, and the language that can be enumerated."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from diffusion_lm import process
from diffusion_lm.draws import NoiseDraw, draw_noise
from diffusion_lm.families import SpecialIds, build_family
from diffusion_lm.layout import Sentences
from tiny_world import leave_one_out, random_joint

SIZE = 3
SPECIAL = SpecialIds(num_pieces=SIZE, mask_id=SIZE, bos_id=SIZE + 1, eos_id=SIZE + 2, num_inputs=SIZE + 3)
KINDS = [
    {"name": "uniform"},
    {"name": "uniform", "schedule": "cosine"},
    {"name": "hybrid", "p_uniform": 0.0},
    {"name": "hybrid", "p_uniform": 0.1},
    {"name": "hybrid", "p_uniform": 0.2, "gamma": 2.0},
]
TIMES = torch.linspace(0.02, 0.98, 13, dtype=torch.float64)

every_kind = pytest.mark.parametrize("options", KINDS, ids=lambda options: "-".join(map(str, options.values())))


def some_tokens(count=200, seed=0):
    """Random predictions (log p over pieces), clean and noised ids and times."""
    generator = torch.Generator().manual_seed(seed)
    log_x_hat = torch.log_softmax(torch.randn(count, SIZE, generator=generator, dtype=torch.float64) * 2, -1)
    x = torch.randint(SIZE, (count,), generator=generator)
    z = torch.randint(SIZE + 1, (count,), generator=generator)
    return log_x_hat, x, z, torch.randint(len(TIMES), (count,), generator=generator)


def over_inputs(log_x_hat):
    """Pieces -> all input ids; mask, BOS and EOS have probability 0."""
    return torch.cat([log_x_hat, torch.full((len(log_x_hat), 3), -torch.inf, dtype=torch.float64)], dim=1)


@every_kind
def test_marginal_sums_to_one_and_starts_clean(options):
    family = build_family(options, SPECIAL)
    marginal = family.process.marginal(TIMES)
    assert torch.allclose(marginal.alpha + marginal.beta_pi.sum(-1), torch.ones_like(TIMES), atol=1e-12)
    assert (marginal.beta_pi[:, SPECIAL.bos_id] == 0).all() and (marginal.beta_pi[:, SPECIAL.eos_id] == 0).all()
    assert family.process.marginal(torch.tensor([1e-9])).alpha[0] == pytest.approx(1.0, abs=1e-4)


@every_kind
def test_rates_are_autodiff(options):
    family = build_family(options, SPECIAL)
    mixture, marginal = family.mixture(TIMES), family.process.marginal(TIMES)
    assert torch.allclose(mixture.rate_uniform, marginal.rate_in[:, 0], rtol=1e-9, atol=1e-15)
    assert torch.allclose(mixture.rate_mask, marginal.rate_in[:, SPECIAL.mask_id], rtol=1e-9, atol=1e-15)


@every_kind
def test_cheap_form_is_the_general_one(options):
    family = build_family(options, SPECIAL)
    log_x_hat, x, z, row = some_tokens()
    if options["name"] == "uniform":
        z = z % SIZE  # there is no mask
    weight, divergence = family.token_terms(family.mixture(TIMES), log_x_hat, x, z, row)
    general = process.token_nelbo(family.process.marginal(TIMES), over_inputs(log_x_hat), x, z, row)
    assert torch.allclose(weight * divergence, general, rtol=1e-7, atol=1e-9)
    assert (general > -1e-12).all()


def test_uniform_bound_is_that_of_duo():
    """arXiv 2506.10892: alpha'/(N alpha) [N/x_bar_z - N/theta_bar_z - sum_j x_bar_j/x_bar_z log(theta_bar_z x_bar_j/(theta_bar_j x_bar_z))]."""
    family = build_family({"name": "uniform"}, SPECIAL)
    log_x_hat, x, z, row = some_tokens(seed=1)
    z = z % SIZE
    weight, divergence = family.token_terms(family.mixture(TIMES), log_x_hat, x, z, row)
    alpha, prime = family.noise.alpha(TIMES)[row], family.noise.alpha_prime(TIMES)[row]
    x_bar = SIZE * alpha[:, None] * torch.nn.functional.one_hot(x, SIZE) + (1 - alpha)[:, None]
    theta = SIZE * alpha[:, None] * log_x_hat.exp() + (1 - alpha)[:, None]
    at = lambda values: values.gather(1, z[:, None])  # noqa: E731
    ratios = (x_bar / at(x_bar) * (at(theta) * x_bar / (theta * at(x_bar))).log()).sum(-1)
    duo = -prime / (SIZE * alpha) * ((SIZE / at(theta) - SIZE / at(x_bar))[:, 0] + ratios)
    assert torch.allclose(weight * divergence, duo, rtol=1e-8, atol=1e-10)


def test_hybrid_without_uniform_noise_is_masked_diffusion():
    """-log x_hat[x] / t at masked positions, nothing elsewhere, up to the floor of e^-20."""
    family = build_family({"name": "hybrid", "p_uniform": 0.0}, SPECIAL)
    log_x_hat, x, _, row = some_tokens()
    masked = torch.full_like(x, SPECIAL.mask_id)
    weight, divergence = family.token_terms(family.mixture(TIMES), log_x_hat, x, masked, row)
    assert torch.allclose(weight * divergence, -log_x_hat.gather(1, x[:, None])[:, 0] / TIMES[row], rtol=1e-5)
    weight, divergence = family.token_terms(family.mixture(TIMES), log_x_hat, x, x, row)
    assert (weight * divergence).max() < 1e-3


def test_dynamic_weights_are_two_one_and_the_noise_ratio():
    family = build_family({"name": "hybrid", "p_uniform": 0.1}, SPECIAL)
    _, x, _, row = some_tokens()
    log_x_hat = torch.full((len(x), SIZE), -math.log(SIZE), dtype=torch.float64)
    mixture = family.mixture(TIMES)
    wrong = (x + 1) % SIZE
    for z, expected in ((torch.full_like(x, SPECIAL.mask_id), 2.0), (wrong, 1.0)):
        weight, _ = family.token_terms(mixture, log_x_hat, x, z, row)
        assert torch.allclose(family.training_weight(weight, TIMES[row]), torch.full((len(x),), expected).double())
    many = SpecialIds(num_pieces=50000, mask_id=50000, bos_id=50001, eos_id=50002, num_inputs=50003)
    large = build_family({"name": "hybrid", "p_uniform": 0.1}, many)
    now = large.mixture(TIMES)
    right = large.training_weight(now.rate_uniform / (now.alpha + now.uniform), TIMES)
    assert torch.allclose(right, large.scale / 50000 * (TIMES / (1 - TIMES)).sqrt(), rtol=1e-3)


def all_tokens(length):
    return list(itertools.product(range(SIZE), repeat=length))


@pytest.mark.parametrize("name", ["uniform", "hybrid"])
@pytest.mark.parametrize(("length", "eps", "gap"), [(1, 1e-2, 6e-3), (1, 1e-4, 1e-5), (2, 1e-2, 1e-2), (2, 1e-4, 1e-4)])
def test_expected_bound_of_the_oracle_is_the_entropy(name, length, eps, gap):
    """Averaged over the language and its noise: what the ends of the integral lose, R0 and K1 give back.

    The prior is not quite the language's own distribution at t1, and R0 takes tokens as independent given z: both cost a little that
    vanishes with eps.
    """
    family = build_family({"name": name, "time_eps": eps}, SPECIAL)
    joint = random_joint(5, length, SIZE)
    entropy = -(joint * np.log(joint)).sum()
    inputs = [*range(SIZE), *([SPECIAL.mask_id] if name == "hybrid" else [])]
    nodes, weights = np.polynomial.legendre.leggauss(70)
    u, share = (nodes + 1) / 2, weights / 2
    t = eps + (1 - 2 * eps) * np.sin(np.pi * u / 2) ** 2  # the integrand has a square root at the ends
    share = share * (1 - 2 * eps) * np.pi / 2 * np.sin(np.pi * u)
    total = 0.0
    for time, width in [*zip(t, share), (eps, None)]:
        marginal = family.process.marginal(torch.tensor([time]))
        for z in itertools.product(inputs, repeat=length):
            log_x_hat, kernel = leave_one_out(joint, marginal, z)
            log_x_hat = over_inputs(log_x_hat)
            for x in all_tokens(length):
                probability = joint[x] * np.prod([kernel[clean, noised] for clean, noised in zip(x, z)])
                row = torch.zeros(length, dtype=torch.int64)
                args = (marginal, log_x_hat, torch.tensor(x), torch.tensor(z), row)
                if width is None:
                    total += probability * float(process.reconstruction(*args).sum())
                else:
                    total += probability * width * float(process.token_nelbo(*args).sum())
    last = family.process.marginal(torch.tensor([1 - eps]))
    for x in all_tokens(length):
        row = torch.zeros(length, dtype=torch.int64)
        total += joint[x] * float(process.prior_divergence(last, torch.tensor(x), row).sum())
    assert entropy * (1 - 1e-5) <= total <= entropy * (1 + gap)


@every_kind
def test_nelbo_is_the_general_form_at_the_drawn_noise(options):
    """One draw of `nelbo`: the integrand at its time, R0 with the same noise at the smallest time, K1."""
    family = build_family(options, SPECIAL)
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(SPECIAL.num_inputs, SPECIAL.num_inputs, generator=generator, dtype=torch.float64)

    def network(ids, layout, sigma, select):
        return table[ids[select]] + sigma[layout.row[select], None].double()

    rows = Sentences.of([(0, 1, 2), (2,), ()], bos_id=SPECIAL.bos_id, eos_id=SPECIAL.eos_id)
    draw = draw_noise(rows.layout.lengths, generator, stratified=True)
    inner = family.scored(rows)
    row, x = rows.layout.row[inner], rows.ids[inner]
    expected = torch.zeros(3, dtype=torch.float64)
    for time in (family.time(draw.time), torch.full((3,), family.time_eps, dtype=torch.float64)):
        z = family.corrupt(family.mixture(time), rows, draw)
        select = inner.nonzero()[:, 0]
        logits = network(z, rows.layout, family.level_of_time(time).float(), select)[:, :SIZE]
        args = (family.process.marginal(time), over_inputs(torch.log_softmax(logits, -1)), x, z[inner], row)
        if time[0] == family.time_eps:
            expected.index_add_(0, row, process.reconstruction(*args))
        else:
            expected.index_add_(0, row, (1 - 2 * family.time_eps) * process.token_nelbo(*args))
    last = family.process.marginal(torch.tensor([1 - family.time_eps] * 3, dtype=torch.float64))
    expected.index_add_(0, row, process.prior_divergence(last, x, row))
    found = family.nelbo(network, rows, draw)
    assert torch.allclose(found, expected, rtol=1e-6)
    assert found[2] == 0, "nothing to score in an empty sentence"


@every_kind
def test_histogram_of_corrupted_tokens_is_the_marginal(options):
    family = build_family(options, SPECIAL)
    count = 4000
    rows = Sentences.of([[1] * count], bos_id=SPECIAL.bos_id, eos_id=SPECIAL.eos_id)
    for seed, time in enumerate((0.1, 0.5, 0.9)):
        draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(seed), stratified=False)
        marginal = family.process.marginal(torch.tensor([time]))
        expected = marginal.beta_pi[0].clone()
        expected[1] += marginal.alpha[0]
        inner = family.scored(rows)
        general = process.corrupt(
            marginal, rows.ids[inner], rows.layout.row[inner], draw.keep[inner], draw.category[inner]
        )
        for z in (family.corrupt(family.mixture(torch.tensor([time])), rows, draw)[inner], general):
            share = torch.bincount(z, minlength=SPECIAL.num_inputs) / count
            error = (expected * (1 - expected) / count).sqrt()
            assert ((share - expected).abs() <= 4.5 * error + 1e-12).all()


@every_kind
def test_posterior_is_bayes_rule(options):
    """With the clean token itself as the prediction: q(z_s | z_t, x) = q(z_t | z_s) q(z_s | x) / q(z_t | x)."""
    family = build_family(options, SPECIAL)
    now, before = (family.process.marginal(torch.tensor([time])) for time in (0.7, 0.4))
    size = SPECIAL.num_inputs
    kept = now.alpha / before.alpha
    step = kept * torch.eye(size) + (now.beta_pi - kept * before.beta_pi)[0]
    assert torch.allclose(step.sum(-1), torch.ones(size).double(), atol=1e-9), "a transition from s to t"
    for x in range(SIZE):
        onehot = torch.nn.functional.one_hot(torch.tensor([x]), size).double()
        start = before.alpha * onehot + before.beta_pi
        arrived = start @ step
        assert torch.allclose(arrived, now.alpha * onehot + now.beta_pi, atol=1e-9), "and it arrives at q_t"
        for z in (0, 1, 2, SPECIAL.mask_id):
            if arrived[0, z] <= 0:
                continue
            found = process.posterior(now, before, onehot, torch.tensor([z]), torch.tensor([0]))
            assert torch.allclose(found, start * step[:, z] / arrived[0, z], atol=1e-9)


@every_kind
def test_one_pass_asks_once_for_every_token(options):
    family = build_family(options, SPECIAL)
    calls = []

    def network(ids, layout, sigma, select):
        calls.append(ids)
        return torch.nn.functional.one_hot(ids[select], SPECIAL.num_inputs).double()

    rows = Sentences.of([(0, 1), (2,)], bos_id=SPECIAL.bos_id, eos_id=SPECIAL.eos_id)
    single = 1 - math.log(math.e + SIZE - 1)
    assert family.one_pass(network, rows).tolist() == pytest.approx([2 * single, single])
    assert len(calls) == 1 and torch.equal(calls[0], rows.ids)


@pytest.mark.parametrize("name", ["uniform", "hybrid"])
def test_pieces_that_are_no_symbols_are_never_noise_and_never_predicted(name):
    """In a vocabulary where mask, BOS and EOS are pieces."""
    special = SpecialIds(num_pieces=6, mask_id=3, bos_id=0, eos_id=1, num_inputs=6)
    family = build_family({"name": name}, special)
    rows = Sentences.of([[2, 4, 5] * 300], bos_id=0, eos_id=1)
    draw = NoiseDraw(torch.tensor([0.9]), torch.full((902,), 0.999), torch.linspace(0, 1 - 1e-6, 902))
    z = family.corrupt(family.mixture(family.time(draw.time)), rows, draw)[1:-1]
    assert set(z.tolist()) == ({2, 4, 5} if name == "uniform" else {2, 3, 4, 5})
    log_x_hat = family.predict(lambda *_: torch.zeros(1, 6), rows.ids, rows.layout, select=torch.tensor([1]))
    assert log_x_hat.exp()[0].tolist() == pytest.approx([0, 0, 1 / 3, 0, 1 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "hybrid", "p_uniform": 1.0}, "p_uniform"),
        ({"name": "hybrid", "weighting": "snr"}, "dynamic"),
        ({"name": "hybrid", "max_weight": 0.0}, "min < max"),
        ({"name": "uniform", "time_eps": 0.5}, "time_eps"),
        ({"name": "uniform", "schedule": "log"}, "loglinear"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_family(options, SPECIAL)
