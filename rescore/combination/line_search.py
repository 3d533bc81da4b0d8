"""Exact word errors of a corpus along a line in the space of scales.

    space = Space.build(lists, {"am": 1.0}, {"masked": (0.0, 2.0)}, error_table(lists))
    best = space.along(space.low, axis=0).best()          # fewest errors and their positions, from 0 to 1 of the range

Along a line the total of every hypothesis is linear, so the winner of an utterance follows the upper envelope of its
lines and the errors are piecewise constant; all breakpoints are computed (Och, ACL 2003, "Minimum error rate
training").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from rescore.combination.scales import check_summable, feature_matrix, weighted_sum
from rescore.nbest.types import NBestList
from rescore.wer import ErrorTable, FloatArray, IntArray

Range = tuple[float, float]

NARROW = 1e-9
"""Pieces shorter than this share of the line are ignored, because no readable scale lies in them."""

_ELEMENTS_IN_MEMORY = 4_000_000


@dataclass(frozen=True, slots=True)
class Best:
    """The widest of the best pieces along a line. Positions are in the units of the line and start at 0."""

    errors: int
    low: float
    high: float
    middle: float


@dataclass(frozen=True, slots=True)
class Steps:
    """Errors along a line: counts[i] between edges[i] and edges[i + 1]."""

    edges: FloatArray
    counts: IntArray

    def best(self) -> Best:
        span = self.edges[-1] - self.edges[0]
        kept = np.flatnonzero(np.diff(self.edges) > NARROW * span)
        counts = self.counts[kept]
        run_starts = np.flatnonzero(np.diff(counts, prepend=counts[0] - 1))
        run_ends = np.append(run_starts[1:], len(counts)) - 1
        low, high = self.edges[kept[run_starts]], self.edges[kept[run_ends] + 1]
        best = np.flatnonzero(counts[run_starts] == counts.min())
        run = best[np.argmax((high - low)[best])]
        middle = (low[run] + high[run]) / 2
        # Winners may change within a run if their errors are equal. The middle must not lie on such a breakpoint,
        # because the tie-break would decide there.
        pieces = kept[run_starts[run] : run_ends[run] + 1]
        if np.abs(self.edges - middle).min() <= NARROW * span:
            piece = pieces[np.argmax(self.edges[pieces + 1] - self.edges[pieces])]
            middle = (self.edges[piece] + self.edges[piece + 1]) / 2
        return Best(int(counts.min()), float(low[run]), float(high[run]), float(middle))

    def run_at(self, position: float, errors: int) -> Range:
        """The interval around a position in which the number of errors is `errors`; a point if both sides differ."""
        kept = np.flatnonzero(np.diff(self.edges) > NARROW * (self.edges[-1] - self.edges[0]))
        index = int(np.clip(np.searchsorted(self.edges[kept], position, side="right") - 1, 0, len(kept) - 1))
        if self.counts[kept[index]] != errors:  # the position is in an ignored narrow piece, or on a tie
            return position, position
        same = self.counts[kept] == self.counts[kept[index]]
        before = np.flatnonzero(~same[:index])
        after = np.flatnonzero(~same[index:])
        first = kept[before[-1] + 1] if before.size else kept[0]
        last = kept[index + after[0] - 1] if after.size else kept[-1]
        return float(self.edges[first]), float(self.edges[last + 1])


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """The errors of every utterance along a line, from which those of any resample of the utterances are summed up."""

    start: IntArray
    """[U]: errors of the winner at 0."""
    crossings: FloatArray
    """[E]: the positions at which the winner of an utterance changes, ascending."""
    utterances: IntArray
    """[E]: the utterance of each crossing."""
    changes: IntArray
    """[E]: by how many errors its new winner differs."""

    @property
    def edges(self) -> FloatArray:
        return np.concatenate([[0.0], self.crossings, [1.0]])

    def counts(self, weights: IntArray) -> IntArray:
        """[R, E + 1]: errors between the edges if utterance u is counted weights[r, u] times; weights: [R, U]."""
        first = weights @ self.start
        return np.cumsum(np.concatenate([first[:, None], weights[:, self.utterances] * self.changes], axis=1), axis=1)

    def steps(self) -> Steps:
        return Steps(self.edges, self.counts(np.ones((1, len(self.start)), np.int64))[0])


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """The box of free scales, with the hypotheses of each list that can win somewhere in it (padded with copies)."""

    low: FloatArray
    high: FloatArray
    base: FloatArray
    """[U, H]: the sum of the fixed scores; -inf for a hypothesis that never wins."""
    features: FloatArray
    """[F, U, H]: the score or count that each free scale is multiplied with."""
    errors: IntArray
    """[U, H]: word errors of each hypothesis."""

    @classmethod
    def build(
        cls, lists: Sequence[NBestList], fixed: Mapping[str, float], free: Mapping[str, Range], table: ErrorTable
    ) -> Space:
        names, widest = [*fixed, *free], [*fixed.values(), *(max(map(abs, bounds)) for bounds in free.values())]
        matrix, never = feature_matrix(lists, names)
        check_summable(lists, matrix, names, widest)
        base = weighted_sum(matrix[:, : len(fixed)], list(fixed.values()))
        base[never] = -np.inf  # whatever is added to it: no line of such a hypothesis meets that of a winner
        features = matrix[:, len(fixed) :]
        low, high = np.array([list(bounds) for bounds in free.values()], np.float64).T
        # A hypothesis that is worse than another one at every corner of the box is worse everywhere in it. With more
        # than five scales there are too many corners, and all hypotheses are kept.
        corners = [weighted_sum(features, point) + base for point in product(*zip(low, high))] if len(free) <= 5 else []
        totals = np.stack(corners, axis=1) if corners else None
        kept = []
        for start, end in zip(table.offsets[:-1].tolist(), table.offsets[1:].tolist()):
            indices = np.arange(start, end)
            kept.append(indices if totals is None else indices[~_beaten(totals[start:end])])
        width = max(map(len, kept))
        chosen = np.stack([np.concatenate([indices, np.repeat(indices[:1], width - len(indices))]) for indices in kept])
        return cls(low, high, base[chosen], features.T[:, chosen], table.errors[chosen])

    def errors_at(self, point: FloatArray) -> int:
        best = np.argmax(self._sum(self.base, point), axis=1)
        return int(np.take_along_axis(self.errors, best[:, None], 1).sum())

    def walk(self, point: FloatArray, direction: FloatArray) -> Walk:
        """The walk along point + position * direction, for the positions 0 ... 1."""
        base, slopes = self._sum(self.base, point), self._sum(np.zeros_like(self.base), direction)
        (walk,) = walks_along(base[None], slopes, self.errors)
        return walk

    def steps(self, point: FloatArray, direction: FloatArray) -> Steps:
        """Errors along point + position * direction, for the positions 0 ... 1."""
        return self.walk(point, direction).steps()

    def resampled(self, weights: IntArray) -> Space:
        """The space in which utterance u is counted weights[u] times."""
        kept = weights > 0
        errors = self.errors[kept] * weights[kept, None]
        return Space(self.low, self.high, self.base[kept], self.features[:, kept], errors)

    def best(self, point: FloatArray, axis: int) -> Best:
        """The best piece along one scale, in units of that scale, with the other scales as in `point`."""
        return self.in_units(self.along(point, axis).best(), axis)

    def in_units(self, found: Best, axis: int) -> Best:
        """A piece along one scale, found for the positions 0 ... 1 of its range, in units of that scale."""
        start, span = self.low[axis], self.high[axis] - self.low[axis]
        low, high, middle = (float(start + span * value) for value in (found.low, found.high, found.middle))
        return Best(found.errors, low, high, middle)

    def at(self, point: FloatArray, best: Best, axis: int = 0) -> FloatArray:
        moved = point.copy()
        moved[axis] = best.middle
        return moved

    def along(self, point: FloatArray, axis: int) -> Steps:
        return self.walk_along(point, axis).steps()

    def walk_along(self, point: FloatArray, axis: int) -> Walk:
        start, direction = point.copy(), np.zeros(len(point))
        start[axis], direction[axis] = self.low[axis], self.high[axis] - self.low[axis]
        return self.walk(start, direction)

    def _sum(self, base: FloatArray, weights: FloatArray) -> FloatArray:
        """[U, H]: totals, added term by term as in `weighted_sum`, so that equal hypotheses tie."""
        total = base
        for weight, feature in zip(weights, self.features):
            total = total + weight * feature
        return total

    def nearest_to_zero(self) -> FloatArray:
        return np.clip(np.zeros(len(self.low)), self.low, self.high)

    def at_zeros(self, point: FloatArray) -> FloatArray:
        """The point with every scale set to 0 that gives fewer errors there.

        0 is tried even if the piece around it is narrow, because it switches the source off. If a source marks
        impossible texts by a score of -1e10, the piece ends at a scale of 1e-10.
        """
        errors, improved = self.errors_at(point), True
        while improved:
            improved = False
            for axis in np.flatnonzero((self.low <= 0.0) & (self.high >= 0.0) & (point != 0.0)).tolist():
                moved = point.copy()
                moved[axis] = 0.0
                if (found := self.errors_at(moved)) < errors:
                    point, errors, improved = moved, found, True
        return point

    def centred(self, point: FloatArray) -> FloatArray:
        """The point moved to the middle of the best piece along each scale in turn, unless the errors would rise."""
        errors = self.errors_at(point)
        for axis in [*range(len(point))] * 3:
            moved = self.at(point, self.best(point, axis), axis)
            if (found := self.errors_at(moved)) <= errors:
                point, errors = moved, found
        return point


def _beaten(totals: FloatArray) -> NDArray[np.bool_]:
    """[H] bool: another hypothesis has a higher total in every column, or an earlier one has no lower total in any.

    A few hypotheses at a time are compared with all others, so that the memory does not grow with the square of H.
    """
    beaten = np.empty(len(totals), bool)
    count = max(1, _ELEMENTS_IN_MEMORY // len(totals))
    for first in range(0, len(totals), count):
        compared = totals[first : first + count]
        higher, no_lower = np.ones((2, len(totals), len(compared)), bool)
        for column, others in zip(totals.T, compared.T):
            higher &= column[:, None] > others
            no_lower &= column[:, None] >= others
        beaten[first : first + count] = (higher | np.triu(no_lower, 1 - first)).any(axis=0)
    return beaten


def walks_along(bases: FloatArray, slopes: FloatArray, errors: IntArray) -> Iterator[Walk]:
    """The errors along many parallel lines, bases [lines, U, H] + position * slopes [U, H] for positions 0 ... 1.

    Every row (line, utterance) walks along its upper envelope: from the winner at 0 to the line of a steeper hypothesis
    that it meets first, and so on. Hypotheses are ordered by falling slope, so `argmax` and `argmin` take the steepest
    of those that meet in one point, and for equal lines the earliest in the list.
    """
    order = np.argsort(-slopes, axis=1, kind="stable")
    slopes = np.take_along_axis(slopes, order, 1)
    errors = np.take_along_axis(errors, order, 1)
    count = max(1, _ELEMENTS_IN_MEMORY // slopes.size)
    for first in range(0, len(bases), count):
        totals = np.take_along_axis(bases[first : first + count], order[None], 2)
        lines, utterances, width = totals.shape
        totals = totals.reshape(-1, width)
        rows = np.arange(len(totals))
        current = totals.argmax(axis=1)
        position = np.zeros(len(rows))
        start = errors[rows % utterances, current].reshape(lines, utterances)
        events: list[tuple[IntArray, FloatArray, IntArray, IntArray]] = []
        while rows.size:
            utterance, line = rows % utterances, rows // utterances
            steeper = slopes[utterance] - slopes[utterance, current][:, None]
            gap = totals[rows, current][:, None] - totals[rows]
            with np.errstate(divide="ignore", invalid="ignore"):
                meeting = np.where(steeper > 0.0, gap / steeper, np.inf)
            following = meeting.argmin(axis=1)
            reached = meeting[np.arange(len(rows)), following]
            change = errors[utterance, following] - errors[utterance, current]
            inside = reached < 1.0
            # Because of rounding, a meeting point may lie slightly before the previous one.
            reached = np.maximum(reached, position)
            events.append((line[inside], reached[inside], utterance[inside], change[inside]))
            rows, current, position = rows[inside], following[inside], reached[inside]
        line, crossing, changed, change = (np.concatenate(column) for column in zip(*events))
        by_line = np.lexsort((crossing, line))
        limits = np.searchsorted(line[by_line], np.arange(lines + 1))
        for number, (begin, end) in enumerate(pairwise(limits.tolist())):
            chosen = by_line[begin:end]
            yield Walk(start[number], crossing[chosen], changed[chosen], change[chosen])
