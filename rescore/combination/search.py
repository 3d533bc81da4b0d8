"""The points of a space of scales with the fewest errors, for the lists as they are and for resamples of them.

    points = search(space, weights)                     # weights [R, U]: how often utterance u counts in resample r

Where the winner of an utterance changes does not depend on the weights, so all resamples share the walks along the
lines of one and two scales.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations

import numpy as np

from rescore.combination.line_search import NARROW, Space, Steps, walks_along
from rescore.wer import FloatArray, IntArray

_GRID_LINES = 257
_DESCENTS = 3
"""How many local minima of all utterances the search of a resample starts from, for three or more scales."""


def search(space: Space, weights: IntArray) -> FloatArray:
    """[R, F]: the best point for each row of weights [R, U]; how exact it is depends on F, see `tuning.tune`."""
    size = len(space.low)
    shared = _search_line(space, weights) if size == 1 else _search_grid(space, weights) if size == 2 else None
    minima = _local_minima(space) if shared is None else []
    points = []
    for number, row in enumerate(weights):
        part = space.resampled(row)
        point = _search_many(part, minima) if shared is None else shared[number]
        ends = [point] if size == 1 else [part.centred(point), part.nearest_to_zero()]
        points.append(min(map(part.at_zeros, ends), key=part.errors_at))
    return np.array(points)


def resample(utterances: int, count: int, *, seed: int, groups: Sequence[Hashable] | None = None) -> IntArray:
    """[count, U]: how often each utterance is drawn in each of `count` bootstrap resamples.

    As many utterances as there are are drawn with replacement. `groups`: the speaker of each utterance; whole groups
    are drawn then. ValueError if `groups` has another length.
    """
    names = range(utterances) if groups is None else groups
    if len(names) != utterances:
        raise ValueError(f"groups of {len(names)} utterances; expected {utterances}")
    number: dict[Hashable, int] = {}
    indices = np.array([number.setdefault(name, len(number)) for name in names])
    drawn = np.random.default_rng(seed).integers(len(number), size=(count, len(number)))
    return np.stack([np.bincount(row, minlength=len(number))[indices] for row in drawn])


def _search_line(space: Space, weights: IntArray) -> list[FloatArray]:
    walk = space.walk_along(space.low, 0)
    steps = (Steps(walk.edges, counts) for counts in walk.counts(weights))
    return [space.at(space.low, space.in_units(found.best(), 0)) for found in steps]


def _search_grid(space: Space, weights: IntArray) -> list[FloatArray]:
    """Search two scales: an even grid of each, with an exact line search over the other; of equal errors the widest
    piece."""
    errors, widths = np.full(len(weights), np.inf), np.zeros(len(weights))
    points = [space.low] * len(weights)
    for axis in (0, 1):
        other = 1 - axis
        grid = np.linspace(space.low[other], space.high[other], _GRID_LINES)
        span = space.high[axis] - space.low[axis]
        start = space.base + space.low[axis] * space.features[axis]
        bases = start + grid[:, None, None] * space.features[other]
        for value, walk in zip(grid, walks_along(bases, span * space.features[axis], space.errors)):
            edges, counts = walk.edges, walk.counts(weights)
            fewest, widest = _best_pieces(edges, counts)
            better = (fewest < errors) | ((fewest == errors) & (widest > widths))
            errors, widths = np.where(better, fewest, errors), np.where(better, widest, widths)
            for row in np.flatnonzero(better).tolist():
                points[row] = np.empty(2)
                middle = Steps(edges, counts[row]).best().middle
                points[row][axis], points[row][other] = space.low[axis] + span * middle, value
    return points


def _best_pieces(edges: FloatArray, counts: IntArray) -> tuple[IntArray, FloatArray]:
    """[R] fewest errors and [R] width of the widest piece with them, as in `Steps.best`; counts: [R, pieces]."""
    kept = np.flatnonzero(np.diff(edges) > NARROW)
    left, right, counts = edges[kept], edges[kept + 1], counts[:, kept]
    fewest = counts.min(axis=1)
    begins = np.diff(counts, axis=1, prepend=counts[:, :1] - 1) != 0
    begin = np.maximum.accumulate(np.where(begins, np.arange(len(kept)), 0), axis=1)
    return fewest, np.where(counts == fewest[:, None], right - left[begin], 0.0).max(axis=1)


def _local_minima(space: Space) -> list[FloatArray]:
    """Where the descents of three or more scales end that begin at eight points of the box."""
    span = space.high - space.low
    # One start is at or near zero, so that the result is not worse than any of the sources alone.
    generator = np.random.default_rng(0)
    starts = [space.low + span / 2, space.nearest_to_zero(), *(space.low + span * generator.random((6, len(span))))]
    return [_descend(space, start) for start in starts]


def _search_many(space: Space, minima: Sequence[FloatArray]) -> FloatArray:
    """Descend anew from the best of the local minima of all utterances; of themselves, the best of them is the end."""
    starts = sorted(minima, key=space.errors_at)[:_DESCENTS]
    return min((_descend(space, start) for start in starts), key=space.errors_at)


def _descend(space: Space, point: FloatArray) -> FloatArray:
    """Move to the best point along an axis or a diagonal of two axes until none has fewer errors."""
    axes = [(space.high - space.low) * unit for unit in np.eye(len(point))]
    directions = axes + [first + sign * second for first, second in combinations(axes, 2) for sign in (1.0, -1.0)]
    errors, improved = space.errors_at(point), True
    while improved:
        # The best of all directions is taken, so that the result is not worse than that of any single direction.
        ends = [_through(point, direction, space) for direction in directions]
        moves = [begin + space.steps(begin, end - begin).best().middle * (end - begin) for begin, end in ends]
        found = [space.errors_at(moved) for moved in moves]
        improved = min(found) < errors
        if improved:
            errors, point = min(found), moves[found.index(min(found))]
    return point


def _through(point: FloatArray, direction: FloatArray, space: Space) -> tuple[FloatArray, FloatArray]:
    """The two ends of the line through a point in this direction, clipped to the box."""
    used = direction != 0.0
    to_low = (space.low - point)[used] / direction[used]
    to_high = (space.high - point)[used] / direction[used]
    back, ahead = np.minimum(to_low, to_high).max(), np.maximum(to_low, to_high).min()
    return point + back * direction, point + ahead * direction
