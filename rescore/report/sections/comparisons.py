"""The section of the differences between all pairs of rows, with their intervals and probabilities."""

from __future__ import annotations

from html import escape

from rescore.report.escaping import embedded_json
from rescore.report.result import RescoreResult
from rescore.report.sections.base import Section
from rescore.wer import BootstrapResult, paired_matrix


class Comparisons(Section):
    """A matrix of the change of each row against each other; its script lists them against a row to be chosen. With
    fewer than three rows the table of results says the same, and with one utterance there is nothing to draw from."""

    title, anchor = "All pairs of rows", "comparisons"
    css = """
.pairs { width: auto !important; } .pairs .lower { background: var(--good-back); color: var(--good); }
.pairs .higher { background: var(--bad-back); color: var(--bad); } .pairs .own { color: var(--soft); }
.results.pairs thead th { max-width: 11em; overflow-wrap: break-word; }
#against { margin: 18px 0 6px; font-size: 14px; } #against[hidden], #against-rows[hidden] { display: none; }
#against select { font: inherit; color: inherit; background: var(--page); border: 1px solid var(--faint);
  border-radius: 5px; padding: 3px 6px; max-width: 100%; }
"""
    script = """
const { names, changes, baseline } = JSON.parse(document.getElementById("comparison-data").textContent);
const form = document.getElementById("against"), table = document.getElementById("against-rows");
const signed = value => (value < 0 ? "\\u2212" : "+") + Math.abs(value).toFixed(2);
function update() {
  const against = +form.elements.row.value;
  const lines = names.map((name, index) => ({ name, index, found: changes[against][index] }))
    .filter(({ index }) => index !== against);
  table.tBodies[0].replaceChildren(...lines.map(({ name, found: [change, low, high, probability] }) => {
    const line = document.createElement("tr");
    const interval = `${signed(low)} \\u2026 ${signed(high)}`;
    const texts = [name, signed(change), interval, (100 * probability).toFixed(1) + " %"];
    line.append(...texts.map((text, place) => {
      const cell = document.createElement(place ? "td" : "th");
      const side = place !== 1 ? "" : high < 0 ? " lower" : low > 0 ? " higher" : "";
      cell.className = (place ? "num" : "text") + side;
      cell.textContent = text;
      return cell;
    }));
    return line;
  }));
}
form.elements.row.value = baseline;
form.addEventListener("input", update);
form.addEventListener("submit", event => event.preventDefault());
form.hidden = table.hidden = false;
update();
"""

    def html(self, result: RescoreResult) -> str:
        drawn = range(len(result.test_lists)) if result.groups is None else set(result.groups)
        if len(result.scales) < 3 or len(drawn) < 2:
            return ""
        errors = [result.errors.errors_of(chosen) for chosen in result.winners.values()]
        matrix = paired_matrix(errors, result.errors.reference_words, seed=result.seed, groups=result.groups)
        names = list(result.scales)
        head = "".join(f'<th scope="col" class="num">{escape(name)}</th>' for name in names)
        body = "\n".join(
            f'<tr><th scope="row" class="text">{escape(name)}</th>'
            + "".join(_cell(matrix[other][own], own == other) for other in range(len(names)))
            + "</tr>"
            for own, name in enumerate(names)
        )
        options = "".join(f'<option value="{index}">{escape(name)}</option>' for index, name in enumerate(names))
        data = {
            "names": names,
            "baseline": names.index(result.table.baseline),
            "changes": [[_numbers(found) for found in line] for line in matrix],
        }
        return f"""<p>Points of WER of the row on the left against the row above. Coloured if the 95 % interval of the
paired bootstrap leaves out zero: <span class="pairs"><span class="lower">fewer errors</span>,
<span class="higher">more errors</span></span>. With many pairs, one in twenty of equal ones is coloured by chance.</p>
<div class="scroll"><table class="results pairs"><thead><tr><th scope="col" class="text">row</th>{head}</tr></thead>
<tbody>
{body}
</tbody></table></div>
<form id="against" hidden><label>Against <select name="row">{options}</select></label></form>
<div class="scroll"><table class="results pairs" id="against-rows" hidden><thead><tr>
<th scope="col" class="text">row</th>
<th scope="col" class="num">change</th>
<th scope="col" class="num">95 % interval</th>
<th scope="col" class="num">probability of improvement</th></tr></thead><tbody></tbody></table></div>
{embedded_json("comparison-data", data)}"""


def _cell(found: BootstrapResult, is_own: bool) -> str:
    if is_own:
        return '<td class="num own">·</td>'
    kind = " lower" if found.high < 0 else " higher" if found.low > 0 else ""
    return f'<td class="num{kind}" title="{found.low:+.2f} … {found.high:+.2f}">{found.difference_percent:+.2f}</td>'


def _numbers(found: BootstrapResult) -> list[float]:
    """The numbers that the script shows, to no more digits than it can show."""
    return [
        *(round(value, 4) for value in (found.difference_percent, found.low, found.high)),
        round(found.probability_of_improvement, 5),
    ]
