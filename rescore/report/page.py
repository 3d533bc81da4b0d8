"""One self-contained HTML page: the table, the WER over each scale, the utterances whose winner changed.

    write_html("report.html", table, curves={"+ masked LM": tuned.curves}, changes={"+ masked LM": changes})

No file, font or script from elsewhere: it works offline, prints, and follows the reader's light or dark mode. All text is escaped,
and the page forbids by its content security policy any script but its own few lines, which sort and filter the changes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rescore.combination.tuning import Curve
from rescore.report.changes import Change, MarkedWord, mark_words
from rescore.report.curve_plot import draw_curve
from rescore.report.style import SCRIPT, STYLE
from rescore.report.table import ResultTable, SystemRow
from returnn_bridge.files import PathLike, write_whole


def write_html(
    path: PathLike,
    table: ResultTable,
    curves: Mapping[str, Sequence[Curve]] | None = None,
    changes: Mapping[str, Sequence[Change]] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write the page; it appears whole or not at all.

    `curves` and `changes` by the name of the system; the changes are against the baseline of the table. `metadata` is shown
    together with that of the table.
    """
    page = render_html(table, curves or {}, changes or {}, metadata or {})
    with write_whole(path) as write:
        write(page)


def render_html(
    table: ResultTable,
    curves: Mapping[str, Sequence[Curve]],
    changes: Mapping[str, Sequence[Change]],
    metadata: Mapping[str, Any],
) -> str:
    """The text of the page."""
    changes = {system: found for system, found in changes.items() if found}
    sections = [_table(table)]
    if any(curves.values()):
        sections.append(_curves(curves))
    details = {**table.metadata, **metadata}
    if details:
        sections.append(_metadata(details))
    if changes:
        sections.append(_changes(changes, table.baseline))
    script = SCRIPT if changes else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(table.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(table.title)}</h1>\n"
        + "\n".join(sections)
        + "\n</main>\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def _table(table: ResultTable) -> str:
    columns, cells = table.cells()
    rates = [row.errors.wer_percent for row in table.rows if row.scales and row.errors.wer_percent is not None]
    intervals = [row.change for row in table.rows if row.change and row.scales]
    ends = [0.0, *(interval.low for interval in intervals), *(interval.high for interval in intervals)]
    head, body = [], []
    for column in columns:
        wide = ' colspan="2"' if column.title.startswith("change") and intervals else ""
        head.append(
            f'<th scope="col" class="{"num" if column.is_number else "text"}"{wide}>{escape(column.title)}</th>'
        )
    for row, texts in zip(table.rows, cells):
        parts = []
        for number, (column, text) in enumerate(zip(columns, texts)):
            kind = "num" if column.is_number else "text"
            if number == 0:
                parts.append(f'<th scope="row" class="text">{escape(text)}</th>')
                continue
            mark = " best" if column.title == "WER %" and row.scales and row.errors.wer_percent == min(rates) else ""
            parts.append(f'<td class="{kind}{mark}">{escape(text)}</td>')
            if column.title.startswith("change") and intervals:
                parts.append(f'<td class="plot">{_interval(row, min(ends), max(ends))}</td>')
        kinds = [
            name for name, applies in (("baseline", row.name == table.baseline), ("bound", not row.scales)) if applies
        ]
        body.append(f'<tr class="{" ".join(kinds)}">{"".join(parts)}</tr>')
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.footnotes())
    return (
        f'<div class="scroll"><table class="results"><thead><tr>{"".join(head)}</tr></thead>\n'
        f'<tbody>\n{chr(10).join(body)}\n</tbody></table></div>\n<ul class="notes">{notes}</ul>'
    )


def _interval(row: SystemRow, low: float, high: float) -> str:
    """The change and its interval drawn on an axis that all rows share, zero marked; empty for a row that ranks nothing."""
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


