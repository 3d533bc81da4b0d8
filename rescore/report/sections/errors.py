"""The section of the errors of each row: in which utterances they are, and which words they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from rescore.combination.rows import ORACLE
from rescore.report.error_analysis import (
    Bin,
    WordErrors,
    binned_wer,
    length_bins,
    margin_bins,
    margins,
    word_errors,
)
from rescore.report.result import RescoreResult
from rescore.report.sections.base import Section
from rescore.wer import ErrorTable, IntArray

_SHOWN = 10


class Errors(Section):
    """WER by length of the reference and by margin of the first pass, and the words most often wrong, for each row."""

    title, anchor = "Where the errors are", "errors"
    css = """
.words { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 0 24px; margin: 4px 0 16px; }
.words table.results { width: auto; } .words .results td, .words .results th { padding: 2px 10px 2px 0; }
.words .results td.text { min-width: 0; color: var(--ink); overflow-wrap: anywhere; }
#errors summary { cursor: pointer; font-weight: 600; padding: 4px 0; overflow-wrap: anywhere; }
"""

    def html(self, result: RescoreResult) -> str:
        lists = result.test_lists
        if not lists:
            return ""
        table, chosen = result.errors, result.winners
        parts = [
            "<h3>WER % by length of the reference</h3>",
            _by_bin(length_bins(table.reference_words), chosen, table),
        ]
        baseline = result.table.baseline
        first = (
            baseline
            if result.scales[baseline].scores
            else next((name for name, scales in result.scales.items() if scales.scores), None)
        )
        if first is not None:
            bins = margin_bins(margins(lists, result.scales[first]))
            parts += [
                "<h3>WER % by margin</h3>",
                f"<p>Margin: how far the winner of “{escape(first)}” is above its best hypothesis with other words, in "
                "nats. The utterances are split into four parts of about equal size; the first pass is least sure of "
                "those on the left.</p>",
                _by_bin(bins, chosen, table),
            ]
        best = min(chosen, key=lambda name: int(table.errors_of(chosen[name]).sum()))
        parts.append("<h3>Words most often wrong</h3>")
        parts += [_words(name, word_errors(lists, own), name == best) for name, own in chosen.items()]
        return "\n".join(parts)


def _by_bin(bins: Sequence[Bin], chosen: Mapping[str, IntArray], table: ErrorTable) -> str:
    head = "".join(
        f'<th scope="col" class="num">{escape(each.name)}<br>{each.utterances.size:,} utt.</th>' for each in bins
    )
    body = []
    for name, own in {**chosen, ORACLE: table.oracle_winners()}.items():
        rates = binned_wer(bins, table.errors_of(own), table.reference_words)
        cells = "".join(f'<td class="num">{"" if rate is None else f"{rate:.2f}"}</td>' for rate in rates)
        kind = ' class="bound"' if name == ORACLE else ""
        body.append(f'<tr{kind}><th scope="row" class="text">{escape(name)}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table class="results"><thead><tr><th scope="col" class="text">system</th>{head}</tr>'
        f"</thead>\n<tbody>\n{chr(10).join(body)}\n</tbody></table></div>"
    )


def _words(row: str, errors: WordErrors, is_open: bool) -> str:
    confused = [(f"{reference} → {word}", count) for (reference, word), count in errors.confusions.most_common(_SHOWN)]
    tables = (
        _top("confused, reference → row", confused, errors.confusions.total()),
        _top("deleted", errors.deleted.most_common(_SHOWN), errors.deleted.total()),
        _top("inserted", errors.inserted.most_common(_SHOWN), errors.inserted.total()),
    )
    return (
        f"<details{' open' if is_open else ''}><summary>{escape(row)}</summary>"
        f'<div class="words">{"".join(tables)}</div></details>'
    )


def _top(title: str, counts: Sequence[tuple[str, int]], total: int) -> str:
    body = "".join(
        f'<tr><td class="text">{escape(word)}</td><td class="num">{count}</td></tr>' for word, count in counts
    )
    return (
        f'<table class="results"><thead><tr><th scope="col" class="text">{escape(title)}</th>'
        f'<th scope="col" class="num">{total:,} in all</th></tr></thead><tbody>{body}</tbody></table>'
    )
