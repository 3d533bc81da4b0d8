"""The section with the WER over each tuned scale, with all other scales as tuned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import combinations

from rescore.combination.scales import winners
from rescore.combination.tuning import Curve, TuneResult
from rescore.report.result import RescoreResult
from rescore.report.sections.base import Section
from rescore.report.sections.cloud_plot import draw_cloud
from rescore.report.sections.curve_plot import draw_curve
from rescore.report.sections.plot_frame import with_margin
from rescore.wer import error_table

_CLOUD = (
    "The strokes above the axis and the small dots are the best scales of each bootstrap resample; "
    "the chosen ones are their mean."
)


class Curves(Section):
    """One figure for each row, with a plot for each tuned scale, and one for each pair if there are resamples."""

    title, anchor = "WER over the scale", "curves"
    css = """
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); gap: 4px 16px; }
figure { margin: 0 0 14px; padding: 12px 12px 6px; background: var(--card); border-radius: 8px; break-inside: avoid; }
figcaption { font-weight: 600; margin-bottom: 4px; }
figure svg { display: block; width: 100%; height: auto; }
figure text { font-size: 11px; fill: var(--soft); }
figure .mid { text-anchor: middle; } figure .end { text-anchor: end; } figure .start { text-anchor: start; }
figure .label { fill: var(--ink); font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
figure .name { fill: var(--ink); }
figure .grid { stroke: var(--faint); } figure .axis { stroke: var(--soft); }
figure .curve { fill: none; stroke: var(--accent); stroke-width: 1.6; stroke-linejoin: round; }
figure .level { stroke: var(--soft); stroke-dasharray: 3 3; }
figure .plateau { fill: var(--band); }
figure .drawn { stroke: var(--accent); stroke-width: 1; opacity: .5; }
figure .one { fill: var(--accent); opacity: .35; }
figure .chosen { fill: var(--accent); stroke: var(--page); stroke-width: 1.5; }
"""

    def html(self, result: RescoreResult) -> str:
        if not result.tuned:
            return ""
        table = error_table(result.tune_lists)
        baseline = table.corpus(winners(result.tune_lists, result.scales[result.table.baseline])).wer_percent
        oracle = table.oracle().wer_percent
        assert baseline is not None and oracle is not None, "scales are tuned on references with words"
        levels = {"baseline": baseline, "oracle": oracle}
        curves = [curve for tuned in result.tuned.values() for curve in tuned.curves]
        y_range = _common_range(curves, levels)
        figures = "".join(
            f"<figure><figcaption>{escape(row)}</figcaption>"
            f'<div class="panels">{"".join(_plots(tuned, y_range, levels))}</div></figure>\n'
            for row, tuned in result.tuned.items()
        )
        cloud = any(tuned.cloud for tuned in result.tuned.values())
        return (
            "<p>On the lists the scales were tuned on, with the other scales of the row as chosen. The dot on the line "
            "is the chosen scale, the band around it the range with the same WER. All figures have the same WER axis; "
            f"a curve that rises far above “{escape(result.table.baseline)}”, the baseline, is cut off. "
            f"{_CLOUD if cloud else ''}</p>\n{figures}"
        )


def _common_range(curves: Sequence[Curve], levels: Mapping[str, float]) -> tuple[float, float]:
    """A range of the WER for all plots: what was chosen, the levels, and as much again above them for the curves."""
    marked = [*levels.values(), *(curve.chosen_wer_percent for curve in curves)]
    limit = max(marked) + max(max(marked) - min(marked), 1.0)
    return with_margin([*marked, *(min(wer, limit) for curve in curves for wer in curve.wer_percent)])


def _plots(tuned: TuneResult, y_range: tuple[float, float], levels: Mapping[str, float]) -> Iterator[str]:
    columns = list(zip(*tuned.cloud)) or [()] * len(tuned.curves)
    for curve, drawn in zip(tuned.curves, columns):
        yield draw_curve(curve, drawn, y_range=y_range, levels=levels)
    for (first, xs), (second, ys) in combinations(zip(tuned.curves, columns), 2):
        if tuned.cloud:
            yield draw_cloud(first, second, list(zip(xs, ys)))
