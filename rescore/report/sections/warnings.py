"""The section of what to look at before the numbers: warnings, and the words that the LMs do not know."""

from __future__ import annotations

from html import escape

from rescore.report.result import RescoreResult
from rescore.report.sections.base import Section

_MARK = "warning: "


class Warnings(Section):
    """The warnings of the run, of the table and of the tuning, each once, and a line for each LM with unknown words."""

    title, anchor = "Warnings and unknown words", "warnings"
    css = """
.warnings { border-left: 4px solid var(--bad); background: var(--bad-back); margin: 0 0 12px;
  padding: 8px 14px 8px 30px; border-radius: 0 8px 8px 0; overflow-wrap: anywhere; }
"""

    def html(self, result: RescoreResult) -> str:
        warnings = _warnings(result)
        unknown = {name: value for name, value in result.table.unknown.items() if value.count}
        parts = []
        if warnings:
            parts.append(f'<ul class="warnings">{"".join(f"<li>{escape(text)}</li>" for text in warnings)}</ul>')
        if unknown:
            items = "".join(f"<li>{escape(name)}: {escape(str(value))}</li>" for name, value in unknown.items())
            parts.append(f"<p>Not known to the LMs, in all hypotheses of the lists to test on:</p><ul>{items}</ul>")
        return "\n".join(parts)


def _warnings(result: RescoreResult) -> list[str]:
    """All warnings; one that the tuning of several rows gave names all of them."""
    rows: dict[str, list[str]] = {}
    for row, tuned in result.tuned.items():
        for warning in tuned.warnings:
            rows.setdefault(warning, []).append(f"“{row}”")
    tuning = [f"{'rows' if len(names) > 1 else 'row'} {', '.join(names)}: {warning}" for warning, names in rows.items()]
    notes = [note.removeprefix(_MARK) for note in result.notes if note.startswith(_MARK)]
    return [*notes, *result.table.warnings(), *tuning]
