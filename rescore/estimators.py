"""How a score is measured: plans of (mask, weight) rows. No model in here.

    estimator = build_estimator("pairs", passes=17, replicates=4)
    plan = estimator.plan(length, keys)                   # rows for one hypothesis; keys: its random numbers
    mean, standard_error = plan.combine(log_probs)        # log_probs [rows, length] from the network, nats

With S(M) the sum of log p(x_i | visible rest) over the masked positions M, k = |M| and L the scored length, every score here is linear in
the token log-probabilities: score = sum over rows and positions of weight * log p. Targets:

    elbo   (1/L) sum_k PLL_k with PLL_k = (L/k) E_{|M|=k} S(M): a lower bound on log p(x | L) (Ou et al., arXiv 2406.03736)
    pll    PLL_1, every token given all others (Salazar et al., arXiv 1910.14659): no bound
    strided pll    the same with every n-th token masked at once: no bound
    order  log-probability in one fixed order of generation: exact for the model that generates in that order
"""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """Rows to run for one hypothesis of L scored tokens."""

    masks: BoolArray  # [R, L] True = masked
    weights: FloatArray  # [R, L] what log p of a masked token counts; 0 where it is not needed
    replicate: NDArray[np.int64]  # [R] which independent replicate a row belongs to; -1 = a row that all share
    time: FloatArray | None = None  # [R] t the rows were drawn at; None = a function of the number of masked tokens

    def combine(self, log_probs: FloatArray) -> tuple[float, float]:
        """Score and its standard error over replicates (nats) from log_probs [R, L]; entries with weight 0 are not read.

        The standard error is 0 for a deterministic plan (one with shared rows only) and nan where a single replicate can not tell it.
        """
        values = np.where(self.weights != 0, self.weights * np.where(self.weights != 0, log_probs, 0.0), 0.0).sum(
            axis=1
        )
        total = float(values.sum())
        count = int(self.replicate.max(initial=-1)) + 1
        if count == 0:
            return total, 0.0
        if count == 1:
            return total, float("nan")
        own = self.replicate >= 0
        # Weights already hold 1 / replicates, so a replicate's own estimate of the random part is count times its share.
        parts = count * np.bincount(self.replicate[own], weights=values[own], minlength=count)
        return total, float(parts.std(ddof=1) / np.sqrt(count))


class Keys:
    """The random numbers of one hypothesis, reproducible from (seed, utterance, draw, slot).

    `slots` names each token's place in an alignment of the utterance's hypotheses, so that hypotheses share the numbers of what they
    share (common random numbers): (i, 0) is token i of the leader, (i, j) the j-th token inserted behind it.
    """

    def __init__(self, seed: int, seq_tag: str, slots: Sequence[tuple[int, int]]):
        self.seed, self.seq_tag, self.slots = seed, seq_tag, list(slots)
        self._main = np.array([slot for slot, _ in slots], dtype=np.int64)
        self._inserted = [place for place, (_, insertion) in enumerate(slots) if insertion]

    def scalar(self, *draw: int | str) -> float:
        """One uniform number in [0, 1) for the whole utterance."""
        return float(self._generator("scalar", *draw).random())

    def tokens(self, *draw: int | str) -> FloatArray:
        """[L] a uniform number for every token."""
        keys = np.empty(len(self.slots))
        if len(keys):
            # Slot -1 (inserted before the leader's first token) is stream place 0.
            stream = self._generator("slots", *draw).random(int(self._main.max()) + 2)
            keys[:] = stream[self._main + 1]
        for place in self._inserted:
            slot, insertion = self.slots[place]
            keys[place] = self._generator("inserted", *draw, slot, insertion).random()
        return keys

    def _generator(self, *parts: int | str) -> np.random.Generator:
        text = "/".join([str(self.seed), self.seq_tag, *map(str, parts)])
        key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")
        return np.random.Generator(np.random.Philox(key=key))


