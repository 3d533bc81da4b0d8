"""The section with the table of results, its footnotes, and a plot of the interval of every change."""

from __future__ import annotations

from html import escape

from rescore.report.result import RescoreResult
from rescore.report.sections.base import Section
from rescore.report.table import ColumnKind, Row


class Results(Section):
    """The rows of the table, with the lowest WER and the baseline highlighted."""

    title, anchor = "", "results"
    css = """
.results td.best { font-weight: 700; color: var(--accent); }
.results tr.baseline > * { background: var(--card); }
.results tr.bound > * { color: var(--soft); font-style: italic; }
td.plot { padding: 0 6px; width: 132px; }
td.plot svg { display: block; width: 120px; height: 18px; }
td.plot line { stroke-width: 2; }
td.plot .zero { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 2; }
.better line { stroke: var(--good); } .better circle { fill: var(--good); }
.worse line { stroke: var(--bad); } .worse circle { fill: var(--bad); }
.open line { stroke: var(--soft); } .open circle { fill: var(--soft); }
.notes { color: var(--soft); font-size: 13px; margin: 12px 0 0; padding-left: 18px; max-width: 105ch; }
"""

    def html(self, result: RescoreResult) -> str:
        table = result.table
        columns, cells = table.cells()
        rates = [row.errors.wer_percent for row in table.rows if row.scales and row.errors.wer_percent is not None]
        intervals = [row.change for row in table.rows if row.change and row.scales]
        ends = [0.0, *(interval.low for interval in intervals), *(interval.high for interval in intervals)]
        head, body = [], []
        for column in columns:
            wide = ' colspan="2"' if column.kind is ColumnKind.CHANGE and intervals else ""
            head.append(
                f'<th scope="col" class="{"num" if column.is_number else "text"}"{wide}>{escape(column.title)}</th>'
            )
        for row, texts in zip(table.rows, cells):
            parts = []
            for column, text in zip(columns, texts):
                kind = "num" if column.is_number else "text"
                if column.kind is ColumnKind.NAME:
                    parts.append(f'<th scope="row" class="text">{escape(text)}</th>')
                    continue
                mark = (
                    " best"
                    if column.kind is ColumnKind.ERROR_RATE and row.scales and row.errors.wer_percent == min(rates)
                    else ""
                )
                parts.append(f'<td class="{kind}{mark}">{escape(text)}</td>')
                if column.kind is ColumnKind.CHANGE and intervals:
                    plot = _interval(row, min(ends), max(ends))
                    parts.append(f'<td class="plot" title="{_certainty(row)}">{plot}</td>')
            kinds = [
                name
                for name, applies in (("baseline", row.name == table.baseline), ("bound", not row.scales))
                if applies
            ]
            body.append(f'<tr class="{" ".join(kinds)}">{"".join(parts)}</tr>')
        notes = "".join(f"<li>{escape(note)}</li>" for note in table.footnotes())
        return (
            f'<div class="scroll"><table class="results"><thead><tr>{"".join(head)}</tr></thead>\n'
            f'<tbody>\n{chr(10).join(body)}\n</tbody></table></div>\n<ul class="notes">{notes}</ul>'
        )


def _certainty(row: Row) -> str:
    """How often the row is better than the baseline, and the p-value of the matched-pair test; "" without change."""
    if row.change is None:
        return ""
    share = f"better in {100 * row.change.probability_of_improvement:.1f} % of the bootstrap samples"
    test = row.matched_pairs
    return share if test is None or test.p is None else f"{share}; matched pairs: p = {test.p:.2g}"


def _interval(row: Row, low: float, high: float) -> str:
    """A plot of the change and its interval, on an axis that all rows share, with zero marked; "" for a row without
    change."""
    if not row.scales or high <= low:
        return ""

    def x(value: float) -> float:
        return 4 + 112 * (value - low) / (high - low)

    zero = f'<line class="zero" x1="{x(0.0):.1f}" x2="{x(0.0):.1f}" y1="0" y2="18"/>'
    if row.change is None:
        return f'<svg viewBox="0 0 120 18" aria-hidden="true">{zero}</svg>'
    found = row.change
    side = "better" if found.high < 0 else "worse" if found.low > 0 else "open"
    return (
        f'<svg viewBox="0 0 120 18" aria-hidden="true">{zero}<g class="{side}">'
        f'<line x1="{x(found.low):.1f}" x2="{x(found.high):.1f}" y1="9" y2="9"/>'
        f'<circle cx="{x(found.difference_percent):.1f}" cy="9" r="3.5"/></g></svg>'
    )
