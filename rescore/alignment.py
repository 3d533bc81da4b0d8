"""Where the tokens of an utterance's hypotheses lie relative to each other, so that hypotheses can share random numbers.

leader = leader_of(hypotheses)              # the one that is nearest to all others
slots_of(leader, tokens)                    # [(slot, insertion), ...], one for each token
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

Tokens = tuple[int, ...]


def leader_of(hypotheses: Sequence[Tokens]) -> Tokens:
    """The hypothesis with the smallest summed edit distance to all; ties to the smaller token sequence.

    It depends on the set of hypotheses only, so their order in the list does not matter.
    """
    # rapidfuzz compares strings fastest: one character an id (the surrogate range, illegal in text, is jumped over).
    words = ["".join(chr(token if token < 0xD800 else token + 0x800) for token in tokens) for tokens in hypotheses]
    totals = np.asarray(cdist(words, words, scorer=Levenshtein.distance, dtype=np.int32)).sum(axis=1)
    return min(zip(totals.tolist(), hypotheses))[1]


def slots_of(leader: Tokens, tokens: Tokens) -> list[tuple[int, int]]:
    """(i, 0) for a token aligned to leader token i (equal or substituted); (i, j) for the j-th one inserted behind it, i = -1 at the start."""
    slots: list[tuple[int, int]] = []
    for step in Levenshtein.opcodes(leader, tokens):
        if step.tag in ("equal", "replace"):
            slots += [(place, 0) for place in range(step.src_start, step.src_end)]
        elif step.tag == "insert":
            slots += [(step.src_start - 1, count + 1) for count in range(step.dest_end - step.dest_start)]
    return slots
