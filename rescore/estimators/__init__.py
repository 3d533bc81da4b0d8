"""How a score is measured: estimators of the bound. No model in here.

    estimator = build_estimator("control", passes=9)
    listed = estimator.plan_list("utt-1", hypotheses, seed=1)           # what to run; see rescore.estimators.plans

With S(M) the sum of log p(x_i | visible rest) over the masked positions M, k = |M| and L the scored length:

    elbo   (1/L) sum_k PLL_k with PLL_k = (L/k) E_{|M|=k} S(M): a lower bound on log p(x | L) (Ou et al., arXiv 2406.03736)

Other targets (pll, orders, contrast) are in rescore.estimators.pseudo_likelihood.
"""

from __future__ import annotations

import itertools

import numpy as np

from rescore.estimators.drawn_noise import Draws, OnePass
from rescore.estimators.plans import BoolArray, Estimator, Keys, Plan, plan_of_rows, smallest
from rescore.estimators.pseudo_likelihood import (
    Chain,
    ConfidentFirst,
    Contrast,
    LeftToRight,
    PseudoLogLikelihood,
    Strided,
)


class _Bound(Estimator):
    """Of the bound: where every mask fits into the budget, they are all run."""

    target, unbiased = "elbo", True

    def plan(self, length: int, keys: Keys) -> Plan:
        fits = self.target == "elbo" and 0 < 2**length - 1 <= self.passes
        return Exact().plan(length, keys) if fits else super().plan(length, keys)


class Plain(Estimator):
    """The reference run: `passes` draws of t uniform in [0.001, 1], each token masked with probability t, weight 1/t.

    Its variance grows without bound as the lower end of t goes to 0; the standard error is not to be trusted.
    """

    name, target, unbiased, shares_keys = "plain", "elbo", True, False
    EPS = 1e-3

    def _plan(self, length: int, keys: Keys) -> Plan:
        times = [self.EPS + (1 - self.EPS) * keys.scalar("t", draw) for draw in range(self.passes)]
        masks = [keys.tokens("mask", draw) < t for draw, t in enumerate(times)]
        return plan_of_rows(masks, [1 / (t * self.passes) for t in times], list(range(self.passes)), times)


class SampleNorm(_Bound):
    """Sample-level mask normalisation (arXiv 2604.14001) times L: Bernoulli masks, each draw divided by its own number of masked tokens."""

    name, target, unbiased, shares_keys = "sample-norm", "elbo", True, False

    def _masks(self, length: int, keys: Keys) -> list[BoolArray]:
        """Draws with t uniform in [0, 1); an empty mask is drawn again."""
        masks = []
        for draw in range(self.passes):
            for attempt in itertools.count():
                mask = keys.tokens("mask", draw, attempt) < keys.scalar("t", draw, attempt)
                if mask.any():
                    masks.append(mask)
                    break
        return masks

    def _plan(self, length: int, keys: Keys) -> Plan:
        masks = self._masks(length, keys)
        return plan_of_rows(masks, [length / (mask.sum() * self.passes) for mask in masks], list(range(self.passes)))


class GlobalNorm(SampleNorm):
    """Global mask normalisation (arXiv 2604.14001) times L: all draws' sums divided by all masked tokens. Not the bound."""

    name, target, unbiased = "global-norm", "sum_k 2k/(L(L+1)) PLL_k", False

    def _plan(self, length: int, keys: Keys) -> Plan:
        masks = self._masks(length, keys)
        weight = length / sum(int(mask.sum()) for mask in masks)
        # A ratio of two sums is no mean of replicates: all draws are one replicate, which tells no standard error.
        return plan_of_rows(masks, [weight] * self.passes, [0] * self.passes)


