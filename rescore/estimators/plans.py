"""What a way to measure asks of a network, as data: rows of masks with weights, and how their log-probabilities become scores.

    plan = Plan(masks, weights, replicate)                # rows for one text
    plan.estimate(log_probs)                              # log_probs [rows, length] from the network, nats
    listed = estimator.plan_list("utt-1", hypotheses, seed=1)
    listed.estimates([log_probs of each of listed.plans])  # one Estimate for each hypothesis

Every score is linear in the token log-probabilities: score = sum over rows and positions of weight * log p.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from rescore.estimators.alignment import Tokens, leader_of, slots_of
from rescore.scores import standard_error

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A score in nats and the independent repetitions that it is the mean of."""

    value: float
    replicates: tuple[float, ...] | None
    """None: deterministic, nothing was drawn. One alone tells no standard error."""
    passes: int

    @property
    def standard_error(self) -> float:
        """Nats; 0 for a deterministic score, nan where a single replicate can not tell it."""
        return standard_error(self.replicates)


@dataclass(frozen=True)
class Plan:
    """Rows to run for one text of L scored tokens."""

    masks: BoolArray  # [R, L] True = masked
    weights: FloatArray  # [R, L] what log p of a masked token counts; 0 where it is not needed
    replicate: NDArray[np.int64]  # [R] which independent replicate a row belongs to; -1 = a row that all share
    time: FloatArray | None = None  # [R] t the rows were drawn at; None = a function of the number of masked tokens
    parts: FloatArray | None = (
        None  # [replicates, R, L] weights of each replicate, where rows of others count in it too
    )

    def estimate(self, log_probs: FloatArray) -> Estimate:
        """From log_probs [R, L], nats; entries with weight 0 are not read."""
        known = np.where(self.weights != 0, log_probs, 0.0)
        total = float((self.weights * known).sum())
        count = int(self.replicate.max(initial=-1)) + 1
        if count == 0:
            return Estimate(total, None, len(self.masks))
        if self.parts is not None:
            replicates = (self.parts * known).sum(axis=(1, 2))
        else:
            values = (self.weights * known).sum(axis=1)
            own = self.replicate >= 0
            # Weights already hold 1 / replicates, so a replicate's own estimate of the random part is count times its share.
            replicates = values[~own].sum() + count * np.bincount(
                self.replicate[own], weights=values[own], minlength=count
            )
        return Estimate(total, tuple(replicates.tolist()), len(self.masks))


@dataclass(frozen=True)
class ListPlan:
    """Rows for all distinct hypotheses of an utterance. A hypothesis' score is a sum of estimates with signs."""

    texts: list[Tokens]  # of each plan: the tokens that its rows mask
    plans: list[Plan]
    terms: list[list[tuple[int, int]]]  # of each hypothesis: (place of a plan, +1 or -1)
    passes: list[int]  # of each hypothesis: the rows that are there for it

    def estimates(self, log_probs: Sequence[FloatArray]) -> list[Estimate]:
        """One for each hypothesis, from the log-probabilities [rows, length] of each plan."""
        found = [plan.estimate(values) for plan, values in zip(self.plans, log_probs, strict=True)]
        return [_signed_sum(found, terms, passes) for terms, passes in zip(self.terms, self.passes)]


def _signed_sum(found: Sequence[Estimate], terms: Sequence[tuple[int, int]], passes: int) -> Estimate:
    value = sum(sign * found[place].value for place, sign in terms)
    drawn = [(replicates, sign) for place, sign in terms if (replicates := found[place].replicates) is not None]
    if not drawn:
        return Estimate(value, None, passes)
    fixed = value - sum(sign * float(np.mean(replicates)) for replicates, sign in drawn)
    count = min(len(replicates) for replicates, _ in drawn)
    sums = [fixed + sum(sign * replicates[place] for replicates, sign in drawn) for place in range(count)]
    return Estimate(value, tuple(sums), passes)


