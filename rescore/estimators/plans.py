"""Plans of masks: the rows that an estimator needs from a network, and the computation of scores from the outputs.

    plan = Plan(masks, weights, replicate)                # rows to run for one text
    plan.estimate(log_probs)                              # log_probs [rows, length] from the network, nats
    listed = estimator.plan_list("utt-1", hypotheses, seed=1)
    listed.estimates([log_probs of each of listed.plans])  # one Estimate for each hypothesis

Every score is linear in the token log-probabilities: score = sum over rows and positions of weight * log p.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rescore.estimators.alignment import Tokens, leader_of, slots_of
from rescore.estimators.base import BoolArray, Estimate, Estimator, FloatArray
from rescore.estimators.common_random_numbers import CommonRandomNumbers


@dataclass(frozen=True)
class Plan:
    """Rows to run for one text of L scored tokens."""

    masks: BoolArray
    """[R, L] True where a token is masked."""
    weights: FloatArray
    """[R, L] factor of log p of a masked token in the score; log p is not computed where it is 0."""
    replicate: NDArray[np.int64]
    """[R] index of the replicate that a row belongs to; -1 for a row that all replicates share."""
    time: FloatArray | None = None
    """[R] the time t at which the rows were drawn; None: t follows from the number of masked tokens."""
    parts: FloatArray | None = None
    """[replicates, R, L] weights of each replicate, for estimators whose replicates share rows (control). None: they
    are derived from `weights` and `replicate`."""

    def estimate(self, log_probs: FloatArray) -> Estimate:
        """The estimate from log_probs [R, L] in nats; entries with weight 0 are not read."""
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
            # Weights include the factor 1 / replicates, so the sum of one replicate is multiplied by their number.
            replicates = values[~own].sum() + count * np.bincount(
                self.replicate[own], weights=values[own], minlength=count
            )
        return Estimate(total, tuple(replicates.tolist()), len(self.masks))


@dataclass(frozen=True)
class ListPlan:
    """Rows for all distinct hypotheses of an utterance. A hypothesis' score is a sum of estimates with signs."""

    texts: list[Tokens]
    """The tokens of the text of each plan."""
    plans: list[Plan]
    terms: list[list[tuple[int, int]]]
    """The terms of each hypothesis: (index of a plan, sign +1 or -1)."""
    passes: list[int]
    """The number of rows that are run for each hypothesis."""

    def estimates(self, log_probs: Sequence[FloatArray]) -> list[Estimate]:
        """One estimate for each hypothesis, from the log-probabilities [rows, length] of each plan."""
        found = [plan.estimate(values) for plan, values in zip(self.plans, log_probs, strict=True)]
        return [_signed_sum(found, terms, passes) for terms, passes in zip(self.terms, self.passes)]


def _signed_sum(found: Sequence[Estimate], terms: Sequence[tuple[int, int]], passes: int) -> Estimate:
    value = sum(sign * found[index].value for index, sign in terms)
    drawn = [(replicates, sign) for index, sign in terms if (replicates := found[index].replicates) is not None]
    if not drawn:
        return Estimate(value, None, passes)
    fixed = value - sum(sign * float(np.mean(replicates)) for replicates, sign in drawn)
    count = min(len(replicates) for replicates, _ in drawn)
    sums = [fixed + sum(sign * replicates[index] for replicates, sign in drawn) for index in range(count)]
    return Estimate(value, tuple(sums), passes)


class MaskNetwork(Protocol):
    """The network that a `MaskEstimator` calls. Texts are token ids, with EOS if it is scored."""

    def log_probs(self, texts: Sequence[Tokens], plans: Sequence[Plan]) -> list[FloatArray]:
        """[rows, length] for each plan and its text: log p of the masked tokens in nats, nan where their weight is
        0."""

    def confidences(self, texts: Sequence[Tokens], masks: Sequence[BoolArray]) -> list[tuple[FloatArray, FloatArray]]:
        """For each text with its mask [L]: log p of the masked tokens [masked], and the largest log p of any symbol at
        the same positions [masked]."""


class MaskEstimator(Estimator):
    """An estimator for families with masks."""

    measures: ClassVar[Literal["masks", "noise"]] = "masks"

    @abstractmethod
    def estimate(
        self, network: MaskNetwork, seq_tags: Sequence[str], texts: Sequence[Sequence[Tokens]], *, seed: int
    ) -> list[list[Estimate]]:
        """One estimate for each of the distinct texts of every utterance."""


class MaskPlan(MaskEstimator):
    """An estimator whose rows are known before the network is run; one call computes all utterances."""

    shares_numbers: ClassVar[bool] = True
    """Whether the hypotheses of an utterance share random numbers."""

    def estimate(
        self, network: MaskNetwork, seq_tags: Sequence[str], texts: Sequence[Sequence[Tokens]], *, seed: int
    ) -> list[list[Estimate]]:
        listed = [self.plan_list(tag, own, seed=seed) for tag, own in zip(seq_tags, texts, strict=True)]
        answers = iter(
            network.log_probs(
                [text for each in listed for text in each.texts], [p for each in listed for p in each.plans]
            )
        )
        return [each.estimates([next(answers) for _ in each.plans]) for each in listed]

    def plan_list(self, seq_tag: str, hypotheses: Sequence[Tokens], *, seed: int) -> ListPlan:
        """The plans for the distinct hypotheses of an utterance.

        They do not depend on the order of the hypotheses.
        """
        leader = leader_of(hypotheses) if self.shares_numbers else ()
        drawn: dict[str, FloatArray] = {}
        plans = []
        for tokens in hypotheses:
            if self.shares_numbers:
                numbers = CommonRandomNumbers(seed, seq_tag, slots_of(leader, tokens), drawn)
            else:  # keyed by the text, so that it is independent of the other hypotheses
                slots = [(index, 0) for index in range(len(tokens))]
                numbers = CommonRandomNumbers(seed, f"{seq_tag} {tokens}", slots)
            plans.append(self.plan(len(tokens), numbers))
        return ListPlan(
            list(hypotheses), plans, [[(index, 1)] for index in range(len(plans))], [len(p.masks) for p in plans]
        )

    def plan(self, length: int, numbers: CommonRandomNumbers) -> Plan:
        """The rows for a hypothesis with `length` scored tokens; none for an empty one."""
        if length == 0:
            return Plan(np.zeros((0, 0), bool), np.zeros((0, 0)), np.zeros(0, np.int64))
        return self._plan(length, numbers)

    @abstractmethod
    def _plan(self, length: int, numbers: CommonRandomNumbers) -> Plan:
        """The rows for a hypothesis with `length` >= 1 scored tokens."""


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
