"""Laws of the report: numbers come back from every format, footnotes only where due, the page runs nothing that it
was given."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescore.combination.scales import Scales, best_texts, winners
from rescore.combination.tuning import tune
from rescore.nbest import read_sources
from rescore.nbest.references import attach_references, read_references
from rescore.nbest.types import Hypothesis, NBestList
from rescore.report.changed_words import Change, changed_winners, mark_words
from rescore.report.page import render_html, write_report
from rescore.report.result import RescoreResult
from rescore.report.sections import SECTIONS
from rescore.report.sections.base import Section
from rescore.report.table import ResultTable, Row, evaluate
from rescore.scores import UnknownCounts
from rescore.wer import ErrorCounts, count_errors, error_table, paired_bootstrap

DEMO = Path(__file__).parents[2] / "data" / "demo"
FIRST_PASS = Scales({"am": 1.0, "bigram": 0.7}, words=1.0)
NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&|_$%[\\"
WORDS = st.lists(st.sampled_from("abc"), max_size=6).map(" ".join)


def demo_lists(name: str) -> list[NBestList]:
    lists = read_sources([str(DEMO / f"{name}.nbest.py.gz"), f"bigram={DEMO}/{name}.bigram.py.gz"])
    return attach_references(lists, read_references(DEMO / f"{name}.ref.py.gz"))


def measured_lists() -> list[NBestList]:
    """Two utterances, scores of a bound with its details, of an exact LM, and of an acoustic model without details."""
    bound = {"standard_error": 0.3, "num_passes": 8, "target": "elbo"}
    other = {"standard_error": 0.4, "num_passes": 4, "target": "pll"}
    exact = {"standard_error": 0.0, "num_passes": 1, "target": "log p"}
    details = {"masked": bound, "uniform": other, "ar": exact}

    def hypothesis(text: str, am: float, lm: float) -> Hypothesis:
        return Hypothesis(text, {"am": am, "masked": lm, "uniform": lm, "ar": lm}, details)

    return [
        NBestList("u1", (hypothesis("a x", -1, -9), hypothesis("a b", -2, -3)), "a b"),
        NBestList("u2", (hypothesis("c d", -1, -9), hypothesis("d", -2, -3)), "c d"),
    ]


def small_table(name: str = "+ LM", title: str = "test") -> ResultTable:
    lists = measured_lists()
    systems = {"acoustic": Scales({"am": 1.0}), name: Scales({"am": 1.0, "masked": 0.5, "uniform": 0.5})}
    rows = evaluate(lists, systems, baseline="acoustic", seed=1, seconds={name: 12.34})
    return ResultTable(title, rows, baseline="acoustic", scales_from="tuned on dev", metadata={"seed": 1})


def test_figures_of_the_demo_lists() -> None:
    """Acoustic only, first pass and oracle as in data/demo/README.md, from the files alone."""
    lists = demo_lists("test")
    rows = evaluate(
        lists, {"first pass": FIRST_PASS, "acoustic only": Scales({"am": 1.0})}, baseline="first pass", seed=1
    )
    assert [f"{row.errors.wer_percent:.2f}" for row in rows] == ["26.76", "31.63", "17.97"]


def test_a_row_holds_what_the_lists_say() -> None:
    first, second, oracle = small_table().rows
    assert (first.errors, first.change) == (ErrorCounts(1, 0, 0, 4), None)
    assert (first.targets, first.score_standard_error, first.passes_per_hypothesis) == ((), None, None)
    assert second.errors == ErrorCounts(0, 1, 0, 4)
    # Two bounds of independent errors 0.3 and 0.4 nats, and 8 + 4 passes for each hypothesis.
    assert second.targets == ("elbo", "pll")
    assert second.score_standard_error == pytest.approx(0.5)
    assert (second.passes_per_hypothesis, second.seconds) == (12.0, 12.34)
    table = error_table(measured_lists())
    assert second.change == paired_bootstrap([1, 0], [0, 1], table.reference_words, seed=1)
    assert (oracle.name, oracle.errors.errors, oracle.scales) == ("oracle", 0, None)


def test_exact_scores_and_scores_of_scale_zero() -> None:
    systems = {
        "ar": Scales({"am": 1.0, "ar": 0.5, "masked": 0.0}),
        "both": Scales({"am": 1.0, "ar": 0.5, "masked": 1.0}),
    }
    rows = evaluate(measured_lists(), systems, baseline="ar", seed=1)
    assert [(row.targets, row.passes_per_hypothesis) for row in rows] == [
        (("log p",), 1.0),
        (("log p", "elbo"), 9.0),
        ((), None),
    ]


def test_one_utterance_or_group_has_no_interval() -> None:
    lists = measured_lists()
    systems = {"acoustic": Scales({"am": 1.0}), "other": Scales({"am": -1.0})}
    for chosen, groups in ((lists[:1], None), (lists, ["speaker"] * len(lists))):
        rows = evaluate(chosen, systems, baseline="acoustic", seed=1, groups=groups)
        assert all(row.wer_standard_error is None and row.change is None for row in rows)
        text = ResultTable("t", rows, baseline="acoustic").to_markdown()
        assert "±" not in text and "[" not in text


def test_clear_errors() -> None:
    lists = measured_lists()
    with pytest.raises(ValueError, match="baseline 'first' is not among the rows; expected one of acoustic"):
        evaluate(lists, {"acoustic": Scales({"am": 1.0})}, baseline="first", seed=1)
    with pytest.raises(ValueError, match="seconds given for 'x'"):
        evaluate(lists, {"acoustic": Scales({"am": 1.0})}, baseline="acoustic", seed=1, seconds={"x": 1.0})
    row = Row("a", ErrorCounts(0, 0, 0, 4))
    with pytest.raises(ValueError, match="no rows"):
        ResultTable("t", [])
    with pytest.raises(ValueError, match="the baseline 'b' is not in the table; expected one of a"):
        ResultTable("t", [row], baseline="b")
    with pytest.raises(ValueError, match=r"\[4, 5\] reference words; expected the same lists"):
        ResultTable("t", [row, Row("b", ErrorCounts(0, 0, 0, 5))])
    with pytest.raises(ValueError, match="no baseline is named"):
        ResultTable("t", small_table().rows)
    with pytest.raises(ValueError, match=r"out\.pdf: unknown table format; expected a name ending in \.md, \.csv"):
        small_table().save("out.pdf")


def test_markdown_is_aligned_and_escaped() -> None:
    table = small_table("+ a|b_c")
    lines = [line for line in table.to_markdown().split("\n") if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert r"+ a\|b\_c" in lines[3]
    rules, cells = lines[1].split("|")[1:-1], lines[2].split("|")[1:-1]
    assert [rule.endswith(":") for rule in rules][:5] == [False, True, True, True, True]
    assert all(
        cell.endswith(" ") and not cell.endswith("  ")
        for cell, rule in zip(cells, rules)
        if rule.endswith(":") and cell.strip()
    )


def test_latex_has_no_live_characters() -> None:
    text = small_table("[1] 50% & $x_1$ #2 {~^} \\input{/etc/passwd}").to_latex()
    row = next(line for line in text.split("\n") if "50" in line and not line.startswith("%"))
    assert row.startswith(r"{[}1] 50\% \& \$x\_1\$ \#2 \{\textasciitilde{}\textasciicircum{}\} \textbackslash{}input\{")
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    assert re.sub(r"\\&", "", row).count("&") == len(columns) - 1


def test_csv_and_json_hold_all_digits() -> None:
    table = small_table()
    found = json.loads(table.to_json())
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    for row, record, fields in zip(table.rows, found["rows"], rows, strict=True):
        assert record["system"] == fields["system"] == row.name
        assert record["wer_percent"] == float(fields["wer_percent"]) == row.errors.wer_percent
        counts = [int(fields[name]) for name in ("substitutions", "deletions", "insertions", "reference_words")]
        assert ErrorCounts(*counts) == row.errors
        if row.scales:
            assert Scales.from_json(record["scales"]) == Scales.from_json(json.loads(fields["scales"])) == row.scales
        if row.change:
            assert record["change_low"] == float(fields["change_low"]) == row.change.low
        else:
            assert (record["change_low"], fields["change_low"]) == (None, "")
    assert (found["baseline"], found["metadata"], found["scales_from"]) == ("acoustic", {"seed": 1}, "tuned on dev")


def test_footnotes_only_where_due() -> None:
    full = " ".join(small_table().footnotes())
    for part in (
        "4 reference words",
        "paired bootstrap",
        "Scales: tuned on dev.",
        "bound",
        "nats",
        "network",
        "oracle",
    ):
        assert part in full
    bare = ResultTable("t", [Row("a", ErrorCounts(1, 0, 0, 4), Scales({"am": 1.0}))]).footnotes()
    assert bare == ["WER: all word errors (S, D, I) over all 4 reference words.", "Scales: as given."]


def test_saved_in_the_format_of_the_suffix(tmp_path: Path) -> None:
    table = small_table()
    for suffix, text in (
        ("md", table.to_markdown()),
        ("csv", table.to_csv()),
        ("json", table.to_json()),
        ("tex", table.to_latex()),
    ):
        table.save(tmp_path / f"table.{suffix}")
        assert (tmp_path / f"table.{suffix}").read_text(encoding="utf-8") == text


@given(WORDS, WORDS, WORDS)
def test_marks_agree_with_the_counts(reference: str, before: str, after: str) -> None:
    change = Change(
        "u", reference, before, after, count_errors(reference, before).errors, count_errors(reference, after).errors
    )
    for marked, text, errors in zip(mark_words(change), (before, after), (change.errors_before, change.errors_after)):
        assert [word.text for word in marked if not word.missing] == text.split()
        counts = count_errors(reference, text)
        assert sum(word.right for word in marked) == counts.reference_words - counts.substitutions - counts.deletions
        inserted_and_substituted = sum(not word.right and not word.missing for word in marked)
        assert inserted_and_substituted + sum(word.missing for word in marked) == errors
    old, new = mark_words(change)
    assert [w.text for w in old if not w.changed and not w.missing] == [
        w.text for w in new if not w.changed and not w.missing
    ]
    if before == after:
        assert not any(word.changed for word in [*old, *new])


def test_changed_winners_are_those_with_other_words() -> None:
    lists = [
        NBestList("u1", (Hypothesis("a b"), Hypothesis("a c")), "a c"),
        NBestList("u2", (Hypothesis("a b"), Hypothesis("a  b")), "a b"),
        NBestList("u3", (Hypothesis("a b"), Hypothesis("x")), "a b"),
    ]
    changes = changed_winners(lists, np.array([0, 0, 0]), np.array([1, 1, 1]))
    assert [(change.seq_tag, change.verdict, change.gain) for change in changes] == [
        ("u1", "better", 1),
        ("u3", "worse", -2),
    ]
    with pytest.raises(ValueError, match="utterance 'u1' has no reference"):
        changed_winners([replace(lists[0], reference=None)], np.array([0]), np.array([1]))


class Page(HTMLParser):
    """What a browser would see: elements, their attributes, scripts, and whether all tags are closed in order."""

    VOID = frozenset({"meta", "input", "br", "link", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.data: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            is_data = self.elements[-1][1].get("type") == "application/json"
            (self.data if is_data else self.scripts).append(data)


def nasty_page() -> str:
    """Every text that can come from outside is hostile: hypothesis, reference, tag, system, score name, title,
    metadata."""
    lists = [
        NBestList(
            NASTY,
            (Hypothesis(f"a {NASTY}", {"am": 1.0, NASTY: 0.0}), Hypothesis("b", {"am": 0.0, NASTY: 1.5})),
            f"b {NASTY}",
        )
    ]
    result = tune(lists, free={NASTY: (0, 2)})
    rows = {f"base {NASTY}": Scales({"am": 1.0}), NASTY: Scales({"am": 1.0, NASTY: 1.0})}
    measured = evaluate(lists, rows, baseline=f"base {NASTY}", seed=1)
    table = ResultTable(NASTY, measured, baseline=f"base {NASTY}", scales_from=NASTY, metadata={NASTY: NASTY})
    page = render_html(RescoreResult(table, {NASTY: result}, rows, lists, lists))
    assert page.count("<article") == 1
    return page


def test_hostile_texts_do_not_run() -> None:
    page = nasty_page()
    parsed = Page(page)
    names = [name for name, _ in parsed.elements]
    assert names.count("script") == 2 and len(parsed.scripts) == 1 and len(parsed.data) == 1
    (utterance,) = json.loads(parsed.data[0])["utterances"]
    assert utterance["tag"] == NASTY and utterance["winners"][0][1] == f"a {NASTY}"
    assert "<" not in parsed.data[0]
    assert not {"img", "iframe", "object", "link"} & set(names)
    assert not [key for _, attributes in parsed.elements for key in attributes if key.startswith("on")]
    policy = next(
        attributes["content"] for name, attributes in parsed.elements if name == "meta" and "http-equiv" in attributes
    )
    digest = base64.b64encode(hashlib.sha256("".join(parsed.scripts).encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_page_of_the_demo(tmp_path: Path) -> None:
    """Tuned on dev, reported on test; the page works offline, and the first changes can be read without a script."""
    dev, test = demo_lists("dev"), demo_lists("test")
    tuned = tune(dev, free={"bigram": (0.0, 3.0)})
    scales = {"first pass": FIRST_PASS, "+ bigram": tuned.scales}
    rows = evaluate(test, scales, baseline="first pass", seed=1)
    table = ResultTable("demo", rows, baseline="first pass", scales_from="tuned on dev")
    changes = changed_winners(test, winners(test, FIRST_PASS), winners(test, tuned.scales))
    result = RescoreResult(table, {"+ bigram": tuned}, scales, dev, test)
    write_report(tmp_path / "report.html", result)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    parsed = Page(page)
    assert not re.search(r"https?:|url\(|@import|src=|href=", page)
    cards = [attributes["class"] for name, attributes in parsed.elements if name == "article"]
    assert cards == [change.verdict for change in changes][:20]
    assert sum(change.gain for change in changes) == rows[0].errors.errors - rows[1].errors.errors
    assert sum(name == "polyline" for name, _ in parsed.elements) == 1
    assert len(parsed.elements) < 1500  # the cards of all other utterances are data
    check_winner_data(json.loads(parsed.data[0]), result)


def test_a_score_of_minus_infinity_is_null_in_the_data() -> None:
    """For the row that does not use it, its winner has the score; the total of the other row never takes it."""
    hypotheses = (Hypothesis("a", {"am": 2.0, "lm": -inf}), Hypothesis("b", {"am": 0.0, "lm": -1.0}))
    lists = [NBestList("u", hypotheses, "b")]
    scales = {"am": Scales({"am": 1.0}), "+ lm": Scales({"am": 1.0, "lm": 1.0})}
    table = ResultTable("t", evaluate(lists, scales, baseline="am", seed=1), baseline="am")
    (text,) = Page(render_html(RescoreResult(table, {}, scales, lists, lists))).data
    (utterance,) = json.loads(text)["utterances"]
    assert utterance["of_row"] == [0, 1, 1] and [winner[4] for winner in utterance["winners"]] == [[2, None], [0, -1]]


def check_winner_data(data: dict[str, Any], result: RescoreResult) -> None:
    """The steps lead from the reference to the text, the errors add up to those of the table, and no row prefers the
    winner of another row."""
    for utterance in data["utterances"]:
        for _, text, steps, errors, _ in utterance["winners"]:
            reference, words = iter(utterance["reference"].split()), iter(text.split())
            for step in steps:
                expected = next(reference) if step in "CSD" else None
                found = next(words) if step in "CSI" else None
                assert (expected == found) == (step == "C")
            assert not [*reference, *words] and errors == len(steps) - steps.count("C")
    for row, measured in zip(data["rows"], result.table.rows, strict=True):
        chosen = [
            utterance["winners"][utterance["of_row"][data["rows"].index(row)]] for utterance in data["utterances"]
        ]
        agreed = {utterance.seq_tag for utterance in result.test_lists} - {each["tag"] for each in data["utterances"]}
        rest = [each for each in result.test_lists if each.seq_tag in agreed]
        shared = sum(
            count_errors(each.reference or "", best_texts(rest, FIRST_PASS)[each.seq_tag]).errors for each in rest
        )
        assert sum(winner[3] for winner in chosen) + shared == measured.errors.errors
        weights = [(row["scales"] or {}).get(source, 0.0) for source in data["sources"]]
        for winner, utterance in zip(chosen, data["utterances"]):
            for other in utterance["winners"]:
                lead = sum(scale * (own - its) for scale, own, its in zip(weights, winner[4], other[4]))
                assert lead >= -1e-4


def test_the_cloud_of_the_resamples_is_shown() -> None:
    """A stroke for each resample in each plot of a scale, a dot for each in the plot of each pair, and nothing of it
    without resamples."""
    lists = measured_lists()
    free = {"masked": (0.0, 2.0), "words": (-1.0, 1.0)}
    for resamples in (0, 3):
        tuned = tune(lists, free=free, resamples=resamples)
        scales = {"acoustic": Scales({"am": 1.0}), "+ LM": tuned.scales}
        page = render_html(RescoreResult(small_table(), {"+ LM": tuned}, scales, lists, lists))
        classes = [attributes.get("class") for _, attributes in Page(page).elements]
        assert classes.count("drawn") == 2 * resamples
        assert classes.count("one") == resamples
        assert classes.count("curve") == 2
        assert ("best scales of each bootstrap resample" in page) == bool(resamples)


def test_the_figures_of_all_rows_have_one_wer_axis() -> None:
    """The baseline is at the same height in every plot, and so is the oracle; there is a figure for each row."""
    lists = measured_lists()
    tuned = {
        "+ LM": tune(lists, free={"masked": (0.0, 2.0), "words": (-1.0, 1.0)}),
        "+ AR": tune(lists, free={"ar": (0.0, 0.1)}),
    }
    scales = {"acoustic": Scales({"am": 1.0}), **{row: found.scales for row, found in tuned.items()}}
    page = Page(render_html(RescoreResult(small_table(), tuned, scales, lists, lists)))
    levels = [attributes["y1"] for _, attributes in page.elements if attributes.get("class") == "level"]
    assert len(levels) == 6 and levels == 3 * levels[:2]
    assert sum(name == "figure" for name, _ in page.elements) == 2


def test_a_posterior_is_in_the_table() -> None:
    scales = Scales({"am": 1.0, "masked": 0.5}, posterior=0.25)
    rows = evaluate(measured_lists(), {"acoustic": Scales({"am": 1.0}), "+ LM": scales}, baseline="acoustic", seed=1)
    table = ResultTable("t", rows, baseline="acoustic")
    assert "am 1, masked 0.5, posterior 0.25" in table.to_markdown()
    assert any("fewest expected word errors" in note for note in table.footnotes())
    assert json.loads(table.to_json())["rows"][1]["scales"]["posterior"] == 0.25


def test_the_plot_of_a_change_says_how_certain_it_is() -> None:
    lists = measured_lists()
    scales = {"acoustic": Scales({"am": 1.0}), "+ LM": Scales({"am": 1.0, "masked": 1.0})}
    table = ResultTable("t", evaluate(lists, scales, baseline="acoustic", seed=1), baseline="acoustic")
    share = 100 * table.rows[1].change.probability_of_improvement
    page = render_html(RescoreResult(table, {}, scales, lists, lists))
    assert f'title="better in {share:.1f} % of the bootstrap samples' in page


def test_page_without_extras_has_no_script() -> None:
    lists = measured_lists()
    page = render_html(RescoreResult(small_table(), {}, {"acoustic": Scales({"am": 1.0})}, lists, lists))
    assert "<script" not in page
    Page(page)


def test_a_section_of_ones_own_is_shown() -> None:
    """With its style and script, which the policy of the page lets run; one with nothing to show leaves no trace."""

    class Count(Section):
        title, anchor, css, script = "How <many>", "count", "p.count { margin: 0; }\n", 'const list = "of its own";'

        def html(self, result: RescoreResult) -> str:
            return f'<p class="count">{len(result.test_lists)}</p>' if result.test_lists else ""

    lists = measured_lists()
    scales = {"acoustic": Scales({"am": 1.0}), "+ LM": Scales({"am": 1.0, "masked": 1.0})}
    before = render_html(RescoreResult(small_table(), {}, scales, lists, lists))
    SECTIONS.add(Count.anchor, Count())
    try:
        page = render_html(RescoreResult(small_table(), {}, scales, lists, lists))
        bare = render_html(RescoreResult(small_table(), {}, {"acoustic": scales["acoustic"]}, [], []))
    finally:
        SECTIONS.remove(Count.anchor)
    assert '<section id="count">\n<h2>How &lt;many&gt;</h2>\n<p class="count">2</p>\n</section>' in page
    assert Count.css in page and Count.css not in before
    digest = base64.b64encode(hashlib.sha256("".join(Page(page).scripts).encode()).digest()).decode()
    assert f"'sha256-{digest}'" in page
    assert Count.css not in bare and "count" not in bare
    anchors = [attributes["id"] for name, attributes in Page(page).elements if name == "section"]
    assert anchors == ["results", "errors", "changed", "provenance", "count"]


def test_warnings_come_first_and_nothing_is_python() -> None:
    """A warning that two rows share is said once; unknown words are counted; lists and objects are lines of text."""
    lists = measured_lists()
    tuned = replace(tune(lists, free={"masked": (0.0, 1.0)}), warnings=("flat <as> a board",))
    metadata = {"tune": ["a.json", "b.json"], "models": {"m": {"path": "m/model", "draws": [1, 2], "exact": True}}}
    unknown = {"masked": UnknownCounts(1, 9, "words"), "ar": UnknownCounts(0, 9, "words")}
    table = replace(small_table(), metadata=metadata, unknown=unknown)
    scales = {"acoustic": Scales({"am": 1.0})}
    page = render_html(RescoreResult(table, {"a": tuned, "b": tuned}, scales, lists, lists, ("warning: same <set>",)))
    assert page.index('id="warnings"') < page.index('id="results"')
    warnings = page[page.index('id="warnings"') : page.index('id="results"')]
    assert warnings.count("flat &lt;as&gt; a board") == 1 and "rows “a”, “b”:" in warnings
    assert "same &lt;set&gt;" in warnings and "masked: 1 of 9 words" in warnings and "ar:" not in warnings
    made = page[page.index('id="provenance"') :]
    for line in ("a.json", "b.json", "path: m/model", "draws: 1, 2", "exact: yes", "2 utterances, 4 hypotheses"):
        assert f"<div>{line}</div>" in made
