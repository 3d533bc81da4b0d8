"""log p of a text in the order in which the network itself would generate it: the most confident position first.

Which position comes next follows from what is visible so far, never from hidden tokens, so these are the log-probabilities of one
normalised model, that of greedy-order sampling. One pass a token, each after the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rescore.estimators.alignment import Tokens
from rescore.estimators.plans import BoolArray, FloatArray

# rows of ids with their masked positions -> for each row (log p of its own tokens [masked], largest log p of any symbol [masked])
Answer = Callable[[Sequence[Tokens], Sequence[BoolArray]], list[tuple[FloatArray, FloatArray]]]


def confident_order(sequences: Sequence[Tokens], answer: Answer) -> list[float]:
    """log p of each sequence, nats; all sequences take their next step in one call of `answer`."""
    hidden = [np.ones(len(tokens), dtype=bool) for tokens in sequences]
    totals = [0.0] * len(sequences)
    while unfinished := [place for place, mask in enumerate(hidden) if mask.any()]:
        found = answer([sequences[place] for place in unfinished], [hidden[place] for place in unfinished])
        for place, (own, largest) in zip(unfinished, found, strict=True):
            first = int(np.argmax(largest))  # of equals the leftmost
            totals[place] += float(own[first])
            hidden[place][np.nonzero(hidden[place])[0][first]] = False
    return totals
