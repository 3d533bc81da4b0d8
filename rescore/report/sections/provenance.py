"""The section with the information to reproduce the result: files, counts, models, versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rescore.nbest.types import NBestList
from rescore.report.result import RescoreResult
from rescore.report.sections.base import Section

_NAMES = {
    "tune": "lists to tune on",
    "tune_refs": "references of these",
    "test": "lists to test on",
    "test_refs": "references of these",
}


class Provenance(Section):
    """The metadata of the table as a table of names and values, and a table of the models."""

    title, anchor = "How it was made", "provenance"
    css = """
table.facts { border-collapse: collapse; font-size: 13px; margin: 0 0 16px; }
.facts th, .facts td { text-align: left; vertical-align: top; padding: 3px 18px 3px 0;
  border-bottom: 1px solid var(--faint); overflow-wrap: anywhere; }
.facts th { color: var(--soft); font-weight: 400; min-width: 7em; }
.facts td { font-family: ui-monospace, monospace; }
.facts td div + div { margin-top: 2px; }
"""

    def html(self, result: RescoreResult) -> str:
        facts = dict(result.table.metadata)
        models = facts.pop("models", {})
        items = [(_NAMES.get(name, name), _lines(value)) for name, value in facts.items()]
        if items:  # the counts alone are no account of how the table was made
            items += [
                (f"size of the {use} set", [_size(lists)])
                for use, lists in (("tuning", result.tune_lists), ("test", result.test_lists))
            ]
        tables = _table(items)
        if models:
            described = [(name, _lines(own)) for name, own in models.items()]
            tables += f"<h3>Models</h3>\n{_table(described)}"
        return tables


def _table(items: Sequence[tuple[str, Sequence[str]]]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th>'
        f"<td>{''.join(f'<div>{escape(line)}</div>' for line in lines)}</td></tr>\n"
        for name, lines in items
    )
    return f'<table class="facts"><tbody>\n{rows}</tbody></table>' if rows else ""


def _lines(value: Any) -> list[str]:
    """A value of the metadata as lines of text: one for each entry of a list, and for each pair of an object."""
    if isinstance(value, Mapping):
        return [f"{name}: {_text(entry)}" for name, entry in value.items()]
    if isinstance(value, (list, tuple)):
        return [_text(entry) for entry in value] or ["none"]
    return [_text(value)]


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(entry)}" for name, entry in value.items()) or "none"
    return str(value)


def _size(lists: Sequence[NBestList]) -> str:
    hypotheses = sum(len(utterance.hypotheses) for utterance in lists)
    return f"{len(lists):,} utterances, {hypotheses:,} hypotheses"
