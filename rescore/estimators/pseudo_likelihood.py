"""Estimators whose target is not a bound: tokens given their context, one order of generation, or differences between
similar hypotheses.

pll         PLL_1, every token given all others (Salazar et al., arXiv 1910.14659)
strided     as pll, with every n-th token masked at once
order:l2r   log-probability in one fixed order: exact for the model that generates in that order
contrast    only tokens that differ between similar hypotheses are masked: see `Contrast`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from rescore.estimators.alignment import Tokens, changed_spans, leader_of, nearest_tree
from rescore.estimators.base import BoolArray
from rescore.estimators.common_random_numbers import CommonRandomNumbers
from rescore.estimators.plans import ListPlan, MaskPlan, Plan, plan_of_rows
from rescore.scores import CONTRAST_ORDER, CONTRAST_PLL, ORDER, PLL, STRIDED_PLL


class PseudoLogLikelihood(MaskPlan):
    """Every token masked alone, L rows, weight 1. Deterministic, not a bound."""

    name, target, unbiased, usual_passes = "pll", PLL, True, None

    def _plan(self, length: int, numbers: CommonRandomNumbers) -> Plan:
        return plan_of_rows(list(np.eye(length, dtype=bool)), [1.0] * length, [-1] * length)


class Strided(MaskPlan):
    """Every `passes`-th token masked, each token exactly once: `passes` rows instead of L for PLL. Deterministic, not a
    bound.

    A masked token sees its `passes` - 1 neighbours on both sides, so the score is close to PLL. It depends only on the
    text.
    """

    name, target, unbiased, shares_numbers = "strided", STRIDED_PLL, True, False
    usual_passes = 6

    def _plan(self, length: int, numbers: CommonRandomNumbers) -> Plan:
        return strided(np.ones(length, dtype=bool), self.passes)


def strided(wanted: BoolArray, stride: int) -> Plan:
    """Rows that mask each of the `wanted` [L] positions once, with the positions of a row `stride` apart in the
    text."""
    residue = np.arange(len(wanted)) % stride
    masks = [mask for first in range(stride) if (mask := wanted & (residue == first)).any()]
    return _fixed(masks, len(wanted))


def chain(wanted: BoolArray) -> Plan:
    """Rows that give the joint log p of the `wanted` [L] positions given all others, one after the other from the
    left."""
    positions = np.nonzero(wanted)[0]
    masks = [wanted & (np.arange(len(wanted)) >= position) for position in positions]
    plan = _fixed(masks, len(wanted))
    weights = np.zeros(plan.masks.shape)
    weights[np.arange(len(positions)), positions] = 1.0
    return Plan(plan.masks, weights, plan.replicate)


def _fixed(masks: Sequence[BoolArray], length: int) -> Plan:
    if not masks:
        return Plan(np.zeros((0, length), bool), np.zeros((0, length)), np.zeros(0, np.int64))
    return plan_of_rows(masks, [1.0] * len(masks), [-1] * len(masks))


class LeftToRight(MaskPlan):
    """Each token given those before it, all later ones masked: L rows, exact for the model that generates in this
    order."""

    name, target, unbiased, usual_passes = "order:l2r", ORDER, True, None

    def _plan(self, length: int, numbers: CommonRandomNumbers) -> Plan:
        return chain(np.ones(length, dtype=bool))


class Contrast(MaskPlan):
    """Differences of strided PLL between each hypothesis and its nearest neighbour, in changed windows with
    2 tokens of context.

    Hypotheses form their minimum spanning tree by edit distance. The root is the one with the smallest distance to all
    others and gets its strided PLL. For the others, score = score of the parent + strided PLL of the changed window in
    this text - strided PLL of the window in the parent. `passes` is the stride. The score equals PLL if a token depends
    only on its 2 neighbours on each side (a Markov chain) and lengths are equal. Otherwise it differs by the effect of
    a change on tokens farther away, summed along the path to the root. Scores depend on the other hypotheses.
    """

    name, target, unbiased = "contrast", CONTRAST_PLL, True
    usual_passes: ClassVar[int | None] = 3
    WINDOW: ClassVar[int] = 2

    def plan_list(self, seq_tag: str, hypotheses: Sequence[Tokens], *, seed: int) -> ListPlan:
        del seq_tag, seed  # nothing is drawn
        texts: list[Tokens] = []
        plans: list[Plan] = []
        terms: list[list[tuple[int, int]]] = [[] for _ in hypotheses]
        passes = [0] * len(hypotheses)
        index_of = {tokens: index for index, tokens in enumerate(hypotheses)}

        def add(tokens: Tokens, wanted: BoolArray) -> int:
            texts.append(tokens)
            plans.append(self._window(wanted))
            return len(plans) - 1

        for tokens, neighbour in nearest_tree(hypotheses, leader_of(hypotheses)):
            index = index_of[tokens]
            if neighbour is None:
                own = add(tokens, np.ones(len(tokens), dtype=bool))
                terms[index], passes[index] = [(own, 1)], len(plans[own].masks)
                continue
            here, there = np.zeros(len(tokens), dtype=bool), np.zeros(len(neighbour), dtype=bool)
            for first, last, new_first, new_last in changed_spans(neighbour, tokens, self.WINDOW):
                there[first:last] = here[new_first:new_last] = True
            own, other = add(tokens, here), add(neighbour, there)
            terms[index] = [*terms[index_of[neighbour]], (own, 1), (other, -1)]
            passes[index] = len(plans[own].masks) + len(plans[other].masks)
        return ListPlan(texts, plans, terms, passes)

    def _window(self, wanted: BoolArray) -> Plan:
        return strided(wanted, self.passes)

    def _plan(self, length: int, numbers: CommonRandomNumbers) -> Plan:
        return self._window(np.ones(length, dtype=bool))


class Chain(Contrast):
    """As contrast, with the joint log-probability of the changed window, token by token from the left; order:l2r for
    the root.

    For a consistent model (one whose conditionals belong to one joint distribution) and hypotheses of equal length this
    is log p, and so is the bound. It differs if lengths differ, because the length is an input of the network, and by
    the inconsistency of the model.
    """

    name, target, usual_passes = "contrast:chain", CONTRAST_ORDER, None
    WINDOW = 1

    def _window(self, wanted: BoolArray) -> Plan:
        return chain(wanted)
