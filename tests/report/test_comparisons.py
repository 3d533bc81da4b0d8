"""The matrix of rows is the paired bootstrap of every pair, and the page marks what is significant."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from rescore.combination.scales import Scales
from rescore.nbest.types import Hypothesis, NBestList
from rescore.report.page import render_html
from rescore.report.result import RescoreResult
from rescore.report.table import ResultTable, evaluate
from rescore.wer import paired_bootstrap, paired_matrix


@pytest.mark.parametrize("groups", [None, [0, 0, 1, 1, 2, 2, 3, 3]])
def test_the_matrix_is_the_bootstrap_of_each_pair(groups):
    generator = np.random.default_rng(5)
    errors, words = generator.integers(0, 5, (3, 8)), generator.integers(1, 9, 8)
    matrix = paired_matrix(list(errors), words, seed=3, samples=200, groups=groups)
    for a in range(3):
        for b in range(3):
            assert matrix[a][b] == paired_bootstrap(errors[a], errors[b], words, seed=3, samples=200, groups=groups)
            assert matrix[a][b].difference_percent == -matrix[b][a].difference_percent
        assert (matrix[a][a].low, matrix[a][a].high) == (0.0, 0.0)


def test_the_page_compares_all_pairs():
    """Of three rows: the baseline column is that of the table, and a sure gain is coloured in both directions."""
    hypotheses = (Hypothesis("x x", {"am": 1.0, "lm": 0.0}), Hypothesis("a b", {"am": 0.0, "lm": 9.0}))
    lists = [NBestList(f"u{number}", hypotheses, "a b") for number in range(9)]
    scales = {"<am>": Scales({"am": 1.0}), "+ lm": Scales({"am": 1.0, "lm": 1.0}), "lm": Scales({"lm": 1.0})}
    table = ResultTable("t", evaluate(lists, scales, baseline="<am>", seed=1), baseline="<am>")
    page = render_html(RescoreResult(table, {}, scales, lists, lists))
    section = page[page.index('<section id="comparisons"') : page.index('<section id="errors"')]
    cells = re.findall(r'<td class="num ?(\w*)"[^>]*>([^<]*)</td>', section)
    assert cells == [
        *[("own", "·"), ("higher", "+100.00"), ("higher", "+100.00")],
        *[("lower", "-100.00"), ("own", "·"), ("", "+0.00")],
        *[("lower", "-100.00"), ("", "+0.00"), ("own", "·")],
    ]
    data = json.loads(re.search(r'id="comparison-data">(.*?)</script>', section).group(1))
    assert data["names"] == list(scales) and data["changes"][0][1] == [-100.0, -100.0, -100.0, 1.0]
    assert "comparisons" not in render_html(RescoreResult(table, {}, dict(list(scales.items())[:2]), lists, lists))
