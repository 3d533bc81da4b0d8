"""The section with the information to reproduce the result, and the warnings of the tuning."""

from __future__ import annotations

from html import escape
from typing import Any

from rescore.report.result import RescoreResult
from rescore.report.sections.base import Section


class Provenance(Section):
    """The metadata of the table as a list of names and values."""

    title, anchor = "How it was made", "provenance"
    css = """
.metadata { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; font-size: 13px; margin: 0; }
.metadata dt { color: var(--soft); max-width: 22em; overflow-wrap: anywhere; }
.metadata dd { margin: 0; overflow-wrap: anywhere; font-family: ui-monospace, monospace; }
"""

    def html(self, result: RescoreResult) -> str:
        facts: dict[str, Any] = dict(result.table.metadata)
        warnings = [f"{row}: {warning}" for row, tuned in result.tuned.items() for warning in tuned.warnings]
        if warnings:
            facts["warnings"] = warnings
        items = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
        return f'<dl class="metadata">{items}</dl>' if items else ""