class Estimator(ABC):
    """A way to measure. `passes` and `replicates` mean what the class says."""

    name: ClassVar[str]
    target: ClassVar[str]  # "elbo", "pll", "order" or the name of another functional
    unbiased: ClassVar[bool]  # whether the mean over seeds is the target
    shares_keys: ClassVar[bool] = True  # common random numbers between the hypotheses of an utterance
    usual_passes: ClassVar[int | None] = 16  # None: the length of the text decides
    replicated: ClassVar[bool] = False  # whether `replicates` has an effect

    def __init__(self, *, passes: int = 1, replicates: int = 1):
        if passes < 1 or replicates < 1:
            raise ValueError(f"passes {passes}, replicates {replicates}: expected at least 1")
        self.passes, self.replicates = passes, replicates

    def plan(self, length: int, keys: Keys) -> Plan:
        """The rows for a hypothesis with `length` scored tokens; none for an empty one."""
        if length == 0:
            return Plan(np.zeros((0, 0), bool), np.zeros((0, 0)), np.zeros(0, np.int64))
        if self.target == "elbo" and self.unbiased and 2**length - 1 <= self.passes:
            return Exact().plan(length, keys)  # every mask fits into the budget
        return self._plan(length, keys)

    @abstractmethod
    def _plan(self, length: int, keys: Keys) -> Plan: ...

    def describe(self) -> dict[str, object]:
        facts: dict[str, object] = {"estimator": self.name, "target": self.target, "unbiased": self.unbiased}
        if self.usual_passes is not None:
            facts["passes"] = self.passes
        if self.replicated:
            facts["replicates"] = self.replicates
        return facts


def _rows(
    masks: list[BoolArray], row_weights: list[float], replicate: list[int], time: list[float] | None = None
) -> Plan:
    """A plan in which all masked tokens of a row have the same weight."""
    stacked = np.array(masks, dtype=bool)
    weights = stacked * np.array(row_weights, dtype=np.float64)[:, None]
    return Plan(stacked, weights, np.array(replicate, dtype=np.int64), None if time is None else np.array(time))


def _smallest(keys: FloatArray, count: int) -> BoolArray:
    """The `count` positions with the smallest keys: a uniform subset."""
    mask = np.zeros(len(keys), dtype=bool)
    mask[np.argsort(keys, kind="stable")[:count]] = True
    return mask


class Plain(Estimator):
    """The reference run: `passes` draws of t uniform in [0.001, 1], each token masked with probability t, weight 1/t.

    Its variance grows without bound as the lower end of t goes to 0; the standard error is not to be trusted.
    """

    name, target, unbiased, shares_keys = "plain", "elbo", True, False
    EPS = 1e-3

    def plan(self, length: int, keys: Keys) -> Plan:
        return self._plan(length, keys) if length else super().plan(length, keys)

    def _plan(self, length: int, keys: Keys) -> Plan:
        times = [self.EPS + (1 - self.EPS) * keys.scalar("t", draw) for draw in range(self.passes)]
        masks = [keys.tokens("mask", draw) < t for draw, t in enumerate(times)]
        return _rows(masks, [1 / (t * self.passes) for t in times], list(range(self.passes)), times)


class SampleNorm(Estimator):
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
        return _rows(masks, [length / (mask.sum() * self.passes) for mask in masks], list(range(self.passes)))


class GlobalNorm(SampleNorm):
    """Global mask normalisation (arXiv 2604.14001) times L: all draws' sums divided by all masked tokens. Not the bound."""

    name, target, unbiased = "global-norm", "sum_k 2k/(L(L+1)) PLL_k", False

    def _plan(self, length: int, keys: Keys) -> Plan:
        masks = self._masks(length, keys)
        weight = length / sum(int(mask.sum()) for mask in masks)
        # A ratio of two sums is no mean of replicates: all draws are one replicate, which tells no standard error.
        return _rows(masks, [weight] * self.passes, [0] * self.passes)


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
        return _rows(masks, weights, replicate)


class FixedK(Estimator):
    """`passes` draws of k uniform on 1 .. L and a uniform set of k masked tokens, weight L/k."""

    name, target, unbiased = "fixed-k", "elbo", True

    def _plan(self, length: int, keys: Keys) -> Plan:
        counts = [int(keys.scalar("k", draw) * length) + 1 for draw in range(self.passes)]
        masks = [_smallest(keys.tokens("mask", draw), k) for draw, k in enumerate(counts)]
        return _rows(masks, [length / (k * self.passes) for k in counts], list(range(self.passes)))


class SystematicK(Estimator):
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
                masks.append(_smallest(keys.tokens("mask", design, j), k))
                weights.append(length / (k * rows * designs))
                replicate.append(design)
        return _rows(masks, weights, replicate)


class Pairs(Estimator):
    """All tokens masked once (weight 1/L), then complementary pairs (M, not M) with k spread evenly over 1 .. L-1 in each replicate.

    1 + 2 * pairs rows with pairs = (passes - 1) // 2, at least one; every token is predicted once in a pair.
    """

    name, target, unbiased, replicated = "pairs", "elbo", True, True
    usual_passes = 17

    def _plan(self, length: int, keys: Keys) -> Plan:
        masks, weights, replicate = [np.ones(length, dtype=bool)], [1 / length], [-1]
        if length == 1:
            return _rows(masks, weights, replicate)
        pairs = max(1, (self.passes - 1) // 2)
        designs = min(self.replicates, pairs)
        for design in range(designs):
            rows = len(range(design, pairs, designs))
            offset = keys.scalar("u", design)
            for j in range(rows):
                k = min(length - 1, int((length - 1) * (j + offset) / rows) + 1)
                mask = _smallest(keys.tokens("mask", design, j), k)
                share = (length - 1) / (2 * rows * designs)
                masks += [mask, ~mask]
                weights += [share / k, share / (length - k)]
                replicate += [design, design]
        return _rows(masks, weights, replicate)


class Exact(Estimator):
    """Every mask once, weight 1/(k C(L, k)): the bound itself. 2^L - 1 rows, for short hypotheses and tests."""

    name, target, unbiased, usual_passes = "exact", "elbo", True, None
    LONGEST = 16

    def _plan(self, length: int, keys: Keys) -> Plan:
        from math import comb

        if length > self.LONGEST:
            raise ValueError(
                f"estimator exact needs 2^L - 1 passes; got a hypothesis of {length} tokens, expected at most {self.LONGEST}"
            )
        masks = [np.array([bool(code >> place & 1) for place in range(length)]) for code in range(1, 2**length)]
        weights = [1 / (int(mask.sum()) * comb(length, int(mask.sum()))) for mask in masks]
        return _rows(masks, weights, [-1] * len(masks))

    def plan(self, length: int, keys: Keys) -> Plan:
        return self._plan(length, keys) if length else super().plan(length, keys)


class PseudoLogLikelihood(Estimator):
    """Every token masked alone, L rows, weight 1: deterministic, no bound."""

    name, target, unbiased, usual_passes = "pll", "pll", True, None

    def _plan(self, length: int, keys: Keys) -> Plan:
        return _rows(list(np.eye(length, dtype=bool)), [1.0] * length, [-1] * length)


class Strided(Estimator):
    """Every `passes`-th token masked, each token exactly once: `passes` rows where PLL takes L. Deterministic, no bound.

    A masked token sees its `passes` - 1 neighbours on both sides, so the score is close to PLL; it depends on the text alone.
    """

    name, target, unbiased, shares_keys = "strided", "strided pll", True, False
    usual_passes = 6

    def _plan(self, length: int, keys: Keys) -> Plan:
        masks = [np.arange(length) % self.passes == first for first in range(min(self.passes, length))]
        return _rows(masks, [1.0] * len(masks), [-1] * len(masks))


class LeftToRight(Estimator):
    """Each token given those before it, all later ones masked: L rows, exact for the model that generates in this order."""

    name, target, unbiased, usual_passes = "order:l2r", "order", True, None

    def _plan(self, length: int, keys: Keys) -> Plan:
        masks = np.triu(np.ones((length, length), dtype=bool))
        return Plan(masks, np.eye(length), np.full(length, -1, dtype=np.int64))


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
        Exact,
        PseudoLogLikelihood,
        Strided,
        LeftToRight,
    )
}


def build_estimator(name: str, *, passes: int | None = None, replicates: int = 4) -> Estimator:
    """The estimator of that name, with its usual number of passes if none is given; ValueError naming the known ones."""
    if name not in ESTIMATORS:
        raise ValueError(f"estimator {name!r} is unknown; expected one of {', '.join(ESTIMATORS)}")
    kind = ESTIMATORS[name]
    if kind.usual_passes is None and passes is not None:
        raise ValueError(f"estimator {name} with {passes} passes; the length of a text decides: expected none given")
    return kind(passes=(kind.usual_passes or 1) if passes is None else passes, replicates=replicates)
