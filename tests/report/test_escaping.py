"""Names from outside are plain words in a document: read back by a Markdown parser they are one text, in LaTeX no
character is live."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from rescore.report.escaping import embedded_json, escape_latex, escape_markdown, latex_comment
from rescore.report.overview import read_overview
from rescore.report.table import ResultTable, Row
from rescore.wer import ErrorCounts

NASTY = [
    "a | b",
    "x\n\n# heading\r\n- item",
    "<script>alert(1)</script>",
    "<http://evil.example>",
    "[click](http://evil.example)",
    "![pixel][ref] [ref]: http://evil.example",
    "`code` ``",
    "**bold** _it_ ~~gone~~ $x^2$",
    "&lt;b&gt; &#124;",
    r"\| \\ \input{/etc/passwd}",
    "50% & #1 {~^}",
    "[1] first",
    "*",
    'see "www.evil.example" or http://evil.example, a@evil.example',
    "a\u2028b\u0085c\x00d",
]
NAMES = st.one_of(
    st.sampled_from(NASTY), st.text(min_size=1), st.lists(st.sampled_from(NASTY), max_size=3).map("".join)
)


def plain(text: str) -> str:
    """Controls and line breaks are blanks, as in a browser runs of blanks are one."""
    return " ".join(re.sub(r"[\x00-\x20\x7f-\xa0\u2028\u2029\s]+", " ", text).split())


def spoken(token) -> str:
    """The text of an inline token; nothing else may be in it."""
    assert {child.type for child in token.children} <= {"text", "text_special"}, token.children
    return "".join(child.content for child in token.children)


@given(NAMES)
@example("a\\")
@example("]\\(x)")
def test_markdown_reads_as_the_name(name):
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    document = f"### {escape_markdown(name)}\n\n| head | {escape_markdown(name)} |\n|---|---|\n| {escape_markdown(name)} | 1 |\n"
    tokens = parser.parse(document)
    kinds = [token.type for token in tokens if token.type.endswith("_open")]
    assert (
        kinds
        == ["heading_open", "table_open", "thead_open", "tr_open", "th_open", "th_open", "tbody_open", "tr_open"]
        + ["td_open"] * 2
    )
    texts = [spoken(token) for token in tokens if token.type == "inline"]
    assert [plain(text) for text in texts] == [plain(name), "head", plain(name), plain(name), "1"]


@given(NAMES)
def test_bare_addresses_are_no_links(name):
    assert not re.search(r"(?<!\\):(?=//)|\bwww\.|(?<!\\)@", escape_markdown(name), re.IGNORECASE)


@given(NAMES)
def test_latex_has_no_live_character(name):
    escaped = escape_latex(name)
    assert "\n" not in escaped and "\r" not in escaped
    assert not escaped.lstrip().startswith(("[", "*"))  # behind \\ these are its options
    known = r"\\[&%$#_{}]|\\text(backslash|asciitilde|asciicircum)\{\}|\$(<|>|\||\\dagger|\\ddagger)\$|\{[\[*]\}"
    rest = re.sub(known, "", escaped)
    assert not set(rest) & set('\\&%$#_{}~^<>|"[*')
    assert len(latex_comment(name).splitlines()) == 1 and latex_comment(name).startswith("% ")


@given(NAMES)
@example("<!--<script>")
@example("</SCRIPT >")
def test_embedded_data_come_back_and_close_nothing(name):
    """There is one element, with nothing that an HTML parser could take for a tag or a comment."""
    element = embedded_json("data", {name: [name]})
    inside = element.removeprefix('<script type="application/json" id="data">').removesuffix("</script>")
    assert "<" not in inside
    assert json.loads(inside) == {name: [name]}


@pytest.fixture(params=NASTY)
def table(request) -> ResultTable:
    rows = [Row(name, ErrorCounts(1, 0, 0, 4)) for name in ("base", request.param)]
    return ResultTable(request.param, rows, baseline=request.param, scales_from=request.param)


def test_report_and_overview_escape_every_name(table, tmp_path):
    """Title, rows, sets, baseline: in a table, in a note, in a comment."""
    table.save(tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["rows"][1]["system"] == table.rows[1].name
    set_name = table.title.replace("=", "")
    overview = read_overview([f"{set_name}={tmp_path / 't.json'}"], title=table.title, tuned_on=set_name)
    for made in (table, overview):
        rendered = MarkdownIt("commonmark").enable("table").render(made.to_markdown())
        kinds: list[str] = []
        parser = HTMLParser()
        parser.handle_starttag = lambda tag, attrs, kinds=kinds: kinds.append(tag)
        parser.feed(rendered)
        assert set(kinds) <= {"h3", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
        assert (kinds.count("table"), kinds.count("tr")) == (1, 3)
        lines = made.to_latex().splitlines()
        body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
        start = next(place for place, line in enumerate(lines) if line.startswith(r"\begin{tabular}"))
        assert len(body) == 2 and all(line.startswith("% ") for line in lines[:start])
        assert r"\input" not in "".join(body)
        columns = re.search(r"\{tabular\}\{(\w+)\}", lines[start]).group(1)
        assert all(len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1 for line in body)