class Keys:
    """The random numbers of one hypothesis, reproducible from (seed, utterance, draw, slot).

    `slots` names each token's place in an alignment of the utterance's hypotheses, so that hypotheses share the numbers of what they
    share (common random numbers): (i, 0) is token i of the leader, (i, j) the j-th token inserted behind it.
    """

    def __init__(
        self, seed: int, seq_tag: str, slots: Sequence[tuple[int, int]], drawn: dict[str, FloatArray] | None = None
    ):
        self.seed, self.seq_tag, self.slots = seed, seq_tag, list(slots)
        self._main = np.array([slot for slot, _ in slots], dtype=np.int64)
        self._inserted = [place for place, (_, insertion) in enumerate(slots) if insertion]
        self._drawn = {} if drawn is None else drawn  # what other hypotheses of the utterance have drawn already

    def scalar(self, *draw: int | str) -> float:
        """One uniform number in [0, 1) for the whole utterance."""
        return float(self._stream(1, "scalar", *draw)[0])

    def tokens(self, *draw: int | str) -> FloatArray:
        """[L] a uniform number for every token."""
        if not self.slots:
            return np.empty(0)
        # Slot -1 (inserted before the leader's first token) is stream place 0.
        keys = self._stream(int(self._main.max()) + 2, "slots", *draw)[self._main + 1]
        for place in self._inserted:
            keys[place] = self._stream(1, "inserted", *draw, *self.slots[place])[0]
        return keys

    def _stream(self, size: int, *parts: int | str) -> FloatArray:
        """At least the first `size` numbers of the stream of that name."""
        name = "/".join([str(self.seed), self.seq_tag, *map(str, parts)])
        found = self._drawn.get(name)
        if found is None or len(found) < size:
            key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "big")
            found = self._drawn[name] = np.random.Generator(np.random.Philox(key=key)).random(size)
        return found


class Estimator(ABC):
    """A way to measure. `passes` and `replicates` mean what the class says."""

    name: ClassVar[str]
    target: ClassVar[str]  # "elbo", "pll", "order" or the name of another functional
    unbiased: ClassVar[bool]  # whether the mean over seeds is the target
    shares_keys: ClassVar[bool] = True  # common random numbers between the hypotheses of an utterance
    usual_passes: ClassVar[int | None] = 16  # None: not a choice, see `cost`
    cost: ClassVar[str] = "one pass per token"  # where passes are no choice
    replicated: ClassVar[bool] = False  # whether `replicates` has an effect
    measures: ClassVar[Literal["masks", "noise"]] = (
        "masks"  # what it is made of: plans of masks, or noise that a family draws itself
    )

    def __init__(self, *, passes: int = 1, replicates: int = 1):
        if passes < 1 or replicates < 1:
            raise ValueError(f"passes {passes}, replicates {replicates}: expected at least 1")
        self.passes, self.replicates = passes, replicates

    def plan_list(self, seq_tag: str, hypotheses: Sequence[Tokens], *, seed: int) -> ListPlan:
        """Rows for the distinct hypotheses of an utterance; the same whatever their order, and for most estimators whatever the others."""
        leader = leader_of(hypotheses) if self.shares_keys else ()
        drawn: dict[str, FloatArray] = {}
        plans = []
        for tokens in hypotheses:
            if self.shares_keys:
                keys = Keys(seed, seq_tag, slots_of(leader, tokens), drawn)
            else:  # independent of the other hypotheses: keyed by the text itself
                keys = Keys(seed, f"{seq_tag} {tokens}", [(place, 0) for place in range(len(tokens))])
            plans.append(self.plan(len(tokens), keys))
        return ListPlan(
            list(hypotheses), plans, [[(place, 1)] for place in range(len(plans))], [len(p.masks) for p in plans]
        )

    def plan(self, length: int, keys: Keys) -> Plan:
        """The rows for a hypothesis with `length` scored tokens; none for an empty one."""
        if length == 0:
            return Plan(np.zeros((0, 0), bool), np.zeros((0, 0)), np.zeros(0, np.int64))
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


def plan_of_rows(
    masks: Sequence[BoolArray],
    row_weights: Sequence[float],
    replicate: Sequence[int],
    time: Sequence[float] | None = None,
) -> Plan:
    """A plan in which all masked tokens of a row have the same weight."""
    stacked = np.array(masks, dtype=bool)
    weights = stacked * np.array(row_weights, dtype=np.float64)[:, None]
    return Plan(stacked, weights, np.array(replicate, dtype=np.int64), None if time is None else np.array(time))


def smallest(keys: FloatArray, count: int) -> BoolArray:
    """The `count` positions with the smallest keys: a uniform subset."""
    mask = np.zeros(len(keys), dtype=bool)
    mask[np.argsort(keys, kind="stable")[:count]] = True
    return mask
