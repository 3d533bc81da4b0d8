"""The report as one self-contained HTML page: the title and all sections.

    write_report("out/report.html", result)             # result: a RescoreResult of rescore.pipeline.rescore

The page loads no other file, font or script, so it works offline; it can be printed and has a light and a dark mode.
All text is escaped, and the content security policy of the page forbids all scripts except those of its sections.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape

from rescore.report.result import RescoreResult
from rescore.report.sections import SECTIONS
from rescore.report.style import STYLE
from returnn_bridge.files import PathLike, write_text


def write_report(path: PathLike, result: RescoreResult) -> None:
    """Write the page, atomically. Changes are measured against the baseline of the table."""
    write_text(path, render_html(result))


def render_html(result: RescoreResult) -> str:
    """The page as text, with every section that is not empty."""
    shown = [(section, body) for section in SECTIONS.values() if (body := section.html(result))]
    parts = []
    for section, body in shown:
        heading = f"<h2>{escape(section.title)}</h2>\n" if section.title else ""
        parts.append(f'<section id="{escape(section.anchor)}">\n{heading}{body}\n</section>')
    style = "".join([STYLE, *(section.css for section, _ in shown)])
    # A block for each script, so that their names do not clash.
    script = "".join(f"{{{section.script}}}\n" for section, _ in shown if section.script)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    title = escape(result.table.title)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        + "\n".join(parts)
        + "\n</main>\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )
