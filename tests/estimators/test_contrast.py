"""Scores of whole lists: contrast, control variates and paired errors, against exact probabilities."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from rescore.estimators import build_estimator
from rescore.estimators.alignment import changed_spans, distances, nearest_tree
from rescore.estimators.common_random_numbers import CommonRandomNumbers
from rescore.estimators.confidence_order import confident_order
from rescore.lms.network import NetworkScorer
from tiny_world import conditionals, inconsistent, markov_joint, random_joint, run

SAME_LENGTH = [(0, 1, 2, 1, 0, 2), (0, 1, 1, 1, 0, 2), (0, 2, 2, 1, 0, 2), (0, 2, 2, 1, 0, 0), (1, 1, 2, 0, 1, 2)]


def list_scores(name, hypotheses, log_probs, *, passes=None, seed=1):
    plan = build_estimator(name, passes=passes).plan_list("utt", hypotheses, seed=seed)
    return plan.estimates([run(part, text, log_probs) for part, text in zip(plan.plans, plan.texts)])


def test_a_chain_of_contrasts_is_log_p_for_a_consistent_model():
    joint = random_joint(2, 6, 3)
    for sentence, estimate in zip(
        SAME_LENGTH, list_scores("contrast:chain", SAME_LENGTH, conditionals(joint)), strict=True
    ):
        assert estimate.value == pytest.approx(math.log(joint[sentence]), abs=1e-9)
        assert estimate.standard_error == 0


@pytest.mark.parametrize("stride", [2, 3, 6])
def test_contrast_is_pll_where_tokens_depend_on_their_neighbours_only(stride):
    log_probs = conditionals(markov_joint(4, 6, 3))
    pll = list_scores("pll", SAME_LENGTH, log_probs)
    contrast = list_scores("contrast", SAME_LENGTH, log_probs, passes=stride)
    assert [c.value for c in contrast] == pytest.approx([p.value for p in pll], abs=1e-9)
    assert sum(c.passes for c in contrast) < sum(p.passes for p in pll) * 2


@pytest.mark.parametrize("name", ["contrast", "contrast:chain", "control", "strided"])
def test_list_scores_do_not_depend_on_the_order_of_the_list(name):
    hypotheses = [*SAME_LENGTH, (0, 1, 2, 1, 0), (1,), (0, 1, 2, 2, 1, 0, 2, 2)]
    log_probs = inconsistent(3, 3)
    forward = dict(zip(hypotheses, list_scores(name, hypotheses, log_probs)))
    backward = dict(zip(hypotheses[::-1], list_scores(name, hypotheses[::-1], log_probs)))
    for tokens in hypotheses:
        assert forward[tokens].value == pytest.approx(backward[tokens].value, abs=1e-9)


def test_contrast_takes_empty_and_single_texts():
    log_probs = inconsistent(3, 3)
    for name in ("contrast", "contrast:chain"):
        empty, single = list_scores(name, [(), (2,)], log_probs)
        assert empty.value == 0
        assert single.value == pytest.approx(log_probs((2,), (True,))[0])


def table_answer(log_probs, size):
    """What a network would tell `confident_order`, from a table."""

    def answer(sequences, hidden):
        found = []
        for tokens, mask in zip(sequences, hidden):
            places = np.nonzero(mask)[0]
            own = log_probs(tokens, tuple(mask))[places]
            every = [
                [log_probs((*tokens[:p], symbol, *tokens[p + 1 :]), tuple(mask))[p] for symbol in range(size)]
                for p in places
            ]
            found.append((own, np.max(every, axis=1)))
        return found

    return answer


def test_confident_order_is_a_distribution_over_texts_of_a_length():
    """Any network: the order depends on what is visible, so the probabilities of all texts add up to one."""
    texts = list(itertools.product(range(3), repeat=4))
    totals = confident_order(texts, table_answer(inconsistent(3, 3), 3))
    assert np.exp(totals).sum() == pytest.approx(1, abs=1e-9)


def test_confident_order_is_log_p_for_a_consistent_model():
    joint = random_joint(2, 6, 3)
    totals = confident_order([*SAME_LENGTH, ()], table_answer(conditionals(joint), 3))
    assert totals == pytest.approx([*(math.log(joint[text]) for text in SAME_LENGTH), 0.0], abs=1e-9)


def test_the_scorer_follows_the_networks_confidence(model_folder, vocab):
    """Against one position at a time, each pass through the network alone."""
    scorer = NetworkScorer(str(model_folder), name="lm", estimator=build_estimator("order:confidence"))
    model, texts = scorer.model, ["the king said", "a", "", "he went to the old house"]
    for text, score in zip(texts, scorer.score_texts("utt", texts), strict=True):
        ids = vocab.encode(text)
        hidden, expected = set(range(len(ids))), 0.0
        while hidden:
            framed = model.sentences([text])
            masked = torch.tensor([False, *(place in hidden for place in range(len(ids))), False])
            z = framed.ids.masked_fill(masked, vocab.mask_id)
            with torch.no_grad():
                found = model.family.predict(model.network, z, framed.layout, select=masked.nonzero()[:, 0])
            first = int(found.max(dim=1).values.argmax())
            place = sorted(hidden)[first]
            expected += float(found[first, ids[place]])
            hidden.remove(place)
        assert score.log_prob == pytest.approx(expected, abs=1e-4)
        assert (score.num_passes, score.target) == (len(ids), "order")


def test_the_tree_is_a_tree_of_fewest_edits():
    generator = np.random.default_rng(1)
    texts = list({tuple(generator.integers(3, size=generator.integers(1, 6)).tolist()) for _ in range(12)})
    tree = nearest_tree(texts, texts[0])
    assert tree[0] == (texts[0], None) and {tokens for tokens, _ in tree} == set(texts)
    seen = {texts[0]}
    for tokens, parent in tree[1:]:
        assert parent in seen, "parents first"
        seen.add(tokens)
    apart = distances(texts)
    total = sum(apart[texts.index(tokens), texts.index(parent)] for tokens, parent in tree[1:])
    from scipy.sparse.csgraph import minimum_spanning_tree

    assert total == minimum_spanning_tree(apart).sum()


@pytest.mark.parametrize("around", [0, 1, 3])
def test_outside_the_changed_spans_texts_are_equal(around):
    generator = np.random.default_rng(2)
    for _ in range(200):
        old, new = (tuple(generator.integers(3, size=generator.integers(0, 9)).tolist()) for _ in range(2))
        spans = changed_spans(old, new, around)
        kept_old, kept_new, here, there = (), (), 0, 0
        for first, last, new_first, new_last in spans:
            assert here <= first <= last and there <= new_first <= new_last
            assert old[here:first] == new[there:new_first]
            here, there = last, new_last
            kept_old, kept_new = kept_old + old[first:last], kept_new + new[new_first:new_last]
        assert old[here:] == new[there:]


def control_values(log_probs, sentence, seeds, name="control"):
    keys = [CommonRandomNumbers(seed, "utt", [(place, 0) for place in range(len(sentence))]) for seed in range(seeds)]
    plans = [build_estimator(name, passes=11, replicates=5).plan(len(sentence), key) for key in keys]
    return [plan.estimate(run(plan, sentence, log_probs)) for plan in plans]


def test_control_variates_leave_no_noise_for_a_unigram_model():
    unigram = np.log([0.2, 0.5, 0.3])
    sentence = (0, 1, 1, 2, 0, 1)
    for estimate in control_values(lambda text, mask: np.where(mask, unigram[list(text)], 0.0), sentence, 5):
        assert estimate.value == pytest.approx(unigram[list(sentence)].sum(), abs=1e-9)
        assert estimate.standard_error == pytest.approx(0, abs=1e-9)


def test_control_variates_reduce_noise_and_know_what_is_left():
    log_probs, sentence = conditionals(markov_joint(4, 6, 3)), (2, 0, 1, 2, 1, 0)
    with_control = control_values(log_probs, sentence, 300)
    without = control_values(log_probs, sentence, 300, "pairs")
    spread = np.var([estimate.value for estimate in with_control], ddof=1)
    assert spread < np.var([estimate.value for estimate in without], ddof=1)
    told = np.mean([estimate.standard_error**2 for estimate in with_control])
    assert 0.6 < told / spread < 1.7
