"""Adaptive masking: what each policy trains on is what it says it is. The policy's own network: test_policy.py."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from diffusion_lm.draws import NoiseDraw, draw_noise
from diffusion_lm.families import SpecialIds, build_family
from diffusion_lm.families.adaptive import effective_share
from diffusion_lm.families.policies import (
    bounded_scale,
    centred,
    log_second_moment,
    tilt_penalty,
    tilted_rate,
    tilted_weight,
)
from diffusion_lm.layout import Layout, Sentences
from tiny_world import TableNetwork, conditionals, inconsistent, random_joint

SIZE = 3
SPECIAL = SpecialIds(num_pieces=SIZE, mask_id=SIZE, bos_id=SIZE + 1, eos_id=SIZE + 2, num_inputs=SIZE + 3)
PLAIN = {
    "losses": {"policy": "losses", "pi_min": 1.0},
    "curriculum": {"policy": "curriculum", "curriculum_steps": 10, "focus": 1.0},
    "tilted": {"policy": "tilted", "beta": 0.0},
    "proposal": {"policy": "proposal", "beta": 0.0},
}
REAL = {
    "losses": {"policy": "losses", "pi_min": 0.2},
    "curriculum": {"policy": "curriculum", "curriculum_steps": 10},
    "tilted": {"policy": "tilted", "beta": 3.0},
    "proposal": {"policy": "proposal", "beta": 3.0},
}


def adaptive(options=None, special=SPECIAL):
    return build_family({"name": "adaptive", **(options or {})}, special)


def frame(*rows, special=SPECIAL):
    return Sentences.of(rows, bos_id=special.bos_id, eos_id=special.eos_id)


def random_network(seed=0):
    logits = torch.randn(64, SPECIAL.num_inputs, generator=torch.Generator().manual_seed(seed))
    return lambda ids, layout, sigma, select: logits[select] + 0.3 * ids[select][:, None].float()


def random_scores(sentences, seed=1):
    return torch.rand(len(sentences.ids), generator=torch.Generator().manual_seed(seed))


def tilt_of(family, scores, sentences):
    return family.beta * centred(scores, family.scored(sentences), sentences.layout)


def network_of(log_probs, size, special):
    def answer(inner, place, level):
        mask = tuple(token == special.mask_id for token in inner)
        rows = (
            tuple(
                symbol if at == place else 0 if hidden else token for at, (token, hidden) in enumerate(zip(inner, mask))
            )
            for symbol in range(size)
        )
        return np.array([log_probs(row, mask)[place] for row in rows])

    return TableNetwork(answer, special.num_inputs)


@pytest.mark.parametrize(
    ("policy", "weighting"),
    [*((policy, "nelbo") for policy in PLAIN), ("losses", "masked_mean"), ("curriculum", "masked_mean")],
)
def test_a_policy_without_power_gives_the_bits_of_the_masked_family(policy, weighting):
    masked = build_family({"name": "masked", "weighting": weighting}, SPECIAL)
    family = adaptive({**PLAIN[policy], "weighting": weighting})
    rows = frame((0, 1, 2, 2, 1), (2, 2), (1, 0, 1, 1, 0, 0, 2))
    for seed in range(20):
        draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(seed), stratified=True, step=seed)
        expected = masked.training_loss(random_network(), rows, draw)
        found = family.policy_loss(random_network(), random_scores, rows, draw)
        assert torch.equal(found.network.loss, expected.loss)
        assert float(found.network.weight) == float(expected.weight)
        assert float(found.penalty) == 0


@pytest.mark.parametrize("weighting", ["nelbo", "masked_mean"])
def test_chosen_losses_are_the_masked_familys_in_expectation(weighting):
    """Horvitz and Thompson: all patterns of which masked tokens are predicted, with their probabilities."""
    family = adaptive({**REAL["losses"], "weighting": weighting})
    rows = frame((0, 1, 2, 2))
    scores = random_scores(rows)
    pi = 0.2 + 0.8 * scores[1:5].double()
    keep = torch.tensor([0.9, 0.1, 0.9, 0.1, 0.1, 0.9])
    draw = NoiseDraw(torch.tensor([0.5]), keep, torch.zeros(6))
    plain = build_family({"name": "masked", "weighting": weighting}, SPECIAL).training_loss(
        random_network(), rows, draw
    )
    mean = square = 0.0
    hidden = [0, 2, 3]
    for pattern in itertools.product((True, False), repeat=3):
        category = torch.ones(6)
        category[[1 + place for place, taken in zip(hidden, pattern) if taken]] = 0.0
        probability = float(torch.where(torch.tensor(pattern), pi[hidden], 1 - pi[hidden]).prod())
        made = family.policy_loss(random_network(), lambda _: scores, rows, draw._replace(category=category))
        assert len(made.network.loss) == sum(pattern), "only those are predicted"
        mean += probability * float(made.network.loss.sum() / made.network.weight)
        square += probability * float((made.network.loss**2).sum())
    assert mean == pytest.approx(float(plain.loss.sum() / plain.weight), rel=1e-6)
    assert square <= float((plain.loss**2).sum()) / 0.2


@pytest.mark.parametrize("a", [-3.0, -1.0, -0.031, -0.029, 1e-4, 0.0, 0.5, 2.0, 3.0])
def test_penalty_is_the_integral(a):
    tilt = torch.tensor([a], dtype=torch.float64)

    def integrand(t):
        rho = torch.tensor([t], dtype=torch.float64)
        m, r = tilted_rate(rho, tilt).item(), tilted_weight(rho, tilt).item() / t
        return m * (1 / t - r + r * math.log(r * t))

    assert tilt_penalty(tilt).item() == pytest.approx(quad(integrand, 0, 1)[0], abs=1e-8)


def test_tilted_weight_is_the_derivative_of_the_rate():
    rho = torch.linspace(0.01, 0.99, 30, dtype=torch.float64).requires_grad_()
    tilt = torch.linspace(-4, 4, 30, dtype=torch.float64)
    rate = tilted_rate(rho, tilt)
    (prime,) = torch.autograd.grad(rate.sum(), rho)
    assert torch.allclose(prime / rate, tilted_weight(rho, tilt) / rho)
    assert torch.allclose(torch.logit(rate), torch.logit(rho) + tilt)


def test_tilts_move_masking_between_tokens_and_not_its_amount():
    """Mean log-odds are those of t; the mean rate is that of t up to Var(a)/2 t (1 - t)(1 - 2 t), whose integral is 0."""
    family = adaptive({"policy": "tilted", "beta": 2.0})
    rows = frame(tuple([0] * 40), (1, 1), ())
    tilt = tilt_of(family, random_scores(rows), rows)
    first = tilt[1:41].double()
    assert abs(float(first.mean())) < 1e-6 and float(tilt.abs().max()) <= 2
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    rate = tilted_rate(t[:, None], first)
    assert torch.allclose(torch.logit(rate).mean(1), torch.logit(t), atol=1e-6)
    expected = first.var(unbiased=False) / 2 * t * (1 - t) * (1 - 2 * t)
    assert (rate.mean(1) - t - expected).abs().max() < 3e-3
    assert abs(float((rate.mean(1) - t).mean())) < 1e-3


def expected_bound(family, network, sentence, scores, special, nodes=60):
    """(weighted cross-entropy, penalty) of a sentence under the tilted policy: quadrature over t, all masks. Nats."""
    rows, length = frame(sentence, special=special), len(sentence)
    tilt = tilt_of(family, scores, rows)[1:-1].double()
    points, weights = np.polynomial.legendre.leggauss(nodes)
    main = penalty = 0.0
    # t = y^3: the rates change fast where t is small.
    for y, weight in zip((points + 1) / 2, weights / 2):
        u = torch.tensor([y**3], dtype=torch.float64)
        rate = tilted_rate(family.times.at(u).rho, tilt)
        for mask in itertools.product((False, True), repeat=length):
            probability = float(torch.where(torch.tensor(mask), rate, 1 - rate).prod())
            keep = torch.tensor([1.0, *[0.0 if hidden else 1.0 for hidden in mask], 1.0]).double()
            made = family.policy_loss(network, lambda _: scores, rows, NoiseDraw(u, keep))
            main += 3 * y**2 * weight * probability * float(made.network.loss.sum())
            penalty = float(made.penalty * made.network.weight)
    return main, penalty


EXACT = {"sampling_eps": 1e-7, "schedule_options": {"eps": 1e-9}}


def test_tilted_bound_is_the_log_probability_plus_the_penalty_for_an_exact_network():
    joint, family = random_joint(3, 3, SIZE), adaptive({**REAL["tilted"], **EXACT})
    network = network_of(conditionals(joint), SIZE, SPECIAL)
    for sentence in ((2, 0, 1), (0, 0, 2)):
        scores = random_scores(frame(sentence), seed=sum(sentence)).double()
        main, penalty = expected_bound(family, network, sentence, scores, SPECIAL)
        assert main == pytest.approx(-math.log(joint[sentence]), rel=2e-3)
        tilt = tilt_of(family, scores, frame(sentence))[1:-1]
        assert penalty == pytest.approx(float((tilt / torch.tanh(tilt / 2) - 2).sum()), rel=1e-6)


def flattering_scores(log_probs, sentence):
    """Of the order of revealing that makes this sentence likeliest: what comes first is masked least. With BOS and EOS."""

    def along(order):
        hidden = [True] * len(sentence)
        total = 0.0
        for place in order:
            total += log_probs(sentence, tuple(hidden))[place]
            hidden[place] = False
        return total

    best = max(itertools.permutations(range(len(sentence))), key=along)
    return torch.tensor([0, *(best.index(place) / (len(best) - 1) for place in range(len(best))), 0]).double()


def test_tilted_bound_adds_up_to_at_most_one_and_without_the_penalty_it_does_not():
    """All 8 sentences of 3 binary tokens, a network of no joint distribution, and for each sentence the order that flatters it."""
    special = SpecialIds(num_pieces=2, mask_id=2, bos_id=3, eos_id=4, num_inputs=5)
    family = adaptive({"policy": "tilted", "beta": 6.0, **EXACT}, special)
    world = inconsistent(1, 2)
    network = network_of(world, 2, special)
    bare = bound = 0.0
    for sentence in itertools.product(range(2), repeat=3):
        scores = flattering_scores(world, sentence)
        main, penalty = expected_bound(family, network, sentence, scores, special, nodes=30)
        bare += math.exp(-main)
        bound += math.exp(-main - penalty)
    assert bound <= 1
    assert bare > 1.5, "1.9 in all"


def draws_of_proposal(family, sentence, u, scores):
    """(probability, draw) of all masks and of both kinds of rows, at one time; scores [N] with BOS and EOS."""
    rows = frame(sentence)
    rho = family.times.at(u)[0][rows.layout.row]
    tilt = tilt_of(family, scores, rows)
    tilt = tilt * bounded_scale(tilt, rho, family.scored(rows), rows.layout)
    for tilted in (False, True):
        rate = (tilted_rate(rho, tilt) if tilted else rho)[1:-1].double()
        category = torch.full((len(rows.ids),), 0.99 if tilted else 0.01).double()
        for mask in itertools.product((False, True), repeat=len(sentence)):
            keep = torch.tensor([1.0, *[0.0 if hidden else 1.0 for hidden in mask], 1.0]).double()
            probability = 0.5 * float(torch.where(torch.tensor(mask), rate, 1 - rate).prod())
            yield probability, NoiseDraw(u, keep, category)


@pytest.mark.parametrize("beta", [3.0, -8.0])
@pytest.mark.parametrize("u", [0.05, 0.5, 0.95])
def test_proposed_masks_keep_the_expected_loss_of_the_masked_family(beta, u):
    """All masks of a sentence at a time, uniform and tilted, on a network of no joint distribution."""
    family, masked = adaptive({"policy": "proposal", "beta": beta}), build_family({"name": "masked"}, SPECIAL)
    sentence, network = (2, 0, 1, 0), network_of(inconsistent(4, SIZE), SIZE, SPECIAL)
    rows, time = frame(sentence), torch.tensor([u], dtype=torch.float64)
    scores = torch.tensor([0.5, 0.9, 0.1, 0.8, 0.3, 0.5], dtype=torch.float64)
    expected = found = total = weights = 0.0
    rho = float(masked.times.at(time)[0])
    for probability, draw in draws_of_proposal(family, sentence, time, scores):
        made = family.policy_loss(network, lambda _: scores, rows, draw)
        found += probability * float(made.network.loss.sum() / made.network.weight)
        total += probability
        masks = int((draw.keep == 0).sum())
        plain = masked.training_loss(network, rows, draw)
        expected += 0.5 * rho**masks * (1 - rho) ** (4 - masks) * float(plain.loss.sum() / plain.weight)
        [weight] = family.policy_object.choose(
            scores, torch.full((6,), rho, dtype=torch.float64), family.scored(rows), rows.layout, draw
        ).weight.tolist()
        assert 0 < weight <= 2
        weights += probability * weight
    assert total == pytest.approx(1) and weights == pytest.approx(1)
    assert found == pytest.approx(expected, rel=1e-9)


def test_proposed_masks_give_the_bound_of_the_masked_family():
    """Quadrature over time and all masks, against the bound by the numbers of masks, which needs no time."""
    sentence, log_probs = (2, 0, 1), inconsistent(7, SIZE)
    family = adaptive({"policy": "proposal", "beta": 4.0, **EXACT})
    network, rows = network_of(log_probs, SIZE, SPECIAL), frame(sentence)
    scores = torch.tensor([0.5, 1.0, 0.0, 0.4, 0.5], dtype=torch.float64)
    bound = 0.0
    for mask in itertools.product((False, True), repeat=3):
        if any(mask):
            k = sum(mask)
            bound -= log_probs(sentence, mask)[list(mask)].sum() * (3 / k) / (3 * math.comb(3, k))
    points, nodes = np.polynomial.legendre.leggauss(40)
    found = 0.0
    for y, node in zip((points + 1) / 2, nodes / 2):  # t = y^2, because the scale of the tilts changes fast near 0
        for probability, draw in draws_of_proposal(family, sentence, torch.tensor([y**2], dtype=torch.float64), scores):
            made = family.policy_loss(network, lambda _: scores, rows, draw)
            found += 2 * y * node * probability * float(made.network.loss.sum())
    assert found == pytest.approx(bound, rel=1e-5)


def test_the_second_moment_of_the_weights_is_known_and_bounded():
    tilt, rho = torch.tensor([2.0, -1.0, 0.5, -1.5]).double(), torch.full((4,), 0.3).double()
    rate = tilted_rate(rho, tilt)
    moment = 0.0
    for mask in itertools.product((False, True), repeat=4):
        hidden = torch.tensor(mask)
        tilted = torch.where(hidden, rate, 1 - rate).prod()
        moment += float(torch.where(hidden, rho, 1 - rho).prod() ** 2 / tilted)
    assert moment == pytest.approx(float(log_second_moment(tilt, rho).sum().exp()))
    layout, free = Layout(torch.tensor([3, 1])), torch.ones(4, dtype=torch.bool)
    scale = bounded_scale(5 * tilt, rho, free, layout)[layout.row]
    moments = log_second_moment(5 * tilt * scale, rho).exp()
    assert float(moments[:3].prod()) == pytest.approx(2, rel=1e-4) and float(moments[3]) == pytest.approx(2, rel=1e-4)
    assert torch.equal(bounded_scale(0.1 * tilt, rho, free, layout), torch.ones(2).double())


def test_effective_sample_size():
    assert float(effective_share(torch.ones(7))) == 1
    assert float(effective_share(torch.tensor([2.0, 0.0, 0.0, 0.0]))) == 0.25


def test_curriculum_stages_and_weights():
    family = adaptive({"policy": "curriculum", "curriculum_steps": 1000})
    stages = [family.policy_object.stage(step) for step in (0, 299, 300, 699, 700, 1000, 10**6)]
    assert stages == ["easy", "easy", "medium", "medium", "hard", "hard", "hard"]
    early = adaptive({"policy": "curriculum", "curriculum_steps": 1000, "easy_until": 0.2, "medium_until": 0.6})
    assert [early.policy_object.stage(step) for step in (199, 200, 599, 600)] == ["easy", "medium", "medium", "hard"]
    scores = torch.tensor([0.1, 0.2, 0.5, 0.9])
    for step, hot in ((0, [0, 1]), (500, [2]), (900, [3])):
        weight = family.policy_object.emphasis(scores, step)
        assert float(weight.mean()) == pytest.approx(1)
        assert (weight == weight.max()).nonzero()[:, 0].tolist() == hot
        assert float(weight.max() / weight.min()) == pytest.approx(2)


@pytest.mark.parametrize("policy", REAL)
def test_loss_and_gradients_are_finite_at_extreme_logits_and_scores(policy):
    rows = frame((0, 1, 2), (2, 2))
    logits = (torch.randn(200, SPECIAL.num_inputs, generator=torch.Generator().manual_seed(0)) * 200).requires_grad_()
    raw = torch.tensor([-200.0, 200.0, 0.0, -200.0, 1.0, 5.0, 200.0, -3.0, 9.0]).requires_grad_()
    draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(1), stratified=True)
    family = adaptive(REAL[policy])
    made = family.policy_loss(
        lambda ids, layout, sigma, select: logits[: len(select)], lambda _: raw.sigmoid(), rows, draw
    )
    (made.network.loss.sum() / made.network.weight + made.penalty + made.policy).backward()
    assert torch.isfinite(made.network.loss).all() and torch.isfinite(made.penalty) and torch.isfinite(made.policy)
    assert torch.isfinite(logits.grad).all() and torch.isfinite(raw.grad).all()


@pytest.mark.parametrize("policy", REAL)
def test_no_gradient_goes_from_the_loss_into_the_policy_or_back(policy):
    rows = frame((0, 1, 2, 0, 1), (2, 2, 1))
    scores = random_scores(rows).requires_grad_()
    logits = torch.randn(64, SPECIAL.num_inputs, generator=torch.Generator().manual_seed(0)).requires_grad_()
    draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(4), stratified=True)
    made = adaptive(REAL[policy]).policy_loss(
        lambda ids, layout, sigma, select: logits[select], lambda _: scores, rows, draw
    )
    assert not made.penalty.requires_grad
    assert torch.autograd.grad(made.network.loss.sum(), scores, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(made.policy, logits, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(made.policy, scores)[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "proportional"}, "'proportional'; expected one of losses, curriculum, tilted, proposal"),
        ({"pi_min": 0.0}, "family.pi_min 0.0"),
        ({"pi_min": 1.5}, "family.pi_min 1.5"),
        (
            {"beta": 2.0},
            "family.beta 2.0 with family.policy 'losses': expected 1.0, because it belongs to family.policy 'tilted'",
        ),
        ({"policy": "tilted", "pi_min": 0.5}, "family.pi_min 0.5 with family.policy 'tilted': expected 0.25"),
        ({"policy": "tilted", "beta": -11.0}, "family.beta -11.0"),
        ({"policy": "proposal", "beta": 11.0}, "family.beta 11.0"),
        ({"policy": "proposal", "weighting": "masked_mean"}, "which the weights of the rows do not correct"),
        ({"policy": "tilted", "weighting": "masked_mean"}, "a bound in continuous time"),
        ({"policy": "tilted", "T": 1000}, "a bound in continuous time"),
        ({"policy": "tilted", "sampling_max": 0.5}, "a bound in continuous time"),
        ({"policy": "curriculum"}, "family.curriculum_steps 0"),
        ({"policy": "curriculum", "curriculum_steps": 9, "easy_until": 0.8}, "easy <= medium"),
        ({"policy": "curriculum", "curriculum_steps": 9, "focus": 0.5}, "focus >= 1"),
        ({"parameterization": "sedd"}, "expected 'subs'"),
        ({"policy_width": 100_001}, "family.policy_width 100001"),
        ({"policy_layers": 0}, "family.policy_width 256, family.policy_layers 0"),
        ({"temperature": 1.0}, "unknown key 'family.temperature'; known here: T, "),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        adaptive(options)
