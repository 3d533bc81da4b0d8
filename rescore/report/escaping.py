r"""Text from outside, such as names of rows and sets, as the plain words of a Markdown or LaTeX document.

    escape_markdown("a|b <i>")          # a\|b &lt;i&gt;
    escape_latex(r"50% \input{x}")      # 50\% \textbackslash{}input\{x\}
    latex_comment("two\nlines")         # % two lines

Whatever the text holds, it reads as it is: no markup, link, formula, command, second cell or second line comes of it.
HTML has `html.escape` of the standard library; data for a script go through `embedded_json`.
"""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

_MARKDOWN = {
    **{character: "\\" + character for character in "\\|*_`~#$"},
    "<": "&lt;",
    ">": "&gt;",
    "&": "&amp;",
}
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    '"': "''",  # because the straight quote needs a font encoding that not every document has
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    # After the line break of the previous row, these two would be read as its options.
    "[": "{[}",
    "*": "{*}",
}
# Syntax of links: a closed bracket before a target, and addresses without markup.
_LINK = re.compile(r"\](?=[(\[:])|://|\bwww\.|@", re.IGNORECASE)
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def escape_markdown(text: str) -> str:
    """Escape a text for a table cell, a heading or a list item."""
    escaped = "".join(_MARKDOWN.get(character, character) for character in _one_line(text))
    return _LINK.sub(lambda found: re.sub(r"[]:.@]", r"\\\g<0>", found.group()), escaped)


def escape_latex(text: str) -> str:
    """Escape a text for a cell of a `tabular`."""
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def latex_comment(text: str) -> str:
    """A text as one comment line, without line end."""
    return f"% {_one_line(text)}"


def embedded_json(element_id: str, value: Any) -> str:
    """A script element that holds data and is not run. No text in it can close the element or open a comment, because
    every "<" is written as an escape of JSON."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{escape(element_id)}">{text}</script>'


def _one_line(text: str) -> str:
    """Replace line breaks and control characters by blanks."""
    return _NO_TEXT.sub(" ", text)
