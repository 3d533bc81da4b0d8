"""Laws of the choice by expected errors: sums written out, its limits, invariance to the order of a list."""

from __future__ import annotations

import json
from dataclasses import replace
from math import exp
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rescore.combination.expected_errors import expected_errors, least_risk
from rescore.combination.scales import Scales, combined_scores, winners
from rescore.combination.tuning import tune
from rescore.nbest.types import Hypothesis, NBestList
from rescore.racing.race import Race
from rescore.wer import count_errors, error_table

TEXTS = st.lists(st.sampled_from("abc"), max_size=4).map(" ".join)
ENTRIES = st.lists(st.tuples(TEXTS, st.integers(-12, 12).map(lambda n: n / 4)), min_size=1, max_size=6)
POSTERIORS = st.sampled_from([0.01, 0.3, 1.0, 4.0])


def as_list(entries: list[tuple[str, float]]) -> NBestList:
    return NBestList("u", tuple(Hypothesis(text, {"am": total}) for text, total in entries), "a b")


@settings(max_examples=40)
@given(ENTRIES, POSTERIORS)
def test_expected_errors_are_the_sum_over_the_list(entries: list[tuple[str, float]], scale: float) -> None:
    weights = [exp(scale * total) for _, total in entries]
    written_out = [
        sum(weight * count_errors(other, text).errors for weight, (other, _) in zip(weights, entries)) / sum(weights)
        for text, _ in entries
    ]
    texts, totals = [text for text, _ in entries], np.array([total for _, total in entries])
    assert expected_errors(texts, totals, [scale])[0] == pytest.approx(written_out, abs=1e-9)
    best = int(least_risk([as_list(entries)], totals, [scale])[0, 0])
    assert written_out[best] == pytest.approx(min(written_out), abs=1e-8)


@settings(max_examples=40)
@given(ENTRIES)
def test_a_sharp_posterior_chooses_the_best_total(entries: list[tuple[str, float]]) -> None:
    """Quarters: the second best total is at least a quarter away. Equal totals share the posterior for ever."""
    totals = [total for _, total in entries]
    if totals.count(max(totals)) == 1:
        scales = Scales({"am": 1.0}, posterior=1e4)
        assert winners([as_list(entries)], scales) == winners([as_list(entries)], Scales({"am": 1.0}))


@settings(max_examples=40)
@given(ENTRIES, POSTERIORS, st.randoms(use_true_random=False))
def test_the_order_of_a_list_does_not_matter(entries: list[tuple[str, float]], scale: float, random) -> None:
    shuffled = random.sample(entries, len(entries))
    chosen = [
        some[int(winners([as_list(some)], Scales({"am": 1.0}, posterior=scale))[0])] for some in (entries, shuffled)
    ]
    risks = expected_errors([text for text, _ in entries], np.array([total for _, total in entries]), [scale])[0]
    assert chosen[0][1] == chosen[1][1]
    assert risks[entries.index(chosen[0])] == pytest.approx(risks[entries.index(chosen[1])], abs=1e-8)


def test_a_middle_of_many_beats_the_best_total() -> None:
    """By hand: "a b" is the best, but three others together are likelier and lie around "c d"."""
    entries = [("a b", 0.0), ("c d", -0.5), ("c e", -0.5), ("f d", -0.5)]
    assert winners([as_list(entries)], Scales({"am": 1.0})).tolist() == [0]
    assert winners([as_list(entries)], Scales({"am": 1.0}, posterior=1.0)).tolist() == [1]


def noisy_lists() -> list[NBestList]:
    generator = np.random.default_rng(4)
    lists = []
    for number in range(12):
        hypotheses = []
        for _ in range(10):
            wrong = generator.random(6) < 0.3
            text = " ".join("x" if bad else "a" for bad in wrong)
            scores = {name: float(5 * generator.normal() - wrong.sum()) for name in ("am", "lm")}
            hypotheses.append(Hypothesis(text, scores))
        lists.append(NBestList(f"u{number}", tuple(hypotheses), "a a a a a a"))
    return lists


@pytest.mark.parametrize("resamples", [0, 5])
def test_the_posterior_is_tuned_after_the_scales(resamples: int) -> None:
    lists = noisy_lists()
    plain = tune(lists, free={"lm": (0.0, 2.0)}, resamples=resamples)
    result = tune(lists, free={"lm": (0.0, 2.0)}, resamples=resamples, expected_errors=True)
    assert (replace(result.scales, posterior=None), result.cloud) == (plain.scales, plain.cloud)
    assert result.errors == error_table(lists).corpus(winners(lists, result.scales))
    table, totals = error_table(lists), combined_scores(lists, plain.scales)
    others = [table.corpus(best).errors for best in least_risk(lists, totals, np.geomspace(1e-3, 10.0, 121))]
    assert min(others) <= result.errors.errors <= max(others)
    if not resamples:
        assert result.errors.errors == min(others)


def test_scales_with_a_posterior_in_files_and_races(tmp_path: Path) -> None:
    scales = Scales({"am": 1.0, "lm": 0.5}, words=1.0, posterior=0.25)
    scales.save(tmp_path / "scales.json")
    assert Scales.load(tmp_path / "scales.json") == scales
    assert "posterior" not in json.dumps(replace(scales, posterior=None).to_json())
    for wrong in (0.0, -1.0, float("nan"), float("inf"), "1", True):
        with pytest.raises(ValueError, match="the scale of the posterior is .*; expected a finite number above 0"):
            Scales.from_json({**scales.to_json(), "posterior": wrong})
    with pytest.raises(ValueError, match="scales with a posterior can not be raced with"):
        Race("lm", ("am",), scales, 0.95, ())
