"""Sequential estimators: which token is unmasked next follows from what the network answered before.

    totals = confident_order(texts, network.confidences)        # nats, one for each text

`ConfidentFirst` is log p of a text in the order in which the network itself would generate it: the most confident position first. Which
position comes next follows from what is visible so far, never from hidden tokens, so these are the log-probabilities of one normalised
model, that of greedy-order sampling.
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
    """An estimator whose masks follow from the network's answers: one pass a token, each after the one before. Nothing is drawn."""

    usual_passes = None

    @abstractmethod
    def log_probs(self, network: MaskNetwork, texts: Sequence[Tokens]) -> list[float]:
        """Nats, one for each of the distinct texts of all utterances."""

    def estimate(
        self, network: MaskNetwork, seq_tags: Sequence[str], texts: Sequence[Sequence[Tokens]], *, seed: int
    ) -> list[list[Estimate]]:
        unique = list(dict.fromkeys(tokens for own in texts for tokens in own))
        found = dict(zip(unique, self.log_probs(network, unique), strict=True))
        return [[Estimate(found[tokens], None, len(tokens)) for tokens in own] for own in texts]


class ConfidentFirst(Sequential):
    """Each token given those revealed before it, the position the network is surest of first: L passes one after the other.

    Exact for the model that generates so. Two positions of nearly equal confidence may change places with the rounding of a batch.
    """

    name, target, unbiased = "order:confidence", ORDER, True

    def log_probs(self, network: MaskNetwork, texts: Sequence[Tokens]) -> list[float]:
        return confident_order(texts, network.confidences)


def confident_order(texts: Sequence[Tokens], confidences: Confidences) -> list[float]:
    """log p of each text, nats; all texts take their next step in one call of `confidences`."""
    hidden = [np.ones(len(tokens), dtype=bool) for tokens in texts]
    totals = [0.0] * len(texts)
    while unfinished := [index for index, mask in enumerate(hidden) if mask.any()]:
        found = confidences([texts[index] for index in unfinished], [hidden[index] for index in unfinished])
        for index, (log_prob, largest) in zip(unfinished, found, strict=True):
            first = int(np.argmax(largest))  # of equals the leftmost
            totals[index] += float(log_prob[first])
            hidden[index][np.nonzero(hidden[index])[0][first]] = False
    return totals
