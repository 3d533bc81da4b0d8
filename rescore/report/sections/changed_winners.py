"""The section of the utterances whose winner changed, word by word.

Its script draws the cards of any two rows from embedded data. Without a script the first cards of the best row are
there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from rescore.report.changed_words import Change, MarkedWord, changed_winners, mark_words
from rescore.report.escaping import embedded_json
from rescore.report.result import RescoreResult
from rescore.report.sections.base import Section
from rescore.report.sections.changed_script import SCRIPT
from rescore.report.sections.changed_style import CSS
from rescore.report.winner_data import winner_data

_CARDS_WITHOUT_SCRIPT = 20


class ChangedWinners(Section):
    """For any two rows, the utterances whose winners have different words, and what each score had to do with it."""

    title, anchor = "Utterances whose winner changed", "changed"
    css = CSS
    script = SCRIPT

    def html(self, result: RescoreResult) -> str:
        baseline = result.table.baseline
        before = result.winners[baseline]
        changes = {
            row: changed_winners(result.test_lists, before, after)
            for row, after in result.winners.items()
            if row != baseline
        }
        changes = {row: found for row, found in changes.items() if found}
        if not changes:
            return ""
        best = max(changes, key=lambda row: sum(change.gain for change in changes[row]))
        data = winner_data(result)
        rows = [row["name"] for row in data["rows"]]
        cards = "\n".join(_card(best, change, baseline) for change in changes[best][:_CARDS_WITHOUT_SCRIPT])
        return f"""<p>Against the winners of “{escape(baseline)}”.</p>
{_counts(changes)}
<p class="legend"><span class="w fixed">changed and right</span> <span class="w broken">changed and wrong</span>
<span class="w wrong">wrong as before</span> <span>–: missing word</span></p>
<p>Below each utterance, each row's decision: the lead of the second winner over the first, in nats, as the sum of
scale times difference of every score; a row prefers the second if it is above zero.</p>
{_controls(rows, rows.index(baseline), rows.index(best))}
<p id="nothing" hidden>No utterance fits this choice.</p>
<div id="changes"></div>
<button type="button" id="more" hidden></button>
<noscript><p>The first {min(len(changes[best]), _CARDS_WITHOUT_SCRIPT)} of {len(changes[best])} changes of
“{escape(best)}”; a browser with JavaScript shows those of any two rows.</p>
{cards}</noscript>
{embedded_json("changed-data", data)}"""


def _counts(changes: Mapping[str, Sequence[Change]]) -> str:
    counted = []
    for row, found in changes.items():
        verdicts = [sum(change.verdict == verdict for change in found) for verdict in ("better", "worse", "same")]
        numbers = [str(len(found)), *map(str, verdicts), f"{-sum(change.gain for change in found):+d}"]
        cells = "".join(f'<td class="num">{number}</td>' for number in numbers)
        counted.append(f'<tr><th scope="row" class="text">{escape(row)}</th>{cells}</tr>')
    return f"""<div class="scroll"><table class="results counts"><thead><tr><th class="text">row</th>
<th class="num">changed</th><th class="num">better</th><th class="num">worse</th><th class="num">same errors</th>
<th class="num">errors</th></tr></thead>
<tbody>{"".join(counted)}</tbody></table></div>"""


def _controls(rows: Sequence[str], before: int, after: int) -> str:
    def options(chosen: int) -> str:
        return "".join(
            f'<option value="{index}"{" selected" if index == chosen else ""}>{escape(row)}</option>'
            for index, row in enumerate(rows)
        )

    return f"""<form class="controls" id="controls" hidden>
<label>Before <select name="before">{options(before)}</select></label>
<label>After <select name="after">{options(after)}</select></label>
<fieldset><legend>Show</legend>
<label><input type="radio" name="verdict" value="" checked> all</label>
<label><input type="radio" name="verdict" value="better"> better</label>
<label><input type="radio" name="verdict" value="worse"> worse</label>
<label><input type="radio" name="verdict" value="same"> same</label></fieldset>
<label>Sort <select name="sort"><option value="list">as in the lists</option>
<option value="gain">best first</option><option value="loss">worst first</option>
<option value="long">longest first</option><option value="short">shortest first</option>
<option value="name">by name</option></select></label>
<label>Find <input type="search" name="find" placeholder="words"></label>
<output name="count"></output></form>"""


def _card(row: str, change: Change, baseline: str) -> str:
    old, new = mark_words(change)
    lines = (
        ("reference", escape(change.reference) or "<i>no words</i>", ""),
        (baseline, _words(old), str(change.errors_before)),
        (row, _words(new), str(change.errors_after)),
    )
    body = "".join(
        f'<dt>{escape(name)}</dt><dd>{text}</dd><dd class="count">{errors}</dd>' for name, text, errors in lines
    )
    step = f"{change.errors_before} → {change.errors_after}"
    return (
        f'<article class="{change.verdict}"><header><span class="badge">{change.verdict}</span> {step} errors '
        f"<code>{escape(change.seq_tag)}</code></header>"
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