class Coupled(Estimator):
    """Coupled scoring (arXiv 2604.14001): a Bernoulli mask and its complement, each token predicted exactly once. Not the bound.

    `passes` rows in `passes` / 2 couples.
    """

    name, target, unbiased, shares_keys = "coupled", "sum_k 2k/(L(L+1)) PLL_k", True, False

    def _plan(self, length: int, keys: Keys) -> Plan:
        couples = max(1, self.passes // 2)
        masks, weights, replicate = [], [], []
        for draw in range(couples):
            mask = keys.tokens("mask", draw) < keys.scalar("t", draw)
            for part in (mask, ~mask):
                if part.any():
                    masks.append(part)
                    weights.append(1 / couples)
                    replicate.append(draw)
        return plan_of_rows(masks, weights, replicate)


class FixedK(_Bound):
    """`passes` draws of k uniform on 1 .. L and a uniform set of k masked tokens, weight L/k."""

    name, target, unbiased = "fixed-k", "elbo", True

    def _plan(self, length: int, keys: Keys) -> Plan:
        counts = [int(keys.scalar("k", draw) * length) + 1 for draw in range(self.passes)]
        masks = [smallest(keys.tokens("mask", draw), k) for draw, k in enumerate(counts)]
        return plan_of_rows(masks, [length / (k * self.passes) for k in counts], list(range(self.passes)))


class SystematicK(_Bound):
    """Fixed k with the k of a replicate spread evenly: k_j = floor(L (j + u) / K) + 1. `passes` rows in `replicates` independent designs."""

    name, target, unbiased, replicated = "systematic-k", "elbo", True, True

    def _plan(self, length: int, keys: Keys) -> Plan:
        designs = min(self.replicates, self.passes)
        masks, weights, replicate = [], [], []
        for design in range(designs):
            rows = len(range(design, self.passes, designs))
            offset = keys.scalar("u", design)
            for j in range(rows):
                k = min(length, int(length * (j + offset) / rows) + 1)
                masks.append(smallest(keys.tokens("mask", design, j), k))
                weights.append(length / (k * rows * designs))
                replicate.append(design)
        return plan_of_rows(masks, weights, replicate)


class Pairs(_Bound):
    """All tokens masked once (weight 1/L), then complementary pairs (M, not M) with k spread evenly over 1 .. L-1 in each replicate.

    1 + 2 * pairs rows with pairs = (passes - 1) // 2, at least one; every token is predicted once in a pair.
    """

    name, target, unbiased, replicated = "pairs", "elbo", True, True
    usual_passes = 17

    def _plan(self, length: int, keys: Keys) -> Plan:
        masks, weights, replicate = [np.ones(length, dtype=bool)], [1 / length], [-1]
        if length == 1:
            return plan_of_rows(masks, weights, replicate)
        pairs = max(1, (self.passes - 1) // 2)
        designs = min(self.replicates, pairs)
        for design in range(designs):
            rows = len(range(design, pairs, designs))
            offset = keys.scalar("u", design)
            for j in range(rows):
                k = min(length - 1, int((length - 1) * (j + offset) / rows) + 1)
                mask = smallest(keys.tokens("mask", design, j), k)
                share = (length - 1) / (2 * rows * designs)
                masks += [mask, ~mask]
                weights += [share / k, share / (length - k)]
                replicate += [design, design]
        return plan_of_rows(masks, weights, replicate)


class Control(Pairs):
    """As pairs, each pair a replicate, with the other pairs' mean log p of each token as a control variate of this pair's.

    1 + 2 * pairs rows, pairs = (passes - 1) // 2, at least one; with one there is no other pair to control it. A pair counts token i
    with a random weight of mean (L - 1)/L; what is missing to that mean is filled with what the other pairs say of the token. They are
    independent of this pair, so the mean is the bound still; what varies is only how log p(x_i) changes with the mask. Standard
    errors from the pairs, each with its correction.
    """

    name, replicated, usual_passes = "control", False, 17

    def _plan(self, length: int, keys: Keys) -> Plan:
        pairs = max(1, (self.passes - 1) // 2)
        plan = Pairs(passes=2 * pairs + 1, replicates=pairs)._plan(length, keys)
        if length == 1 or pairs == 1:
            return plan
        own = np.array([plan.replicate == pair for pair in range(pairs)])
        weights = pairs * plan.weights * own[:, :, None]  # [pairs, rows, L] each pair's own estimate of the random part
        counted = weights.sum(axis=1)  # [pairs, L] mean (L - 1) / L
        others = counted.sum(axis=0) - counted  # positive: every pair masks each token once
        missing = ((length - 1) / length - counted) / others
        first = plan.weights * (plan.replicate < 0)[:, None]
        parts = first + weights + missing[:, None, :] * (weights.sum(axis=0) - weights)
        return Plan(plan.masks, parts.mean(axis=0), plan.replicate, parts=parts)


class Exact(Estimator):
    """Every mask once, weight 1/(k C(L, k)): the bound itself. 2^L - 1 rows, for short hypotheses and tests."""

    name, target, unbiased, usual_passes = "exact", "elbo", True, None
    cost = "one pass per mask"
    LONGEST = 16

    def _plan(self, length: int, keys: Keys) -> Plan:
        from math import comb

        if length > self.LONGEST:
            raise ValueError(
                f"estimator exact needs 2^L - 1 passes; got a hypothesis of {length} tokens, expected at most {self.LONGEST}"
            )
        masks = [np.array([bool(code >> place & 1) for place in range(length)]) for code in range(1, 2**length)]
        weights = [1 / (int(mask.sum()) * comb(length, int(mask.sum()))) for mask in masks]
        return plan_of_rows(masks, weights, [-1] * len(masks))


ESTIMATORS: dict[str, type[Estimator]] = {
    kind.name: kind
    for kind in (
        Plain,
        SampleNorm,
        GlobalNorm,
        Coupled,
        FixedK,
        SystematicK,
        Pairs,
        Control,
        Exact,
        PseudoLogLikelihood,
        Strided,
        LeftToRight,
        ConfidentFirst,
        Contrast,
        Chain,
        Draws,
        OnePass,
    )
}


def build_estimator(name: str, *, passes: int | None = None, replicates: int = 4) -> Estimator:
    """The estimator of that name, with its usual number of passes if none is given; ValueError naming the known ones."""
    if name not in ESTIMATORS:
        raise ValueError(f"estimator {name!r} is unknown; expected one of {', '.join(ESTIMATORS)}")
    kind = ESTIMATORS[name]
    if kind.usual_passes is None and passes is not None:
        raise ValueError(f"estimator {name} with {passes} passes: it takes {kind.cost}; expected no number")
    return kind(passes=(kind.usual_passes or 1) if passes is None else passes, replicates=replicates)
