"""The style that all sections of the HTML page share: colours, headings, tables."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5d6778; --faint: #e3e7ee; --page: #ffffff; --card: #f7f8fb;
  --accent: #2456c4; --good: #0b7a4b; --good-back: #d9f3e5; --bad: #b3261e; --bad-back: #fbe0dd; --band: #2456c422; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9f0; --soft: #9aa5b8; --faint: #2c3442; --page: #12161d;
  --card: #1a202a; --accent: #86aaff; --good: #6bd6a4; --good-back: #153d2c; --bad: #ff9b92; --bad-back: #4a1f1c;
  --band: #86aaff2e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
main { max-width: 1400px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 18px; }
h2 { font-size: 19px; margin: 40px 0 8px; }
h3 { font-size: 15px; margin: 18px 0 6px; }
p { margin: 0 0 12px; color: var(--soft); max-width: 80ch; }
.scroll { overflow-x: auto; }
table.results { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.results th, .results td { padding: 6px 10px; border-bottom: 1px solid var(--faint); white-space: nowrap;
  font-weight: 400; }
.results thead th { color: var(--soft); font-size: 13px; border-bottom: 2px solid var(--ink); vertical-align: bottom;
  white-space: normal; }
.results tbody th { font-weight: 600; }
.results .num { text-align: right; }
.results .text { text-align: left; }
.results td.text { color: var(--soft); font-size: 13px; white-space: normal; min-width: 11em; }
.scroll tbody th, .scroll thead th:first-child { position: sticky; left: 0; background: var(--page); }
@media (max-width: 700px) { main { padding: 20px 16px 40px; } .results th, .results td { padding: 5px 8px; }
  .results tbody th { min-width: 6em; max-width: 34vw; white-space: normal; overflow-wrap: break-word;
    font-size: 13px; } }
@media print { :root { color-scheme: light; } main { max-width: none; padding: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