def _curves(curves: Mapping[str, Sequence[Curve]]) -> str:
    figures = "".join(
        f"<figure><figcaption>{escape(system)}</figcaption>{draw_curve(curve)}</figure>"
        for system, drawn in curves.items()
        for curve in drawn
    )
    return (
        "<h2>WER over the scale</h2>\n<p>On the lists the scales were tuned on, with the other scales of the system as chosen. "
        "The dot is the chosen scale, the band around it the range with the same WER.</p>\n"
        f'<div class="figures">{figures}</div>'
    )


def _changes(changes: Mapping[str, Sequence[Change]], baseline: str) -> str:
    cards, rows = [], []
    for system, found in changes.items():
        counts = {
            verdict: sum(change.verdict == verdict for change in found) for verdict in ("better", "worse", "same")
        }
        gain = sum(change.gain for change in found)
        rows.append(
            f'<tr><th scope="row" class="text">{escape(system)}</th><td class="num">{len(found)}</td>'
            + "".join(f'<td class="num">{counts[verdict]}</td>' for verdict in counts)
            + f'<td class="num">{-gain:+d}</td></tr>'
        )
        cards += [_card(system, change, baseline, order) for order, change in enumerate(found)]
    options = "".join(f'<option value="{escape(system)}">{escape(system)}</option>' for system in changes)
    against = f" against “{escape(baseline)}”" if baseline else ""
    return f"""<h2>Utterances whose winner changed{against}</h2>
<div class="scroll"><table class="results counts"><thead><tr><th class="text">system</th><th class="num">changed</th>
<th class="num">better</th><th class="num">worse</th><th class="num">same errors</th><th class="num">errors</th></tr></thead>
<tbody>{"".join(rows)}</tbody></table></div>
<p class="legend"><span class="w fixed">changed and right</span> <span class="w broken">changed and wrong</span>
<span class="w wrong">wrong as before</span> <span class="w broken gap">missing word</span></p>
<form class="controls" id="controls">
<label>System <select name="system">{options}</select></label>
<fieldset><legend>Show</legend>
<label><input type="radio" name="verdict" value="" checked> all</label>
<label><input type="radio" name="verdict" value="better"> better</label>
<label><input type="radio" name="verdict" value="worse"> worse</label>
<label><input type="radio" name="verdict" value="same"> same</label></fieldset>
<label>Sort <select name="sort"><option value="list">as in the lists</option>
<option value="gain">best first</option><option value="loss">worst first</option></select></label>
<label>Find <input type="search" name="find" placeholder="word or utterance"></label>
<output name="count"></output></form>
<div id="changes">
{chr(10).join(cards)}
</div>"""


def _card(system: str, change: Change, baseline: str, order: int) -> str:
    old, new = mark_words(change)
    lines = (
        ("reference", escape(change.reference) or "<i>no words</i>", ""),
        (baseline or "before", _words(old), str(change.baseline_errors)),
        (system, _words(new), str(change.system_errors)),
    )
    body = "".join(
        f'<dt>{escape(name)}</dt><dd>{text}</dd><dd class="count">{errors}</dd>' for name, text, errors in lines
    )
    step = f"{change.baseline_errors} → {change.system_errors}"
    return (
        f'<article class="{change.verdict}" data-system="{escape(system)}" data-gain="{change.gain}" data-order="{order}">'
        f'<header><span class="badge">{change.verdict}</span> {step} errors <code>{escape(change.seq_tag)}</code></header>'
        f"<dl>{body}</dl></article>"
    )


def _words(words: Sequence[MarkedWord]) -> str:
    return " ".join(_word(word) for word in words) or "<i>no words</i>"


def _word(word: MarkedWord) -> str:
    if word.right and not word.changed:
        return escape(word.text)
    kind = "fixed" if word.right else "broken" if word.changed else "wrong"
    gap = ' gap" title="missing' if word.missing else ""
    return f'<span class="w {kind}{gap}">{escape(word.text)}</span>'


def _metadata(details: Mapping[str, Any]) -> str:
    items = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in details.items())
    return f'<h2>How it was made</h2>\n<dl class="metadata">{items}</dl>'
