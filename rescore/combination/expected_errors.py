"""Minimum Bayes risk: from each list the hypothesis with the fewest expected word errors, instead of the best total.

    best = least_risk(lists, totals, [0.1, 0.2])        # [2, utterances]: winners for each scale of the posterior

    p(g) = softmax over the list of scale * total(g);  risk(h) = sum_g p(g) * word edit distance of h and g

(Stolcke, Konig and Weintraub, Eurospeech 1997; Goel and Byrne, Computer Speech and Language 14, 2000). As the scale
grows, all of p goes to the best total, which is then chosen; as it falls to 0, all hypotheses count the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from rescore.nbest.types import NBestList
from rescore.wer import FloatArray, IntArray, list_offsets

_TIED = 1e-9
"""Risks that differ by less, in words, are equal: sums in another order round differently."""
_DISTANCES_IN_MEMORY = 1_000_000


def expected_errors(texts: Sequence[str], totals: FloatArray, scales: Sequence[float] | FloatArray) -> FloatArray:
    """[P, H]: the expected word errors of each text [H], for each scale [P] of the totals [H] (nats) in the
    posterior."""
    exponents = np.asarray(scales, np.float64)[:, None] * (totals - totals.max())
    posterior = np.exp(exponents)
    posterior /= posterior.sum(axis=1, keepdims=True)
    words = [text.split() for text in texts]
    rows = max(1, _DISTANCES_IN_MEMORY // len(words))
    parts = [
        cdist(words[first : first + rows], words, scorer=Levenshtein.distance, dtype=np.int32) @ posterior.T
        for first in range(0, len(words), rows)
    ]
    return np.concatenate(parts).T


def least_risk(lists: Sequence[NBestList], totals: FloatArray, scales: Sequence[float] | FloatArray) -> IntArray:
    """[P, utterances]: the index of the hypothesis with the fewest expected errors, 0 = first, for each scale of the
    posterior. Of equal ones the highest total wins, and of these the first; a total of -inf never wins. `totals`: those
    of all lists, in order."""
    winners = np.empty((len(scales), len(lists)), np.int64)
    for number, (start, end) in enumerate(pairwise(list_offsets(lists).tolist())):
        own = totals[start:end]
        risks = expected_errors([hypothesis.text for hypothesis in lists[number].hypotheses], own, scales)
        risks[:, own == -np.inf] = np.inf  # these never win, however near they are to the others
        least = risks <= risks.min(axis=1, keepdims=True) + _TIED
        winners[:, number] = np.where(least, own, -np.inf).argmax(axis=1)
    return winners
