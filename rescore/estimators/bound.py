"""Plans of random masks that estimate the bound, or quantities that were published as estimates of it.

    Control(passes=17).plan_list("utt-1", hypotheses, seed=1)

Let S(M) be the sum of log p(x_i | visible tokens) over the masked positions M, k = |M|, and L the scored length. Then

    elbo   (1/L) sum_k PLL_k with PLL_k = (L/k) E_{|M|=k} S(M)
           a lower bound on log p(x | L) (Ou et al., arXiv 2406.03736)
"""

from __future__ import annotations

import itertools
from math import comb

import numpy as np

from rescore.estimators.base import BoolArray
from rescore.estimators.common_random_numbers import CommonRandomNumbers
from rescore.estimators.plans import MaskPlan, Plan, plan_of_rows, smallest
from rescore.scores import ELBO, WEIGHTED_PLLS


class Bound(MaskPlan):
    """Base class of unbiased estimates of the bound. If `passes` suffices for all masks, each is run once instead."""

    target, unbiased = ELBO, True

    def plan(self, length: int, numbers: CommonRandomNumbers) -> Plan:
        fits = 0 < 2**length - 1 <= self.passes
        return Exact().plan(length, numbers) if fits else super().plan(length, numbers)


class Plain(MaskPlan):
    """The reference estimator: `passes` draws of t uniform in [0.001, 1], each token masked with probability t, weight
    1/t.

    The variance grows without bound as the lower end of t goes to 0, so the standard error is not reliable.
    """

    name, target, unbiased, shares_numbers = "plain", ELBO, True, False
    EPS = 1e-3

    def _plan(self, length: int, numbers: CommonRandomNumbers) -> Plan:
        times = [self.EPS + (1 - self.EPS) * numbers.scalar("t", draw) for draw in range(self.passes)]
        masks = [numbers.tokens("mask", draw) < t for draw, t in enumerate(times)]
        return plan_of_rows(masks, [1 / (t * self.passes) for t in times], list(range(self.passes)), times)


class SampleNorm(Bound):
    """Sample-level mask normalisation (arXiv 2604.14001) times L: Bernoulli masks, each
    draw divided by its number of masked tokens."""

    name, target, unbiased, shares_numbers = "sample-norm", ELBO, True, False

    def _plan(self, length: int, numbers: CommonRandomNumbers) -> Plan:
        masks = _bernoulli_masks(self.passes, length, numbers)
        return plan_of_rows(masks, [length / (mask.sum() * self.passes) for mask in masks], list(range(self.passes)))


def _bernoulli_masks(passes: int, length: int, numbers: CommonRandomNumbers) -> list[BoolArray]:
    """`passes` masks [L] of tokens masked with probability t, t uniform in [0, 1); an empty mask is drawn again."""
    masks = []
    for draw in range(passes):
        for attempt in itertools.count():
            mask = numbers.tokens("mask", draw, attempt) < numbers.scalar("t", draw, attempt)
            if mask.any():
                masks.append(mask)
                break
    return masks


class GlobalNorm(MaskPlan):
    """Global mask normalisation (arXiv 2604.14001) times L: the sum over all draws divided by
    the number of all masked tokens. Not the bound."""

    name, target, unbiased, shares_numbers = "global-norm", WEIGHTED_PLLS, False, False

    def _plan(self, length: int, numbers: CommonRandomNumbers) -> Plan:
        masks = _bernoulli_masks(self.passes, length, numbers)
        weight = length / sum(int(mask.sum()) for mask in masks)
        # A ratio of two sums is not a mean of replicates, so all draws form one replicate and give no standard error.
        return plan_of_rows(masks, [weight] * self.passes, [0] * self.passes)


