"""The families: losses against enumeration and quadrature, schedules against autodiff."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusion_lm.draws import NoiseDraw, draw_noise
from diffusion_lm.families import FAMILIES, SpecialIds, build_family
from diffusion_lm.families.log_probs import CHUNK, target_log_probs
from diffusion_lm.families.masked import smallest_keys
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.schedule import SCHEDULES, build_schedule
from tiny_world import TableNetwork, conditionals, inconsistent, random_joint

SIZE = 3
SPECIAL = SpecialIds(num_pieces=SIZE, mask_id=SIZE, bos_id=SIZE + 1, eos_id=SIZE + 2, num_inputs=SIZE + 3)
TIMES = torch.linspace(0.01, 0.99, 25, dtype=torch.float64)


def frame(*rows):
    return Sentences.of(rows, bos_id=SPECIAL.bos_id, eos_id=SPECIAL.eos_id)


def network_of(log_probs):
    """A denoiser that answers all symbols at a masked place from a function of (sentence, mask)."""

    def answer(inner, place, level):
        mask = tuple(token == SPECIAL.mask_id for token in inner)
        rows = [
            tuple(
                symbol if at == place else (0 if hidden else token)
                for at, (token, hidden) in enumerate(zip(inner, mask))
            )
            for symbol in range(SIZE)
        ]
        return np.array([log_probs(row, mask)[place] for row in rows])

    return TableNetwork(answer, SPECIAL.num_inputs)


def elbo(sentence, log_probs):
    length = len(sentence)
    masks = [mask for mask in itertools.product((False, True), repeat=length) if any(mask)]
    return sum(log_probs(sentence, mask).sum() / (sum(mask) * math.comb(length, sum(mask))) for mask in masks)


@pytest.mark.parametrize("steps", [1000, 10_000, 100_000])
def test_many_discrete_steps_keep_the_weight_exact(steps):
    """T (alpha(s) - alpha(t)) / rho(t) is 1/t for the loglinear schedule; in float32 that difference has few digits left."""
    index = torch.linspace(0.002 * steps, steps - 1, 40).long()
    family = build_family({"name": "masked", "T": steps}, SPECIAL)
    middle = (index.double() + 0.5) / steps
    time = ((middle - family.sampling_eps) / (1 - family.sampling_eps)).float()
    sentences = frame(*[[0]] * len(time))

    def uniform(ids, layout, level, select):
        return torch.zeros(len(select), SPECIAL.num_inputs)

    loss = family.training_loss(uniform, sentences, NoiseDraw(time, torch.zeros(len(sentences.ids)))).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), math.log(SIZE) * steps / (index + 1.0).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_derivative_is_autodiff(name):
    schedule = build_schedule(name)
    t = TIMES.clone().requires_grad_()
    schedule.alpha(t).sum().backward()
    assert torch.allclose(t.grad, schedule.alpha_prime(TIMES), rtol=1e-9)
    assert torch.allclose(
        schedule.weight(TIMES), -schedule.alpha_prime(TIMES) / schedule.mask_probability(TIMES), rtol=1e-9
    )
    assert (schedule.alpha(TIMES).diff() < 0).all()


def test_loglinear_weight_is_one_over_t():
    schedule = build_schedule("loglinear")
    assert torch.allclose(schedule.weight(TIMES), 1 / TIMES)
    assert torch.allclose(schedule.mask_probability(TIMES), 0.999 * TIMES)


@pytest.mark.parametrize("name", ["loglinear", "linear"])
def test_schedule_inverse(name):
    schedule = build_schedule(name)
    assert torch.allclose(schedule.time_of_log_mask_probability(schedule.mask_probability(TIMES).log()), TIMES)


def test_unknown_schedule_and_option_name_the_known_ones():
    with pytest.raises(ValueError, match="cosinesqr"):
        build_schedule("polynomial")
    with pytest.raises(ValueError, match="it takes: eps"):
        build_schedule("loglinear", sigma_min=1.0)


def expected_training_loss(family, sentence, log_probs, nodes=120):
    """Quadrature over the time variate and enumeration of masks; sum over the sentence, nats."""
    sentences, network = frame(sentence), network_of(log_probs)
    points, weights = np.polynomial.legendre.leggauss(nodes)
    total, length = 0.0, len(sentence)
    for u, weight in zip((points + 1) / 2, weights / 2):
        rho = float(family.times.at(torch.tensor([u], dtype=torch.float64)).rho)
        for mask in itertools.product((False, True), repeat=length):
            probability = rho ** sum(mask) * (1 - rho) ** (length - sum(mask))
            keep = torch.tensor([1.0, *[0.0 if hidden else 1.0 for hidden in mask], 1.0], dtype=torch.float64)
            loss = family.training_loss(network, sentences, NoiseDraw(torch.tensor([u], dtype=torch.float64), keep))
            total += weight * probability * float(loss.loss.sum())
    return total


WORLD = inconsistent(7, SIZE)


@pytest.mark.parametrize(
    "options", [{}, {"schedule": "cosine"}, {"schedule": "cosinesqr"}, {"importance_sampling": True}, {"T": 2000}]
)
def test_expected_training_loss_is_the_bound(options):
    """Whatever the schedule and the way times are drawn. The lower end of the times (0.001) leaves out about one part in a thousand."""
    family = build_family({"name": "masked", **options}, SPECIAL)
    expected = -elbo((2, 0, 1), WORLD)
    assert expected_training_loss(family, (2, 0, 1), WORLD) == pytest.approx(expected, rel=4e-3)


def test_nelbo_is_the_bound_by_enumeration_of_its_draws():
    """All k and, for each, all orders of the keys: the mean is the enumerated bound, and with exact conditionals -log p."""
    family = build_family({"name": "masked"}, SPECIAL)
    joint = random_joint(3, 3, SIZE)
    for log_probs, expected in ((WORLD, -elbo((2, 0, 1), WORLD)), (conditionals(joint), -math.log(joint[2, 0, 1]))):
        values = []
        for k, order in itertools.product(range(3), itertools.permutations([0.2, 0.5, 0.8])):
            draw = NoiseDraw(torch.tensor([(k + 0.5) / 3]), torch.tensor([0.0, *order, 0.0]))
            values.append(float(family.nelbo(network_of(log_probs), frame((2, 0, 1)), draw)))
        assert np.mean(values) == pytest.approx(expected, rel=1e-6)


def test_expected_nelbo_is_entropy():
    """Averaged over the language itself, the exact denoiser's bound is the entropy."""
    joint = random_joint(5, 2, SIZE)
    family = build_family({"name": "masked"}, SPECIAL)
    total = 0.0
    for sentence in itertools.product(range(SIZE), repeat=2):
        values = [
            float(
                family.nelbo(
                    network_of(conditionals(joint)),
                    frame(sentence),
                    NoiseDraw(torch.tensor([u]), torch.tensor([0.0, *keys, 0.0])),
                )
            )
            for u in (0.25, 0.75)
            for keys in ((0.1, 0.9), (0.9, 0.1))
        ]
        total += joint[sentence] * np.mean(values)
    assert total == pytest.approx(-(joint * np.log(joint)).sum(), rel=1e-6)


