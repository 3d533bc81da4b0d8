"""The style of the section of changed winners."""

from __future__ import annotations

CSS = """
table.counts { width: auto; margin-bottom: 14px; }
.w { border-radius: 3px; }
.fixed { background: var(--good-back); color: var(--good); }
.broken { background: var(--bad-back); color: var(--bad); text-decoration: underline wavy 1px;
  text-underline-offset: 3px; }
.wrong { text-decoration: underline dotted 1.5px var(--bad); text-underline-offset: 4px; }
.gap { text-decoration: line-through; }
.legend { font-size: 13px; display: flex; gap: 14px; flex-wrap: wrap; }
.controls { display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: center; padding: 10px 14px; margin: 0 0 14px;
  background: var(--card); border-radius: 8px; font-size: 14px; position: sticky; top: 0; z-index: 1; }
.controls[hidden] { display: none; }
.controls fieldset { border: 0; padding: 0; margin: 0; display: flex; flex-wrap: wrap; gap: 10px; }
.controls legend { float: left; padding: 0; margin-right: 8px; }
.controls select, .controls input[type=search], #more { font: inherit; color: inherit; background: var(--page);
  border: 1px solid var(--faint); border-radius: 5px; padding: 3px 6px; max-width: 100%; }
.controls label { max-width: 100%; }
.controls input[type=search] { width: 10em; }
.controls output { color: var(--soft); margin-left: auto; }
article { border-left: 4px solid var(--soft); background: var(--card); border-radius: 0 8px 8px 0;
  padding: 8px 14px 10px; margin-bottom: 10px; break-inside: avoid; }
article.better { border-color: var(--good); } article.worse { border-color: var(--bad); }
article header { font-size: 13px; color: var(--soft); margin-bottom: 3px; }
article code { float: right; font-size: 12px; overflow-wrap: anywhere; }
.badge { font-weight: 600; color: var(--ink); }
.better .badge { color: var(--good); } .worse .badge { color: var(--bad); }
.aligned { line-height: 1.45; }
.column { display: inline-block; vertical-align: top; margin: 0 1px 6px; max-width: 100%; overflow-wrap: anywhere; }
.column > span { display: block; width: max-content; max-width: 100%; padding: 0 1px; }
.column > :first-child { color: var(--soft); }
.labels > span { color: var(--soft); font-size: 12px; line-height: 21.75px; margin-right: 8px; }
.why { font-size: 13px; margin: 2px 0 0; max-width: none; overflow-wrap: anywhere; }
.why span { margin-right: 6px; white-space: nowrap; } .plus { color: var(--good); } .minus { color: var(--bad); }
article dl { display: grid; grid-template-columns: max-content 1fr max-content; gap: 1px 14px; margin: 0; }
article dt { color: var(--soft); font-size: 13px; max-width: 14em; overflow-wrap: anywhere; }
article dd { margin: 0; overflow-wrap: anywhere; }
article .count { color: var(--soft); font-variant-numeric: tabular-nums; }
@media (max-width: 700px) { article dl { grid-template-columns: 1fr max-content; } article dt { grid-column: 1 / -1; }
  .controls { position: static; } article code { float: none; display: block; } }
@media print { .controls, #more { display: none; } }
"""
