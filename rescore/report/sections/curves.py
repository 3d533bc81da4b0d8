"""The section with the WER over each tuned scale, with all other scales as tuned."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import combinations

from rescore.combination.tuning import TuneResult
from rescore.report.result import RescoreResult
from rescore.report.sections.base import Section
from rescore.report.sections.cloud_plot import draw_cloud
from rescore.report.sections.curve_plot import draw_curve

_CLOUD = (
    "The strokes above the axis and the small dots are the best scales of each bootstrap resample; "
    "the chosen ones are their mean."
)


class Curves(Section):
    """One plot for each tuned scale of each row, and one for each pair if there are resamples."""

    title, anchor = "WER over the scale", "curves"
    css = """
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 16px; }
figure { margin: 0; padding: 12px 12px 6px; background: var(--card); border-radius: 8px; break-inside: avoid; }
figcaption { font-weight: 600; margin-bottom: 4px; }
figure svg { display: block; width: 100%; height: auto; }
figure text { font-size: 11px; fill: var(--soft); }
figure .mid { text-anchor: middle; } figure .end { text-anchor: end; } figure .start { text-anchor: start; }
figure .label { fill: var(--ink); font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
figure .name { fill: var(--ink); }
figure .grid { stroke: var(--faint); } figure .axis { stroke: var(--soft); }
figure .curve { fill: none; stroke: var(--accent); stroke-width: 1.6; stroke-linejoin: round; }
figure .plateau { fill: var(--band); }
figure .drawn { stroke: var(--accent); stroke-width: 1; opacity: .5; }
figure .one { fill: var(--accent); opacity: .35; }
figure .chosen { fill: var(--accent); stroke: var(--page); stroke-width: 1.5; }
"""

    def html(self, result: RescoreResult) -> str:
        if not result.tuned:
            return ""
        figures = "".join(
            f"<figure><figcaption>{escape(row)}</figcaption>{plot}</figure>"
            for row, tuned in result.tuned.items()
            for plot in _plots(tuned)
        )
        cloud = any(tuned.cloud for tuned in result.tuned.values())
        return (
            "<p>On the lists the scales were tuned on, with the other scales of the row as chosen. The dot on the line "
            f"is the chosen scale, the band around it the range with the same WER. {_CLOUD if cloud else ''}</p>\n"
            f'<div class="figures">{figures}</div>'
        )


def _plots(tuned: TuneResult) -> Iterator[str]:
    columns = list(zip(*tuned.cloud)) or [()] * len(tuned.curves)
    for curve, drawn in zip(tuned.curves, columns):
        yield draw_curve(curve, drawn)
    for (first, xs), (second, ys) in combinations(zip(tuned.curves, columns), 2):
        if tuned.cloud:
            yield draw_cloud(first, second, list(zip(xs, ys)))
