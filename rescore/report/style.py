"""Style and script of the HTML page. The script only shows, hides and orders the elements that are there."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5d6778; --faint: #e3e7ee; --page: #ffffff; --card: #f7f8fb;
  --accent: #2456c4; --good: #0b7a4b; --good-back: #d9f3e5; --bad: #b3261e; --bad-back: #fbe0dd; --band: #2456c422; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9f0; --soft: #9aa5b8; --faint: #2c3442; --page: #12161d;
  --card: #1a202a; --accent: #86aaff; --good: #6bd6a4; --good-back: #153d2c; --bad: #ff9b92; --bad-back: #4a1f1c;
  --band: #86aaff2e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 1400px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 18px; }
h2 { font-size: 19px; margin: 40px 0 8px; }
p { margin: 0 0 12px; color: var(--soft); max-width: 80ch; }
.scroll { overflow-x: auto; }
table.results { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
table.counts { width: auto; margin-bottom: 14px; }
.results th, .results td { padding: 6px 10px; border-bottom: 1px solid var(--faint); white-space: nowrap; font-weight: 400; }
.results thead th { color: var(--soft); font-size: 13px; border-bottom: 2px solid var(--ink); vertical-align: bottom; white-space: normal; }
.results tbody th { font-weight: 600; }
.results .num { text-align: right; }
.results .text { text-align: left; }
.results td.text { color: var(--soft); font-size: 13px; white-space: normal; min-width: 11em; }
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
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 16px; }
figure { margin: 0; padding: 12px 12px 6px; background: var(--card); border-radius: 8px; break-inside: avoid; }
figcaption { font-weight: 600; margin-bottom: 4px; }
figure svg { display: block; width: 100%; height: auto; }
figure text { font-size: 11px; fill: var(--soft); }
figure .mid { text-anchor: middle; } figure .end { text-anchor: end; } figure .start { text-anchor: start; }
figure .label { fill: var(--ink); font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 4px; } figure .name { fill: var(--ink); }
figure .grid { stroke: var(--faint); } figure .axis { stroke: var(--soft); }
figure .curve { fill: none; stroke: var(--accent); stroke-width: 1.6; stroke-linejoin: round; }
figure .plateau { fill: var(--band); }
figure .chosen { fill: var(--accent); stroke: var(--page); stroke-width: 1.5; }
.w { border-radius: 3px; padding: 0 3px; }
.fixed { background: var(--good-back); color: var(--good); }
.broken { background: var(--bad-back); color: var(--bad); text-decoration: underline wavy 1px; text-underline-offset: 3px; }
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
article { border-left: 4px solid var(--soft); background: var(--card); border-radius: 0 8px 8px 0; padding: 8px 14px 10px;
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
.metadata { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; font-size: 13px; margin: 0; }
.metadata dt { color: var(--soft); max-width: 22em; overflow-wrap: anywhere; }
.metadata dd { margin: 0; overflow-wrap: anywhere; font-family: ui-monospace, monospace; }
@media (max-width: 700px) { article dl { grid-template-columns: 1fr max-content; } article dt { grid-column: 1 / -1; } }
@media print { :root { color-scheme: light; } .controls { display: none; } main { max-width: none; padding: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

SCRIPT = """
const form = document.getElementById("controls"), list = document.getElementById("changes");
const cards = [...list.children];
const orders = {
  list: (a, b) => a.dataset.order - b.dataset.order,
  gain: (a, b) => b.dataset.gain - a.dataset.gain || orders.list(a, b),
  loss: (a, b) => a.dataset.gain - b.dataset.gain || orders.list(a, b),
};
function update() {
  const { system, verdict, sort, find, count } = form.elements;
  const wanted = find.value.trim().toLowerCase();
  let shown = 0;
  for (const card of cards) {
    card.hidden = card.dataset.system !== system.value || (verdict.value && !card.classList.contains(verdict.value))
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