class Coupled(MaskPlan):
    """Coupled scoring (arXiv 2604.14001): a Bernoulli mask and its complement, each token predicted exactly
    once. Not the bound.

    `passes` rows in `passes` / 2 couples.
    """

    name, target, unbiased, shares_numbers = "coupled", WEIGHTED_PLLS, True, False

    def _plan(self, length: int, numbers: CommonRandomNumbers) -> Plan:
        couples = max(1, self.passes // 2)
        masks, weights, replicate = [], [], []
        for draw in range(couples):
            mask = numbers.tokens("mask", draw) < numbers.scalar("t", draw)
            for part in (mask, ~mask):
                if part.any():
                    masks.append(part)
                    weights.append(1 / couples)
                    replicate.append(draw)
        return plan_of_rows(masks, weights, replicate)


class FixedK(Bound):
    """`passes` draws of k uniform on 1 .. L and a uniform set of k masked tokens, weight L/k."""

    name, target, unbiased = "fixed-k", ELBO, True

    def _plan(self, length: int, numbers: CommonRandomNumbers) -> Plan:
        counts = [int(numbers.scalar("k", draw) * length) + 1 for draw in range(self.passes)]
        masks = [smallest(numbers.tokens("mask", draw), k) for draw, k in enumerate(counts)]
        return plan_of_rows(masks, [length / (k * self.passes) for k in counts], list(range(self.passes)))


class SystematicK(Bound):
    """As fixed-k, with evenly spaced k in each replicate: k_j = floor(L (j + u) / K) + 1.

    `passes` rows in `replicates` independent designs of K rows.
    """

    name, target, unbiased, replicated = "systematic-k", ELBO, True, True

    def _plan(self, length: int, numbers: CommonRandomNumbers) -> Plan:
        designs = min(self.replicates, self.passes)
        masks, weights, replicate = [], [], []
        for design in range(designs):
            rows = len(range(design, self.passes, designs))
            offset = numbers.scalar("u", design)
            for j in range(rows):
                k = min(length, int(length * (j + offset) / rows) + 1)
                masks.append(smallest(numbers.tokens("mask", design, j), k))
                weights.append(length / (k * rows * designs))
                replicate.append(design)
        return plan_of_rows(masks, weights, replicate)


class Pairs(Bound):
    """All tokens masked once (weight 1/L), then complementary pairs (M, not M) with k spread evenly over 1 .. L-1 in
    each replicate.

    1 + 2 * pairs rows with pairs = (passes - 1) // 2, at least one; each pair predicts every token once.
    """

    name, target, unbiased, replicated = "pairs", ELBO, True, True
    usual_passes = 17

    def _plan(self, length: int, numbers: CommonRandomNumbers) -> Plan:
        masks, weights, replicate = [np.ones(length, dtype=bool)], [1 / length], [-1]
        if length == 1:
            return plan_of_rows(masks, weights, replicate)
        pairs = max(1, (self.passes - 1) // 2)
        designs = min(self.replicates, pairs)
        for design in range(designs):
            rows = len(range(design, pairs, designs))
            offset = numbers.scalar("u", design)
            for j in range(rows):
                k = min(length - 1, int((length - 1) * (j + offset) / rows) + 1)
                mask = smallest(numbers.tokens("mask", design, j), k)
                share = (length - 1) / (2 * rows * designs)
                masks += [mask, ~mask]
                weights += [share / k, share / (length - k)]
                replicate += [design, design]
        return plan_of_rows(masks, weights, replicate)


class Control(Pairs):
    """As pairs, each pair a replicate, with the mean log p of each token in the other pairs as a control variate.

    1 + 2 * pairs rows, pairs = (passes - 1) // 2, at least one; a single pair has no control variate. A pair counts
    token i with a random weight of mean (L - 1)/L. The control variate adds (mean weight - weight) times the mean log p
    of the token in the other pairs. These are independent of the pair, so the expectation is still the bound, and only
    the variation of log p(x_i) with the mask remains. The standard error comes from the corrected pairs.
    """

    name, replicated, usual_passes = "control", False, 17

    def _plan(self, length: int, numbers: CommonRandomNumbers) -> Plan:
        pairs = max(1, (self.passes - 1) // 2)
        plan = Pairs(passes=2 * pairs + 1, replicates=pairs)._plan(length, numbers)
        if length == 1 or pairs == 1:
            return plan
        own = np.array([plan.replicate == pair for pair in range(pairs)])
        weights = pairs * plan.weights * own[:, :, None]  # [pairs, rows, L] estimate of the random part from each pair
        counted = weights.sum(axis=1)  # [pairs, L] mean (L - 1) / L
        others = counted.sum(axis=0) - counted  # positive: every pair masks each token once
        missing = ((length - 1) / length - counted) / others
        first = plan.weights * (plan.replicate < 0)[:, None]
        parts = first + weights + missing[:, None, :] * (weights.sum(axis=0) - weights)
        return Plan(plan.masks, parts.mean(axis=0), plan.replicate, parts=parts)


class Exact(MaskPlan):
    """Every mask once, weight 1/(k C(L, k)): the exact bound. 2^L - 1 rows, for short hypotheses and tests."""

    name, target, unbiased, usual_passes = "exact", ELBO, True, None
    cost = "one pass per mask"
    LONGEST = 16

    def _plan(self, length: int, numbers: CommonRandomNumbers) -> Plan:
        if length > self.LONGEST:
            raise ValueError(
                f"estimator exact needs 2^L - 1 passes; got a hypothesis of {length} tokens, "
                f"expected at most {self.LONGEST}"
            )
        masks = [np.array([bool(code >> position & 1) for position in range(length)]) for code in range(1, 2**length)]
        weights = [1 / (int(mask.sum()) * comb(length, int(mask.sum()))) for mask in masks]
        return plan_of_rows(masks, weights, [-1] * len(masks))
