"""Common random numbers: words that several hypotheses of an utterance share get the same random numbers in each.

    numbers = CommonRandomNumbers(1, "utt-1", slots_of(leader, tokens))
    numbers.tokens("mask", 0)          # [L] uniform in [0, 1), equal in all hypotheses with the same slot

Most of the noise then cancels in the difference between two hypotheses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from rescore.estimators.base import FloatArray


class CommonRandomNumbers:
    """The random numbers of one hypothesis, reproducible from (seed, utterance, draw, slot).

    `slots` holds the position of each token in an alignment of the utterance's hypotheses
    (rescore.estimators.alignment): (i, 0) is token i of the leader, (i, j) the j-th token inserted after it. `drawn`
    caches the streams of the utterance.
    """

    def __init__(
        self, seed: int, seq_tag: str, slots: Sequence[tuple[int, int]], drawn: dict[str, FloatArray] | None = None
    ):
        self.seed, self.seq_tag, self.slots = seed, seq_tag, list(slots)
        self._leader_index = np.array([slot for slot, _ in slots], dtype=np.int64)
        self._inserted = [index for index, (_, insertion) in enumerate(slots) if insertion]
        self._drawn = {} if drawn is None else drawn

    def scalar(self, *draw: int | str) -> float:
        """One uniform number in [0, 1) for the whole utterance."""
        return float(self._stream(1, "scalar", *draw)[0])

    def tokens(self, *draw: int | str) -> FloatArray:
        """[L]: a uniform number in [0, 1) for every token."""
        if not self.slots:
            return np.empty(0)
        # Slot -1 (inserted before the leader's first token) is the first number of the stream.
        values = self._stream(int(self._leader_index.max()) + 2, "slots", *draw)[self._leader_index + 1]
        for index in self._inserted:
            values[index] = self._stream(1, "inserted", *draw, *self.slots[index])[0]
        return values

    def _stream(self, size: int, *parts: int | str) -> FloatArray:
        """At least the first `size` numbers of the stream that is identified by `parts`."""
        name = "/".join([str(self.seed), self.seq_tag, *map(str, parts)])
        found = self._drawn.get(name)
        if found is None or len(found) < size:
            key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "big")
            found = self._drawn[name] = np.random.Generator(np.random.Philox(key=key)).random(size)
        return found
