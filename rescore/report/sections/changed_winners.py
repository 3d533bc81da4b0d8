"""The section of the utterances whose winner changed, word by word. Its script filters and sorts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from rescore.combination.scales import winners
from rescore.report.changed_words import Change, MarkedWord, changed_winners, mark_words
from rescore.report.result import RescoreResult
from rescore.report.sections.base import Section


class ChangedWinners(Section):
    """For each row, the utterances whose winner has other words than the winner of the baseline."""

    title, anchor = "Utterances whose winner changed", "changed"
    css = """
table.counts { width: auto; margin-bottom: 14px; }
.w { border-radius: 3px; padding: 0 3px; }
.fixed { background: var(--good-back); color: var(--good); }
.broken { background: var(--bad-back); color: var(--bad); text-decoration: underline wavy 1px;
  text-underline-offset: 3px; }
.wrong { text-decoration: underline dotted 1.5px var(--bad); text-underline-offset: 4px; padding: 0; }
.gap { text-decoration: line-through; opacity: .8; }
.legend { font-size: 13px; display: flex; gap: 14px; flex-wrap: wrap; }
.controls { display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: center; padding: 10px 14px; margin: 0 0 14px;
  background: var(--card); border-radius: 8px; font-size: 14px; position: sticky; top: 0; z-index: 1; }
.controls fieldset { border: 0; padding: 0; margin: 0; display: flex; gap: 10px; }
.controls legend { float: left; padding: 0; margin-right: 8px; }
.controls select, .controls input[type=search] { font: inherit; color: inherit; background: var(--page);
  border: 1px solid var(--faint); border-radius: 5px; padding: 3px 6px; }
.controls input[type=search] { width: 12em; }
.controls output { color: var(--soft); margin-left: auto; }
article { border-left: 4px solid var(--soft); background: var(--card); border-radius: 0 8px 8px 0;
  padding: 8px 14px 10px;
  margin-bottom: 10px; break-inside: avoid; }
article[hidden] { display: none; }
article.better { border-color: var(--good); } article.worse { border-color: var(--bad); }
article header { font-size: 13px; color: var(--soft); margin-bottom: 3px; }
article code { float: right; font-size: 12px; overflow-wrap: anywhere; }
.badge { font-weight: 600; color: var(--ink); }
.better .badge { color: var(--good); } .worse .badge { color: var(--bad); }
article dl { display: grid; grid-template-columns: max-content 1fr max-content; gap: 1px 14px; margin: 0; }
article dt { color: var(--soft); font-size: 13px; max-width: 14em; overflow-wrap: anywhere; }
article dd { margin: 0; overflow-wrap: anywhere; }
article .count { color: var(--soft); font-variant-numeric: tabular-nums; }
@media (max-width: 700px) { article dl { grid-template-columns: 1fr max-content; } article dt { grid-column: 1 / -1; } }
@media print { .controls { display: none; } }
"""
    script = """
const form = document.getElementById("controls"), list = document.getElementById("changes");
const cards = [...list.children];
const orders = {
  list: (a, b) => a.dataset.order - b.dataset.order,
  gain: (a, b) => b.dataset.gain - a.dataset.gain || orders.list(a, b),
  loss: (a, b) => a.dataset.gain - b.dataset.gain || orders.list(a, b),
};
function update() {
  const { row, verdict, sort, find, count } = form.elements;
  const wanted = find.value.trim().toLowerCase();
  let shown = 0;
  for (const card of cards) {
    card.hidden = card.dataset.row !== row.value || (verdict.value && !card.classList.contains(verdict.value))
      || !card.textContent.toLowerCase().includes(wanted);
    shown += !card.hidden;
  }
  list.append(...cards.sort(orders[sort.value]));
  count.value = shown + " utterance" + (shown === 1 ? "" : "s");
}
form.addEventListener("input", update);
form.addEventListener("submit", event => event.preventDefault());
update();
"""

    def html(self, result: RescoreResult) -> str:
        baseline = result.table.baseline
        before = winners(result.test_lists, result.scales[baseline])
        changes = {
            row: changed_winners(result.test_lists, before, winners(result.test_lists, scales))
            for row, scales in result.scales.items()
            if row != baseline
        }
        return _list_changes({row: found for row, found in changes.items() if found}, baseline)


def _list_changes(changes: Mapping[str, Sequence[Change]], baseline: str) -> str:
    if not changes:
        return ""
    cards, counted = [], []
    for row, found in changes.items():
        counts = {
            verdict: sum(change.verdict == verdict for change in found) for verdict in ("better", "worse", "same")
        }
        gain = sum(change.gain for change in found)
        counted.append(
            f'<tr><th scope="row" class="text">{escape(row)}</th><td class="num">{len(found)}</td>'
            + "".join(f'<td class="num">{counts[verdict]}</td>' for verdict in counts)
            + f'<td class="num">{-gain:+d}</td></tr>'
        )
        cards += [_card(row, change, baseline, order) for order, change in enumerate(found)]
    options = "".join(f'<option value="{escape(row)}">{escape(row)}</option>' for row in changes)
    return f"""<p>Against the winners of “{escape(baseline)}”.</p>
<div class="scroll"><table class="results counts"><thead><tr><th class="text">row</th><th class="num">changed</th>
<th class="num">better</th><th class="num">worse</th><th class="num">same errors</th>
<th class="num">errors</th></tr></thead>
<tbody>{"".join(counted)}</tbody></table></div>
<p class="legend"><span class="w fixed">changed and right</span> <span class="w broken">changed and wrong</span>
<span class="w wrong">wrong as before</span> <span class="w broken gap">missing word</span></p>
<form class="controls" id="controls">
<label>Row <select name="row">{options}</select></label>
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


def _card(row: str, change: Change, baseline: str, order: int) -> str:
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
        f'<article class="{change.verdict}" data-row="{escape(row)}" data-gain="{change.gain}" data-order="{order}">'
        f'<header><span class="badge">{change.verdict}</span> {step} errors '
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