def test_time_conditioned_bound_is_the_integral_over_beta_times():
    """Continuous time with a network that looks at t: k masked of L means t ~ Beta(k, L - k + 1) (spec of the any-order form)."""
    from scipy.stats import beta

    length, sentence = 2, (1, 2)

    def at_level(mask, place, level):  # log p of the true token; sigma = -log(1 - 0.999 t)
        t = (1 - math.exp(-level)) / 0.999
        return -0.5 - place * 0.3 - 0.7 * t * sum(mask) - math.sin(3 * t)

    def answer(inner, place, level):
        mask = tuple(token == SPECIAL.mask_id for token in inner)
        truth = math.exp(at_level(mask, place, level))
        values = np.full(SIZE, math.log((1 - truth) / (SIZE - 1)))
        values[sentence[place]] = math.log(truth)
        return values

    family = build_family({"name": "masked", "time_conditioning": True, "sampling_eps": 1e-6}, SPECIAL)
    network, sentences = TableNetwork(answer, SPECIAL.num_inputs), frame(sentence)
    points, weights = np.polynomial.legendre.leggauss(80)
    points, weights = (points + 1) / 2, weights / 2
    by_time, by_count = 0.0, 0.0
    for t, weight in zip(points, weights):
        level = float(family.noise.sigma(torch.tensor(t, dtype=torch.float64)))
        for mask in itertools.product((False, True), repeat=length):
            keep = torch.tensor([1.0, *[0.0 if hidden else 1.0 for hidden in mask], 1.0], dtype=torch.float64)
            loss = family.training_loss(network, sentences, NoiseDraw(torch.tensor([t], dtype=torch.float64), keep))
            rho = 0.999 * t
            by_time += weight * rho ** sum(mask) * (1 - rho) ** (length - sum(mask)) * float(loss.loss.sum())
            if any(mask):
                k = sum(mask)
                inner = sum(-at_level(mask, place, level) for place in range(length) if mask[place])
                by_count += weight * beta.pdf(t, k, length - k + 1) * inner / (k * math.comb(length, k))
    assert by_time == pytest.approx(by_count, rel=3e-3), "the mask probability is 0.999 t, hence a part in a thousand"


