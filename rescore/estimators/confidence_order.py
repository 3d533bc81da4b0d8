"""Sequential estimators: the token to unmask next depends on earlier outputs of the network.

    totals = confident_order(texts, network.confidences)        # nats, one for each text

`ConfidentFirst` gives log p of a text in the order of greedy generation, the most confident position first. The next
position depends only on visible tokens, not on hidden ones, so the scores are log-probabilities of one normalised
model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from rescore.estimators.alignment import Tokens
from rescore.estimators.base import BoolArray, Estimate, FloatArray
from rescore.estimators.plans import MaskEstimator, MaskNetwork
from rescore.scores import ORDER

Confidences = Callable[[Sequence[Tokens], Sequence[BoolArray]], list[tuple[FloatArray, FloatArray]]]
"""`MaskNetwork.confidences`."""


class Sequential(MaskEstimator):
    """An estimator whose masks depend on earlier network outputs: one pass per token, one after the other.
    Deterministic."""

    usual_passes = None

    @abstractmethod
    def log_probs(self, network: MaskNetwork, texts: Sequence[Tokens]) -> list[float]:
        """One log-probability in nats for each of the distinct texts of all utterances."""

    def estimate(
        self, network: MaskNetwork, seq_tags: Sequence[str], texts: Sequence[Sequence[Tokens]], *, seed: int
    ) -> list[list[Estimate]]:
        unique = list(dict.fromkeys(tokens for own in texts for tokens in own))
        found = dict(zip(unique, self.log_probs(network, unique), strict=True))
        return [[Estimate(found[tokens], None, len(tokens)) for tokens in own] for own in texts]


class ConfidentFirst(Sequential):
    """Each token given those revealed before it, the most confident position first: L passes one after the other.

    Exact for the model that generates in this order. The order of two positions with nearly equal confidence may depend
    on rounding, which differs between batches.
    """

    name, target, unbiased = "order:confidence", ORDER, True

    def log_probs(self, network: MaskNetwork, texts: Sequence[Tokens]) -> list[float]:
        return confident_order(texts, network.confidences)


def confident_order(texts: Sequence[Tokens], confidences: Confidences) -> list[float]:
    """log p of each text in nats. Each call of `confidences` does the next step of all texts."""
    hidden = [np.ones(len(tokens), dtype=bool) for tokens in texts]
    totals = [0.0] * len(texts)
    while unfinished := [index for index, mask in enumerate(hidden) if mask.any()]:
        found = confidences([texts[index] for index in unfinished], [hidden[index] for index in unfinished])
        for index, (log_prob, largest) in zip(unfinished, found, strict=True):
            first = int(np.argmax(largest))  # the leftmost of equal ones
            totals[index] += float(log_prob[first])
            hidden[index][np.nonzero(hidden[index])[0][first]] = False
    return totals
