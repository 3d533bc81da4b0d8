"""Scales with the fewest word errors on a development set, by exact line searches.

    result = tune(dev_lists, fixed={"am": 1.0}, free={"masked": (0.0, 2.0), "words": (-2.0, 4.0)})
    result.scales.save("scales.json")
    print(result.wer_percent, *result.warnings)

Along a line in the space of scales every hypothesis has a total that is linear, so the winner of an utterance follows
the upper envelope of its lines and the errors of the corpus are piecewise constant. All breakpoints are computed: no
step size, no local minimum (Och, ACL 2003, "Minimum error rate training"). The scale chosen is the middle of the best
piece, where it is farthest from any change. Pieces narrower than 1e-9 of the range are ignored, except the scale 0,
which switches a source off.

The minimum of a few hundred utterances is sharp and moves with every one of them. `resamples` takes the mean of the
minima of many resamples instead, which ranks other utterances better (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rescore.combination.line_search import NARROW, Range, Space
from rescore.combination.posterior import tune_posterior
from rescore.combination.scales import Scales, combined_scores, winners
from rescore.combination.search import resample, search
from rescore.nbest.types import NBestList
from rescore.wer import ErrorCounts, ErrorTable, FloatArray, error_table

_CURVE_POINTS = 201


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
    """One line for each scale whose best value is at the edge of its range or has no effect."""
    cloud: tuple[tuple[float, ...], ...] = ()
    """The best scales of each resample, in the order of the curves; empty for scales of the lists as they are."""


def tune(
    lists: Sequence[NBestList],
    *,
    free: Mapping[str, Range],
    fixed: Mapping[str, float] | None = None,
    table: ErrorTable | None = None,
    resamples: int = 0,
    seed: int = 1,
    groups: Sequence[Hashable] | None = None,
    expected_errors: bool = False,
) -> TuneResult:
    """Minimise the word errors over the `free` scales, each within its range; `fixed` scales stay (default am = 1).

    Names are those of `Scales.named`: a score, "words", "tokens:SOURCE". `table`: the error table of the
    lists, if it has been computed. The result is deterministic. How exact the search is:

    * one free scale: the minimum over the range is found. Of several best pieces the widest is taken, then the lowest;
      0 is taken only if nothing else is as good;
    * two: 257 evenly spaced values of each with an exact line search over the other, then line searches along both in
      turn. A minimum can be missed only if its region is narrower than 1/256 of the range in both scales;
    * more: exact line searches along each scale and each pair of scales from eight starting points; a local minimum.

    With `resamples`, the scales are the mean of those that are best for each of so many bootstrap resamples of the
    utterances (bagging: Breiman, Machine Learning 24, 1996), each searched as above; a scale that is 0 in most of
    them is 0. `seed` and `groups` (speakers, say) say what is drawn, see `search.resample`.

    With `expected_errors`, the scale of the posterior is tuned too, after the others (`posterior.tune_posterior`), on
    the same resamples. The curves are still those of the highest total.

    ValueError for missing scores or references, an empty range, or a scale that is both free and fixed.
    """
    fixed = {"am": 1.0} if fixed is None else fixed
    _check(fixed, free)
    table = error_table(lists) if table is None else table
    space = Space.build(lists, fixed, free, table)
    if resamples < 0:
        raise ValueError(f"{resamples} resamples; expected 0 or more")
    weights = np.ones((1, len(lists)), np.int64)
    if resamples:
        weights = np.concatenate([weights, resample(len(lists), resamples, seed=seed, groups=groups)])
    best, *cloud = search(space, weights)
    point = _mean(np.array(cloud)) if cloud else best
    # Round to ten digits, because scales are not known better and the file should be readable. The rounded scales are
    # used only if no winner changes.
    rounded = np.array([float(f"{value:.10g}") for value in point])
    point = rounded if space.errors_at(rounded) == space.errors_at(point) else point
    scales = Scales.from_named({**fixed, **dict(zip(free, point.tolist()))})
    if expected_errors:
        drawn_weights = weights[1:] if resamples else weights
        posterior = tune_posterior(lists, combined_scores(lists, scales), table, drawn_weights)
        scales = replace(scales, posterior=float(f"{posterior:.10g}"))
    errors = table.corpus(winners(lists, scales))
    if errors.wer_percent is None:
        raise ValueError("the references have no words; expected some to tune the scales on")
    curves = _curves(space, point, free, errors.reference_words)
    # Warnings are about the best scales, because a mean is at the edge of a range only if all resamples are.
    found = _curves(space, best, free, errors.reference_words) if cloud else curves
    warnings = tuple(warning for curve in found for warning in _warnings(curve, free[curve.name]))
    drawn = tuple(tuple(entry.tolist()) for entry in cloud)
    return TuneResult(scales, errors, errors.wer_percent, curves, warnings, drawn)


def _mean(cloud: FloatArray) -> FloatArray:
    """[F]: the mean of the points [R, F]. A source that most resamples switch off is off: a mean between 0 and scales
    that suit resamples without its worst utterance may be worse than either."""
    return np.where((cloud == 0.0).mean(axis=0) > 0.5, 0.0, cloud.mean(axis=0))


def _check(fixed: Mapping[str, float], free: Mapping[str, Range]) -> None:
    if not free:
        raise ValueError("no free scale; expected at least one to tune")
    for name, (low, high) in free.items():
        if name in fixed:
            raise ValueError(f"the scale of {name!r} is both free and fixed; expected one of the two")
        if not (np.isfinite([low, high]).all() and low < high):
            raise ValueError(f"the range of the scale of {name!r} is {low} ... {high}; expected low < high")
    Scales.from_named({**fixed, **{name: low for name, (low, _) in free.items()}})


def _curves(space: Space, point: FloatArray, names: Iterable[str], words: int) -> tuple[Curve, ...]:
    errors = space.errors_at(point)
    return tuple(_curve(space, point, axis, name, errors, words) for axis, name in enumerate(names))


def _curve(space: Space, point: FloatArray, axis: int, name: str, errors: int, words: int) -> Curve:
    steps = space.along(point, axis)
    low, span = float(space.low[axis]), float(space.high[axis] - space.low[axis])
    grid = np.linspace(0.0, 1.0, _CURVE_POINTS)
    counts = steps.counts[np.clip(np.searchsorted(steps.edges, grid, side="right") - 1, 0, len(steps.counts) - 1)]
    begin, end = steps.run_at((point[axis] - low) / span, errors)
    at_ends = []
    for bound, plateau_end in ((space.low, begin), (space.high, end)):
        moved = point.copy()
        moved[axis] = bound[axis]
        near = abs(plateau_end - (bound[axis] - low) / span) <= NARROW
        # A plateau that reaches the end of the range may still not include the end point itself.
        at_ends.append(bool(near and space.errors_at(moved) == errors))
    return Curve(
        name=name,
        grid=tuple((low + span * grid).tolist()),
        wer_percent=tuple((100.0 * counts / words).tolist()),
        chosen=float(point[axis]),
        chosen_wer_percent=100.0 * errors / words,
        plateau=(low + span * begin, low + span * end),
        at_ends=(at_ends[0], at_ends[1]),
    )


def _warnings(curve: Curve, bounds: Range) -> Iterator[str]:
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
        yield where + f"lies at the edge of the range {low:g} ... {high:g}; a wider range may be better"
