"""Estimators against exact enumeration on languages small enough for it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rescore.estimators import ESTIMATORS, build_estimator
from rescore.estimators.base import Estimate
from rescore.estimators.common_random_numbers import CommonRandomNumbers
from rescore.estimators.plans import MaskPlan
from tiny_world import all_masks, conditionals, inconsistent, markov_joint, random_joint, run

SENTENCE = (2, 0, 1, 2, 1)

OF_MASKS = [name for name, kind in ESTIMATORS.items() if issubclass(kind, MaskPlan)]


def keys_of(seed: int, length: int, tag: str = "utt") -> CommonRandomNumbers:
    return CommonRandomNumbers(seed, tag, [(place, 0) for place in range(length)])


def score(name, sentence, log_probs, *, seed=1, passes=9, replicates=3):
    asked = None if ESTIMATORS[name].usual_passes is None else passes
    plan = build_estimator(name, passes=asked, replicates=replicates).plan(len(sentence), keys_of(seed, len(sentence)))
    estimate = plan.estimate(run(plan, sentence, log_probs))
    return estimate.value, estimate.standard_error


def pll_k(sentence, log_probs, k):
    length = len(sentence)
    sums = [log_probs(sentence, mask).sum() for mask in all_masks(length) if sum(mask) == k]
    return length / k * float(np.mean(sums))


def elbo(sentence, log_probs):
    length = len(sentence)
    return sum(
        log_probs(sentence, mask).sum() / (sum(mask) * math.comb(length, sum(mask))) for mask in all_masks(length)
    )


def mean_over_orders(sentence, log_probs):
    values = []
    for order in itertools.permutations(range(len(sentence))):
        hidden = set(range(len(sentence)))
        total = 0.0
        for place in order:
            total += log_probs(sentence, tuple(p in hidden for p in range(len(sentence))))[place]
            hidden.remove(place)
        values.append(total)
    return float(np.mean(values)), float(np.std(values))


WORLDS = {
    "joint": conditionals(random_joint(3, 5, 3)),
    "markov": conditionals(markov_joint(4, 5, 3)),
    "inconsistent": inconsistent(5, 3),
}


@pytest.mark.parametrize("world", ["joint", "markov"])
def test_exact_conditionals_make_the_bound_tight(world):
    joint = random_joint(3, 5, 3) if world == "joint" else markov_joint(4, 5, 3)
    log_p = math.log(joint[SENTENCE])
    assert score("exact", SENTENCE, WORLDS[world])[0] == pytest.approx(log_p, abs=1e-10)
    assert score("order:l2r", SENTENCE, WORLDS[world])[0] == pytest.approx(log_p, abs=1e-10)
    mean, spread = mean_over_orders(SENTENCE, WORLDS[world])
    assert mean == pytest.approx(log_p, abs=1e-10)
    assert spread < 1e-10


def test_two_tokens_by_hand():
    joint = random_joint(8, 2, 4)
    p1, p2 = joint.sum(1), joint.sum(0)
    by_hand = 0.5 * (math.log(p1[1]) + math.log(p2[3]) + 2 * math.log(joint[1, 3]) - math.log(p1[1]) - math.log(p2[3]))
    assert score("exact", (1, 3), conditionals(joint))[0] == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("world", WORLDS)
def test_bound_is_mean_over_orders_and_over_k(world):
    log_probs = WORLDS[world]
    expected = elbo(SENTENCE, log_probs)
    assert score("exact", SENTENCE, log_probs)[0] == pytest.approx(expected, abs=1e-10)
    assert mean_over_orders(SENTENCE, log_probs)[0] == pytest.approx(expected, abs=1e-10)
    assert np.mean([pll_k(SENTENCE, log_probs, k) for k in range(1, 6)]) == pytest.approx(expected, abs=1e-10)
    assert score("pll", SENTENCE, log_probs)[0] == pytest.approx(pll_k(SENTENCE, log_probs, 1), abs=1e-10)


def test_bound_of_an_inconsistent_network_sums_to_less_than_one():
    total = sum(math.exp(elbo(sentence, inconsistent(5, 3))) for sentence in itertools.product(range(3), repeat=3))
    assert total <= 1


def expected_target(name, log_probs):
    length = len(SENTENCE)
    if ESTIMATORS[name].target == "elbo":
        return elbo(SENTENCE, log_probs)
    return sum(2 * k / (length * (length + 1)) * pll_k(SENTENCE, log_probs, k) for k in range(1, length + 1))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", ["sample-norm", "fixed-k", "systematic-k", "pairs", "control", "coupled"])
def test_mean_over_seeds_is_the_stated_target(name, world):
    log_probs = {}  # the worlds are slow to ask; there are 31 masks

    def cached(sentence, mask):
        if mask not in log_probs:
            log_probs[mask] = WORLDS[world](sentence, mask)
        return log_probs[mask]

    values = np.array([score(name, SENTENCE, cached, seed=seed)[0] for seed in range(800)])
    z = (values.mean() - expected_target(name, WORLDS[world])) / (values.std(ddof=1) / math.sqrt(len(values)))
    assert abs(z) < 3.7, "two-sided probability 2e-4 for each of 18 cases"


def test_global_normalisation_has_the_biased_limit_it_names():
    value, _ = score("global-norm", SENTENCE, WORLDS["joint"], passes=4000)
    assert value == pytest.approx(expected_target("global-norm", WORLDS["joint"]), abs=0.1)
    assert abs(value - elbo(SENTENCE, WORLDS["joint"])) > 0.15, "this world tells the two targets apart"


def test_plain_sampling_has_heavier_tails_than_fixed_k():
    spread = {
        name: np.std([score(name, SENTENCE, WORLDS["markov"], seed=seed)[0] for seed in range(200)])
        for name in ("plain", "fixed-k", "systematic-k")
    }
    assert spread["plain"] > 1.5 * spread["fixed-k"] > 1.5 * spread["systematic-k"] / 1.2


def test_hand_vector_separates_the_three_targets():
    """L = 2; log p of the true tokens: .5 and .4 with both masked, .9 with only the first masked, .7 with only the second."""
    table = {(True, True): [0.5, 0.4], (True, False): [0.9, 1.0], (False, True): [1.0, 0.7]}

    def log_probs(sentence, mask):
        return np.log(table[tuple(mask)])

    assert score("exact", (0, 0), log_probs)[0] == pytest.approx(0.5 * math.log(0.126), abs=1e-12)
    assert score("pll", (0, 0), log_probs)[0] == pytest.approx(math.log(0.63), abs=1e-12)
    limit = math.log(0.63) / 3 + 2 / 3 * math.log(0.2)
    assert limit == pytest.approx(-1.2269704, abs=1e-7)
    assert score("global-norm", (0, 0), log_probs, passes=20000)[0] == pytest.approx(limit, abs=0.02)


UNIGRAM = np.log(np.array([0.5, 0.3, 0.2]))


def unigram(sentence, mask):
    return np.where(mask, UNIGRAM[list(sentence)], 0.0)


@pytest.mark.parametrize("name", ["pll", "exact", "order:l2r"])
def test_unigram_model_is_exact_pointwise_for_deterministic_plans(name):
    value, error = score(name, SENTENCE, unigram)
    assert value == pytest.approx(UNIGRAM[list(SENTENCE)].sum(), abs=1e-12)
    assert error == 0


def test_pairs_at_half_masking_are_exact_for_a_unigram_model():
    """At k = L/2 both halves of a pair have the same weight, so every token counts once: L = 2 has no other k."""
    for seed in range(20):
        assert score("pairs", (0, 2), unigram, seed=seed, passes=2, replicates=1)[0] == pytest.approx(
            UNIGRAM[[0, 2]].sum(), abs=1e-12
        )


@pytest.mark.parametrize(
    "name", ["fixed-k", "systematic-k", "pairs", "sample-norm", "pll", "exact", "order:l2r", "global-norm"]
)
def test_uniform_model_scores_minus_l_log_v_without_variance(name):
    for seed in range(5):
        value, error = score(
            name, SENTENCE, lambda sentence, mask: np.where(mask, -math.log(7), 0.0), seed=seed, passes=8
        )
        assert value == pytest.approx(-5 * math.log(7), abs=1e-9)
        if name != "global-norm":
            assert error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", [name for name in OF_MASKS if name not in ("plain", "coupled", "order:confidence")])
def test_one_token_costs_its_log_probability(name):
    assert score(name, (1,), unigram)[0] == pytest.approx(UNIGRAM[1], abs=1e-12)


@pytest.mark.parametrize("name", [name for name in OF_MASKS if name != "order:confidence"])
def test_empty_hypothesis_scores_zero_in_zero_passes(name):
    plan = build_estimator(name).plan(0, keys_of(1, 0))
    assert len(plan.masks) == 0
    assert plan.estimate(np.zeros((0, 0))) == Estimate(0.0, None, 0)


@pytest.mark.parametrize("name", ["systematic-k", "pairs"])
def test_standard_error_is_honest(name):
    """The mean of the squared standard errors is the variance over seeds."""
    found = [score(name, SENTENCE, WORLDS["inconsistent"], seed=seed, passes=13, replicates=4) for seed in range(400)]
    values, errors = np.array(found).T
    assert np.mean(errors**2) == pytest.approx(values.var(ddof=1), rel=0.3)


def test_ratio_estimator_claims_no_standard_error():
    assert math.isnan(score("global-norm", SENTENCE, WORLDS["inconsistent"], passes=8)[1])


def test_strided_with_a_pass_for_each_token_is_pll():
    for passes in (5, 9):
        value = score("strided", SENTENCE, WORLDS["inconsistent"], passes=passes)
        assert value == score("pll", SENTENCE, WORLDS["inconsistent"])
    plan = build_estimator("strided", passes=2).plan(5, keys_of(1, 5))
    assert plan.masks.astype(int).tolist() == [[1, 0, 1, 0, 1], [0, 1, 0, 1, 0]]


def test_standard_error_of_one_replicate_is_not_a_number():
    assert math.isnan(score("fixed-k", SENTENCE, WORLDS["joint"], passes=1)[1])


@pytest.mark.parametrize("passes", [3, 4, 9, 16, 17])
@pytest.mark.parametrize("name", ["pairs", "systematic-k", "fixed-k"])
def test_no_more_passes_than_asked_for(name, passes):
    plan = build_estimator(name, passes=passes, replicates=4).plan(12, keys_of(1, 12))
    assert passes - 1 <= len(plan.masks) <= passes


def test_systematic_k_with_l_rows_uses_each_k_once():
    plan = build_estimator("systematic-k", passes=5, replicates=1).plan(5, keys_of(3, 5))
    assert sorted(plan.masks.sum(1).tolist()) == [1, 2, 3, 4, 5]


def test_keys_depend_on_slot_and_utterance_only():
    whole = keys_of(1, 6)
    tail = CommonRandomNumbers(1, "utt", [(4, 0), (5, 0)])
    assert whole.tokens("mask", 0)[4:].tolist() == tail.tokens("mask", 0).tolist()
    inserted = CommonRandomNumbers(1, "utt", [(0, 0), (0, 1), (1, 0)])
    assert inserted.tokens("mask", 0)[[0, 2]].tolist() == whole.tokens("mask", 0)[:2].tolist()
    assert keys_of(1, 6, "other").tokens("mask", 0).tolist() != whole.tokens("mask", 0).tolist()
    assert len(set(whole.tokens("mask", 0)) | set(whole.tokens("mask", 1)) | set(inserted.tokens("mask", 0))) == 13


def test_unknown_estimator_names_the_known_ones():
    with pytest.raises(ValueError, match="systematic-k"):
        build_estimator("fixedk")