@pytest.mark.parametrize("name", FAMILIES)
def test_loss_is_finite_at_extreme_logits(name):
    family = build_family({"name": name}, SPECIAL)
    logits = torch.randn(200, SPECIAL.num_inputs, generator=torch.Generator().manual_seed(0)) * 200
    logits.requires_grad_()
    rows = frame((0, 1, 2), (2, 2))
    draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(1), stratified=True)
    loss = family.training_loss(lambda ids, layout, sigma, select, context=None: logits[: len(select)], rows, draw)
    (loss.loss.sum() / loss.weight).backward()
    assert torch.isfinite(loss.loss).all()
    assert torch.isfinite(logits.grad).all()


def test_visible_tokens_bos_and_eos_are_never_masked_or_scored():
    family = build_family({"name": "masked"}, SPECIAL)
    seen = []

    def network(ids, layout, sigma, select):
        seen.append((ids.clone(), select.clone()))
        return torch.zeros(len(select), SPECIAL.num_inputs)

    rows = frame((0, 1, 2), (1,))
    draw = NoiseDraw(torch.tensor([0.999, 0.999]), torch.zeros(8))
    loss = family.training_loss(network, rows, draw)
    ids, select = seen[0]
    assert ids.tolist() == [4, 3, 3, 3, 5, 4, 3, 5]
    assert select.tolist() == [1, 2, 3, 6]
    assert loss.weight == 4
    scored = build_family({"name": "masked", "score_eos": True}, SPECIAL)
    assert scored.num_scored(rows.layout).tolist() == [4, 2], "pieces and EOS of each sentence"


def test_mask_is_never_predicted():
    family = build_family({"name": "masked"}, SPECIAL)
    logits = torch.tensor([[0.0, 0.0, 0.0, 1e4, 1e4, 1e4]])
    log_probs = family.predict(lambda *_: logits, torch.tensor([4, 3, 5]), frame((0,)).layout, select=torch.tensor([1]))
    assert torch.allclose(log_probs.exp().sum(), torch.tensor(1.0))
    assert log_probs.shape[1] == SIZE


def test_strata_are_not_tied_to_the_row():
    """In the upstream code row j of n always gets a time in [j/n, (j+1)/n)."""
    lengths = torch.full((8,), 3)
    times = torch.stack(
        [draw_noise(lengths, torch.Generator().manual_seed(seed), stratified=True).time for seed in range(400)]
    )
    assert ((times * 8).floor().sort(dim=1).values == torch.arange(8)).all(), "each stratum once in every batch"
    assert (times.mean(0) - 0.5).abs().max() < 0.08, "and every row sees all of them: 5.5 standard errors"


