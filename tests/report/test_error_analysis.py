"""Laws of the error analysis: it counts what the table counts, and every utterance is in one bin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescore.combination.scales import Scales
from rescore.nbest.types import Hypothesis, NBestList
from rescore.report.error_analysis import binned_wer, length_bins, margin_bins, margins, word_errors
from rescore.report.page import render_html
from rescore.report.result import RescoreResult
from rescore.report.table import ResultTable, evaluate
from rescore.wer import error_table

WORDS = st.lists(st.sampled_from("abc"), max_size=6).map(" ".join)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_counts_of_words_add_up_to_those_of_the_table(pairs):
    lists = [NBestList(f"u{place}", (Hypothesis(text),), reference) for place, (reference, text) in enumerate(pairs)]
    first = np.zeros(len(lists), np.int64)
    found, total = word_errors(lists, first), error_table(lists).corpus(first)
    counted = (found.confusions.total(), found.deleted.total(), found.inserted.total())
    assert counted == (total.substitutions, total.deletions, total.insertions)
    assert all(reference != word for reference, word in found.confusions)


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=30),
    st.lists(st.sampled_from([0.0, 1.0, 2.5, np.inf]), min_size=1),
)
def test_every_utterance_is_in_one_bin(lengths, values):
    for bins, size in ((length_bins(np.array(lengths)), len(lengths)), (margin_bins(values), len(values))):
        assert sorted(np.concatenate([each.utterances for each in bins]).tolist()) == list(range(size))
        assert len({each.name for each in bins}) == len(bins)


def test_the_wer_of_a_bin_is_that_of_its_utterances():
    lengths, errors = np.array([5, 6, 5, 50]), np.array([1, 3, 2, 25])
    bins = length_bins(lengths)
    assert [each.name for each in bins] == ["up to 5 words", "6 to 10", "over 40"]
    assert binned_wer(bins, errors, lengths) == [pytest.approx(30.0), pytest.approx(50.0), pytest.approx(50.0)]


def test_margin_is_to_the_best_hypothesis_with_other_words():
    several = (Hypothesis("a b", {"am": 3.0}), Hypothesis("a  b", {"am": 2.9}), Hypothesis("b", {"am": 1.0}))
    lists = [NBestList("u", several, "a"), NBestList("v", several[:2], "a")]
    assert margins(lists, Scales({"am": 2.0})) == [pytest.approx(4.0), float("inf")]


def test_the_page_shows_them_for_each_row():
    hypotheses = (Hypothesis("<ring> x", {"am": 2.0, "lm": 0.0}), Hypothesis("king", {"am": 0.0, "lm": 9.0}))
    lists = [NBestList("u", hypotheses, "king")]
    scales = {"am": Scales({"am": 1.0}), "+ lm": Scales({"am": 1.0, "lm": 1.0})}
    table = ResultTable("t", evaluate(lists, scales, baseline="am", seed=1), baseline="am")
    page = render_html(RescoreResult(table, {}, scales, lists, lists))
    errors = page[page.index('id="errors"') :]
    assert errors.count("<summary>") == 2 and "king → x" in errors and "&lt;ring&gt;" in errors
