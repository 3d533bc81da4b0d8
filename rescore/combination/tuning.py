"""Scales with the fewest word errors on a development set, by exact line searches.

    result = tune(dev_lists, fixed={"am": 1.0}, free={"masked": (0.0, 2.0), "words": (-2.0, 4.0)})
    result.scales.save("scales.json")
    print(result.wer_percent, *result.warnings)

Along a line in the space of scales every hypothesis has a total that is linear, so the winner of an utterance follows
the upper envelope of its lines and the errors of the corpus are piecewise constant. All breakpoints are computed: no
step size, no local minimum (Och, ACL 2003, "Minimum error rate training"). The scale chosen is the middle of the best
piece, where it is farthest from any change. Pieces narrower than 1e-9 of the range are ignored, except the scale 0,
which switches a source off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

from rescore.combination.line_search import NARROW, Range, Space, steps_along
from rescore.combination.scales import Scales, winners
from rescore.nbest.types import NBestList
from rescore.wer import ErrorCounts, ErrorTable, FloatArray, error_table

_GRID_LINES = 257
_CURVE_POINTS = 201
_WIDER = 9
"""A range whose end is as good as the best scale is looked at in ten times its width."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The WER as a function of one scale, with all others as tuned."""

    name: str
    grid: tuple[float, ...]
    wer_percent: tuple[float, ...]
    """WER in percent at each point of the grid."""
    chosen: float
    chosen_wer_percent: float
    plateau: Range
    """The interval around the chosen scale in which the WER is the same."""
    at_ends: tuple[bool, bool]
    """Whether the plateau includes the lower and the upper end of the range."""


@dataclass(frozen=True, slots=True)
class TuneResult:
    """The tuned scales and their errors on the lists they were tuned on, which are too low an estimate for other
    data."""

    scales: Scales
    errors: ErrorCounts
    wer_percent: float
    curves: tuple[Curve, ...]
    """One curve for each free scale."""
    warnings: tuple[str, ...]
    """One line for each scale that has no effect, or whose best interval reaches an end of its range."""


def tune(
    lists: Sequence[NBestList],
    *,
    free: Mapping[str, Range],
    fixed: Mapping[str, float] | None = None,
    table: ErrorTable | None = None,
) -> TuneResult:
    """Minimise the word errors over the `free` scales, each within its range; `fixed` scales stay (default am = 1).

    Names are those of `Scales.named`: a score, "words", "tokens:SOURCE". `table`: the error table of the
    lists, if it has been computed. The result is deterministic. How exact the search is:

    * one free scale: the minimum over the range is found. Of several best pieces the widest is taken, then the lowest;
      0 is taken only if nothing else is as good;
    * two: 257 evenly spaced values of each with an exact line search over the other, then line searches along both in
      turn. A minimum can be missed only if its region is narrower than 1/256 of the range in both scales;
    * more: exact line searches along each scale and each pair of scales from eight starting points; a local minimum.

    ValueError for missing scores or references, an empty range, or a scale that is both free and fixed.
    """
    fixed = {"am": 1.0} if fixed is None else fixed
    _check(fixed, free)
    table = error_table(lists) if table is None else table
    space = Space.build(lists, fixed, free, table)
    size = len(free)
    if size == 1:
        point = np.array([space.low[0]])
        point = space.at(point, space.best(point, 0))
    elif size == 2:
        point = space.centred(_search_grid(space))
    else:
        point = space.centred(_search_many(space))
    ends = [point] if size == 1 else [point, space.nearest_to_zero()]
    point = min(map(space.at_zeros, ends), key=space.errors_at)
    # Round to ten digits, because scales are not known better and the file should be readable. The rounded scales are
    # used only if no winner changes.
    rounded = np.array([float(f"{value:.10g}") for value in point])
    point = rounded if space.errors_at(rounded) == space.errors_at(point) else point
    scales = Scales.from_named({**fixed, **dict(zip(free, point.tolist()))})
    errors = table.corpus(winners(lists, scales))
    if errors.wer_percent is None:
        raise ValueError("the references have no words; expected some to tune the scales on")
    curves = tuple(_curve(space, point, axis, name, errors) for axis, name in enumerate(free))
    warnings: list[str] = []
    for curve in curves:
        others = {name: scale for name, scale in scales.named().items() if name != curve.name}
        warnings += _warnings(curve, free[curve.name], partial(_beyond, lists, others, table, errors))
    return TuneResult(scales, errors, errors.wer_percent, curves, tuple(warnings))


def _check(fixed: Mapping[str, float], free: Mapping[str, Range]) -> None:
    if not free:
        raise ValueError("no free scale; expected at least one to tune")
    for name, (low, high) in free.items():
        if name in fixed:
            raise ValueError(f"the scale of {name!r} is both free and fixed; expected one of the two")
        if not (np.isfinite([low, high]).all() and low < high):
            raise ValueError(f"the range of the scale of {name!r} is {low} ... {high}; expected low < high")
    Scales.from_named({**fixed, **{name: low for name, (low, _) in free.items()}})