def test_smallest_keys_are_uniform_subsets():
    layout = Layout(torch.tensor([5, 4]))
    candidates = torch.tensor([False, True, True, True, False, False, True, True, False])
    counts = torch.zeros(9)
    for seed in range(600):
        keys = torch.rand(9, generator=torch.Generator().manual_seed(seed))
        mask = smallest_keys(keys, torch.tensor([2, 1]), candidates, layout)
        assert mask[:5].sum() == 2 and mask[5:].sum() == 1 and not (mask & ~candidates).any()
        counts += mask
    assert (counts[candidates] / 600 - torch.tensor([2 / 3] * 3 + [0.5] * 2)).abs().max() < 0.09


def test_autoregressive_log_probability_is_the_chain_rule():
    family = build_family({"name": "autoregressive"}, SPECIAL)
    table = torch.randn(6, 6, generator=torch.Generator().manual_seed(3))  # p(next | this)

    def network(ids, layout, sigma, select):
        return table[ids[select]]

    allowed = [0, 1, 2, 5]  # pieces and EOS
    log_probs = torch.log_softmax(table[:, allowed], -1)
    expected = [-(log_probs[4, 2] + log_probs[2, 0] + log_probs[0, 3]), -log_probs[4, 3]]
    nelbo = family.nelbo(network, frame((2, 0), ()), NoiseDraw(torch.empty(0), torch.empty(0)))
    assert nelbo.tolist() == pytest.approx([float(value) for value in expected], rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "maskd"}, "perhaps .masked.*expected one of .*autoregressive, .*masked"),
        ({"name": "masked", "importance": True}, "importance_sampling"),
        ({"name": "masked", "sampling_mx": 0.5}, "did you mean .sampling_max."),
        ({"name": "masked", "T": -1}, "family.T -1"),
        ({"name": "masked", "sampling_max": 0.0005}, "sampling_eps"),
        ({"name": "masked", "importance_sampling": True, "change_of_variables": True}, "expected one of them"),
        ({"name": "masked", "importance_sampling": True, "schedule": "geometric"}, "no inverse"),
        ({"name": "autoregressive", "T": 1}, "unknown key .family.T.; known here: nothing"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_family(options, SPECIAL)


def test_a_token_predicted_with_probability_one_still_counts():
    """Taking "loss is not 0" for "was masked" loses such tokens, and with them the normalisation."""

    def answer(inner, place, level):
        return np.where(np.arange(SIZE) == (2, 0, 1)[place], 200.0, -200.0)

    family = build_family({"name": "masked", "weighting": "masked_mean"}, SPECIAL)
    draw = NoiseDraw(torch.tensor([0.9999]), torch.zeros(5))
    loss = family.training_loss(TableNetwork(answer, SPECIAL.num_inputs), frame((2, 0, 1)), draw)
    assert loss.loss.tolist() == [0.0, 0.0, 0.0]
    assert loss.weight == 3


def test_target_log_probs_are_log_softmax_and_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values bit for bit, the gradient to rounding, however many rows are worked on at once and whatever the rest of the symbols."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(10, 9, generator=generator, dtype=torch.float64)
    targets = torch.tensor([0, 3, 4, 5, 6, 7, 0, 3, 4, 7])

    def plain(logits: Tensor) -> Tensor:
        bias = logits.new_zeros(8)
        bias[[1, 2]] = -torch.inf
        return torch.log_softmax(logits[:, :8] + bias, -1).gather(1, targets[:, None])[:, 0]

    def chunked(logits: Tensor) -> Tensor:
        return target_log_probs(logits, targets, kept=8, never=(1, 2))

    for values in (1, 3 * 9, 10_000):
        monkeypatch.setitem(CHUNK, "cpu", values)
        assert torch.equal(chunked(logits), plain(logits))
        assert torch.autograd.gradcheck(chunked, logits.clone().requires_grad_())
        single = logits.bfloat16()
        assert torch.equal(chunked(single), plain(single.float()))
    assert target_log_probs(logits[:0], targets[:0], kept=8).shape == (0,)
