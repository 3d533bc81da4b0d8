"""Tables side by side: the numbers are those of the tables, and tables that do not belong together are refused."""

from __future__ import annotations

import csv
import json

import pytest

from rescore.combination.rows import RowSpec
from rescore.combination.scales import Scales
from rescore.nbest.types import Hypothesis, NBestList
from rescore.report.overview import read_overview
from rescore.report.table import ResultTable, evaluate


@pytest.fixture
def tables(tmp_path):
    for name, reference in (("dev", "a b"), ("test", "a c")):
        hypotheses = (Hypothesis("a b", {"am": -1.0, "lm": -3.0}), Hypothesis("a c", {"am": -2.0, "lm": -1.0}))
        rows = evaluate(
            [NBestList(tag, hypotheses, reference) for tag in ("u", "v")],
            {"first | alone": Scales({"am": 1.0}), "+ lm": Scales({"am": 1.0, "lm": 1.0})},
            baseline="first | alone",
            seed=1,
        )
        ResultTable(name, rows, baseline="first | alone").save(tmp_path / f"{name}.json")
    return [f"{name}={tmp_path / name}.json" for name in ("dev", "test")]


def test_columns_are_the_sets(tables, tmp_path):
    overview = read_overview(tables, tuned_on="dev")
    assert overview.rows == ["first | alone", "+ lm", "oracle"]
    assert overview.wer_percent("+ lm") == [50.0, 0.0]
    text = overview.to_markdown()
    assert "| system | dev* | test |" in text
    assert r"| first \| alone | 0.00 | 50.00 |" in text
    assert "| + lm | 50.00 (**+50.00**) | 0.00 (**-50.00**) |" in text
    for suffix in (".md", ".csv", ".json", ".tex"):
        overview.save(tmp_path / f"all{suffix}")
    rows = list(csv.reader((tmp_path / "all.csv").open()))
    assert rows[2] == ["+ lm", "50.0", "0.0"]
    assert json.loads((tmp_path / "all.json").read_text())["tables"]["dev"]["title"] == "dev"
    assert r"+ lm & 50.00 & 0.00 \\" in (tmp_path / "all.tex").read_text()


def test_what_does_not_fit_is_refused(tables, tmp_path):
    with pytest.raises(ValueError, match="given twice"):
        read_overview([tables[0], tables[0]])
    with pytest.raises(ValueError, match="expected SET=FILE"):
        read_overview(["dev.json"])
    with pytest.raises(ValueError, match="expected one of the sets dev, test"):
        read_overview(tables, tuned_on="train")
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(ValueError, match="no table of results"):
        read_overview([f"x={tmp_path / 'bad.json'}"])
    other = json.loads((tmp_path / "test.json").read_text())
    other["rows"].pop()
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="expected those of dev"):
        read_overview([tables[0], f"other={tmp_path / 'other.json'}"])


def changed(tables, tmp_path, change):
    """The first table, read again after a change by hand."""
    table = json.loads((tmp_path / "dev.json").read_text())
    change(table)
    (tmp_path / "changed.json").write_text(json.dumps(table))
    return f"dev={tmp_path / 'changed.json'}"


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda table: table["rows"][1].update(system="oracle"),
            "two rows are named 'oracle'; expected different names",
        ),
        (lambda table: table["rows"][1].update(system=["+ lm"]), "no table of results"),
        (lambda table: table["rows"][1].update(wer_percent="0"), "no table of results"),
        (lambda table: table["rows"][1].update(change_low=None), "no table of results"),
        (lambda table: table["rows"][1].update(reference_words=None), "no table of results"),
        (lambda table: table.update(rows=[]), "no table of results"),
    ],
)
def test_a_table_that_would_show_a_wrong_number_is_refused(tables, tmp_path, change, message):
    with pytest.raises(ValueError, match=f"changed.json: {message}"):
        read_overview([changed(tables, tmp_path, change)])


def test_changes_against_different_rows_do_not_stand_side_by_side(tables, tmp_path):
    """The note under the overview names one baseline for all columns."""
    item = changed(tables, tmp_path, lambda table: table.update(baseline="+ lm"))
    message = r"test\.json: test has the baseline 'first \| alone'; expected those of dev \(.*changed\.json\): '\+ lm'"
    with pytest.raises(ValueError, match=message):
        read_overview([item, tables[1]])


def test_rows_have_names_of_their_own():
    """`oracle` is a row of every table: an overview took the first of the two for both."""
    lists = [NBestList("u", (Hypothesis("a", {"am": 1.0}),), "a")]
    with pytest.raises(ValueError, match="a row is named 'oracle'; expected another name"):
        evaluate(lists, {"oracle": Scales({"am": 1.0})}, baseline="oracle", seed=1)
    with pytest.raises(ValueError, match="a row is named 'oracle'"):
        RowSpec.parse("oracle=am:1")
    with pytest.raises(ValueError, match="row 'x': 'am' is given twice"):
        RowSpec.parse("x=am:1,am:2")
    rows = evaluate(lists, {"x": Scales({"am": 1.0})}, baseline="x", seed=1)
    with pytest.raises(ValueError, match="two rows named 'x'"):
        ResultTable("t", [rows[0], *rows], baseline="x")
