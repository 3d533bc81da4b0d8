"""The matched-pair test of two systems on the same speech, over segments that may be taken as independent.

    found = matched_pairs(["a b c d e"], ["a x c d e"], ["a b c d"])
    found.segments, found.z, found.p                       # 2 segments; z < 0 where the second system is better

L. Gillick and S. J. Cox, "Some statistical issues in the comparison of speech recognition algorithms", ICASSP 1989;
segments are delimited as in NIST's sclite (MAPSSWE).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import erfc, sqrt

import numpy as np
from rapidfuzz.distance import Levenshtein

GOOD_WORDS = 2
"""Two errors belong to different segments if so many reference words between them are right in both systems."""


@dataclass(frozen=True, slots=True)
class MatchedPairs:
    """The result of the test that both systems make the same mean number of errors in a segment."""

    segments: int
    """Number of segments, each with an error of at least one system."""
    z: float | None
    """Mean difference of the errors (second system minus first) over its standard error; negative where the second is
    better. 0 if every difference is 0; None if they have no spread that could be estimated."""
    p: float | None
    """Two-sided probability of a |z| so large if the systems are equally good (normal approximation, which needs
    about 50 segments); None without z."""


def matched_pairs(references: Sequence[str], first: Sequence[str], second: Sequence[str]) -> MatchedPairs:
    """Compare two systems by their texts, one for each reference, split into words by `str.split`. ValueError if the
    numbers of texts differ."""
    pairs = [
        pair
        for reference, one, other in zip(references, first, second, strict=True)
        for pair in segment_errors(reference.split(), one.split(), other.split())
    ]
    differences = np.array([after - before for before, after in pairs], np.float64)
    if not differences.any():
        return MatchedPairs(len(pairs), 0.0, 1.0)
    deviation = float(differences.std(ddof=1)) if len(pairs) > 1 else 0.0
    if deviation == 0.0:
        return MatchedPairs(len(pairs), None, None)
    z = float(differences.mean()) / (deviation / sqrt(len(pairs)))
    return MatchedPairs(len(pairs), z, erfc(abs(z) / sqrt(2.0)))


def segment_errors(reference: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The errors (of the first system, of the second) in each segment of an utterance."""
    # Place 2 i stands for the gap before word i, where words may be inserted, and 2 i + 1 for word i.
    errors = np.zeros((2, 2 * len(reference) + 1), np.int64)
    for system, words in enumerate((first, second)):
        for kind, place, _ in Levenshtein.editops(reference, words):
            errors[system, 2 * int(place) + int(kind != "insert")] += 1
    places = np.flatnonzero(errors.any(axis=0)).tolist()
    if not places:
        return
    starts = [places[0], *(after for before, after in pairwise(places) if after // 2 - (before + 1) // 2 >= GOOD_WORDS)]
    for start, end in pairwise([*starts, errors.shape[1]]):
        before, after = errors[:, start:end].sum(axis=1).tolist()
        yield before, after