def _search_grid(space: Space) -> FloatArray:
    """Search two scales: an even grid of each, with an exact line search over the other; of equal errors the widest
    piece."""
    found: list[tuple[int, float, FloatArray]] = []
    for axis in (0, 1):
        other = 1 - axis
        grid = np.linspace(space.low[other], space.high[other], _GRID_LINES)
        span = space.high[axis] - space.low[axis]
        start = space.base + space.low[axis] * space.features[axis]
        bases = start + grid[:, None, None] * space.features[other]
        for value, steps in zip(grid, steps_along(bases, span * space.features[axis], space.errors)):
            best = steps.best()
            point = np.empty(2)
            point[axis], point[other] = space.low[axis] + span * best.middle, value
            found.append((best.errors, best.low - best.high, point))
    return min(found, key=lambda entry: entry[:2])[2]


def _search_many(space: Space) -> FloatArray:
    """Search three or more scales: from each start, descend along axes and diagonals of pairs until none helps."""
    span = space.high - space.low
    size = len(span)
    axes = [span * unit for unit in np.eye(size)]
    directions = axes + [first + sign * second for first, second in combinations(axes, 2) for sign in (1.0, -1.0)]
    # One start is at or near zero, so that the result is not worse than any of the sources alone.
    generator = np.random.default_rng(0)
    starts = [space.low + span / 2, space.nearest_to_zero(), *(space.low + span * generator.random((6, size)))]
    results = []
    for point in starts:
        errors, improved = space.errors_at(point), True
        while improved:
            # The best of all directions is taken, so that the result is not worse than that of any single direction.
            ends = [_through(point, direction, space) for direction in directions]
            moves = [begin + space.steps(begin, end - begin).best().middle * (end - begin) for begin, end in ends]
            found = [space.errors_at(moved) for moved in moves]
            improved = min(found) < errors
            if improved:
                errors, point = min(found), moves[found.index(min(found))]
        results.append((errors, point))
    return min(results, key=lambda entry: entry[0])[1]


def _through(point: FloatArray, direction: FloatArray, space: Space) -> tuple[FloatArray, FloatArray]:
    """The two ends of the line through a point in this direction, clipped to the box."""
    used = direction != 0.0
    to_low = (space.low - point)[used] / direction[used]
    to_high = (space.high - point)[used] / direction[used]
    back, ahead = np.minimum(to_low, to_high).max(), np.maximum(to_low, to_high).min()
    return point + back * direction, point + ahead * direction


def _curve(space: Space, point: FloatArray, axis: int, name: str, errors: ErrorCounts) -> Curve:
    steps = space.along(point, axis)
    low, span = float(space.low[axis]), float(space.high[axis] - space.low[axis])
    grid = np.linspace(0.0, 1.0, _CURVE_POINTS)
    counts = steps.counts[np.clip(np.searchsorted(steps.edges, grid, side="right") - 1, 0, len(steps.counts) - 1)]
    begin, end = steps.run_at((point[axis] - low) / span, errors.errors)
    at_ends = []
    for bound, plateau_end in ((space.low, begin), (space.high, end)):
        moved = point.copy()
        moved[axis] = bound[axis]
        near = abs(plateau_end - (bound[axis] - low) / span) <= NARROW
        # A plateau that reaches the end of the range may still not include the end point itself.
        at_ends.append(bool(near and space.errors_at(moved) == errors.errors))
    assert errors.wer_percent is not None, "tune has refused references without words"
    return Curve(
        name=name,
        grid=tuple((low + span * grid).tolist()),
        wer_percent=tuple((100.0 * counts / errors.reference_words).tolist()),
        chosen=float(point[axis]),
        chosen_wer_percent=errors.wer_percent,
        plateau=(low + span * begin, low + span * end),
        at_ends=(at_ends[0], at_ends[1]),
    )


def _beyond(
    lists: Sequence[NBestList],
    others: Mapping[str, float],
    table: ErrorTable,
    errors: ErrorCounts,
    name: str,
    wider: Range,
) -> float | None:
    """The WER (%) that the scale `name` reaches in a wider range while the others stay; None if it is not lower."""
    try:
        space = Space.build(lists, others, {name: wider}, table)
    except ValueError:  # scores near the largest that can be summed: nothing can be computed in a wider range
        return None
    found = space.best(space.low, 0).errors
    return 100.0 * found / errors.reference_words if found < errors.errors else None


def _warnings(curve: Curve, bounds: Range, beyond: Callable[[str, Range], float | None]) -> Iterator[str]:
    low, high = bounds
    at_low, at_high = curve.at_ends
    where = f"the best scale of {curve.name!r}, {curve.chosen:.4g}, "
    if at_low and at_high:
        yield f"the scale of {curve.name!r} makes no difference between {low:g} and {high:g}"
    elif curve.chosen == 0.0:
        yield f"the best scale of {curve.name!r} is 0: the source does not help on these lists"
    elif (at_low and low == 0.0) or (at_high and high == 0.0):
        yield where + "is as good as 0: the source does not help on these lists"
    elif at_low or at_high:
        span = _WIDER * (high - low)
        wider = (low - span, high) if at_low else (low, high + span)
        if (lower := beyond(curve.name, wider)) is not None:
            yield (
                f"the range {low:g} ... {high:g} of the scale of {curve.name!r} ends too early: WER {lower:.2f} % "
                f"instead of {curve.chosen_wer_percent:.2f} % beyond it; widen it, for example with "
                f"{curve.name}:{wider[0]:g}:{wider[1]:g}"
            )
        else:
            first, last = curve.plateau
            yield (
                f"every scale of {curve.name!r} from {first:.4g} to {last:.4g} gives the same WER as the chosen "
                f"{curve.chosen:.4g}, and none beyond gives a lower one: this tuning set is too small to tell them "
                "apart"
            )
