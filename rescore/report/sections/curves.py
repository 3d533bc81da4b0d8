"""The section with the WER over each tuned scale, with all other scales as tuned."""

from __future__ import annotations

from html import escape

from rescore.report.result import RescoreResult
from rescore.report.sections.base import Section
from rescore.report.sections.curve_plot import draw_curve


class Curves(Section):
    """One plot for each tuned scale of each row."""

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
figure .chosen { fill: var(--accent); stroke: var(--page); stroke-width: 1.5; }
"""

    def html(self, result: RescoreResult) -> str:
        figures = "".join(
            f"<figure><figcaption>{escape(row)}</figcaption>{draw_curve(curve)}</figure>"
            for row, tuned in result.tuned.items()
            for curve in tuned.curves
        )
        if not figures:
            return ""
        return (
            "<p>On the lists the scales were tuned on, with the other scales of the row as chosen. "
            "The dot is the chosen scale, the band around it the range with the same WER.</p>\n"
            f'<div class="figures">{figures}</div>'
        )
