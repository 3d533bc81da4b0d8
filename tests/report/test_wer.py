"""Laws of word errors: an independent edit distance, jiwer's counts, sums, and what the bootstrap must give."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescore.nbest.types import Hypothesis, NBestList
from rescore.wer import ErrorCounts, count_errors, error_table, first_maxima, paired_bootstrap, wer_interval

TEXTS = st.lists(st.sampled_from("abcd"), max_size=7).map(" ".join)


def make_list(tag: str, reference: str | None, *texts: str) -> NBestList:
    return NBestList(tag, tuple(Hypothesis(text) for text in texts), reference)


def distance(reference: str, hypothesis: str) -> int:
    first, second = reference.split(), hypothesis.split()

    @cache
    def best(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(best(i - 1, j) + 1, best(i, j - 1) + 1, best(i - 1, j - 1) + (first[i - 1] != second[j - 1]))

    return best(len(first), len(second))


@given(TEXTS, TEXTS)
def test_errors_are_the_edit_distance_and_balance_the_lengths(reference: str, hypothesis: str) -> None:
    counts = count_errors(reference, hypothesis)
    assert counts.errors == distance(reference, hypothesis)
    assert counts.insertions - counts.deletions == len(hypothesis.split()) - len(reference.split())
    assert counts.reference_words == len(reference.split())


@given(TEXTS, TEXTS)
def test_counts_are_those_of_jiwer(reference: str, hypothesis: str) -> None:
    jiwer = pytest.importorskip("jiwer")
    counts, theirs = count_errors(reference, hypothesis), jiwer.process_words(reference, hypothesis)
    ours = (counts.substitutions, counts.deletions, counts.insertions)
    assert ours == (theirs.substitutions, theirs.deletions, theirs.insertions)
    if counts.wer_percent is not None:
        assert counts.wer_percent == pytest.approx(100 * theirs.wer)


def test_empty_texts() -> None:
    assert count_errors("", "") == ErrorCounts(0, 0, 0, 0)
    assert count_errors("", "a b") == ErrorCounts(0, 0, 2, 0)
    assert count_errors("a b", " \t") == ErrorCounts(0, 2, 0, 2)
    assert count_errors("", "a").wer_percent is None
    assert count_errors("a b", "").wer_percent == 100.0


def test_words_are_split_at_any_blanks_and_not_normalised() -> None:
    assert count_errors(" a\tb  c", "a b c\n").errors == 0
    assert count_errors("a", "A").errors == 1


@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=4)), min_size=1, max_size=5), st.data())
def test_table_is_the_sum_of_single_counts(world: list[tuple[str, list[str]]], data: st.DataObject) -> None:
    lists = [make_list(f"u{index}", reference, *texts) for index, (reference, texts) in enumerate(world)]
    table = error_table(lists)
    assert table.errors.tolist() == [distance(reference, text) for reference, texts in world for text in texts]
    winners = np.array([data.draw(st.integers(0, len(texts) - 1)) for _, texts in world])
    expected = [count_errors(reference, texts[rank]) for (reference, texts), rank in zip(world, winners)]
    assert table.corpus(winners) == sum(expected, ErrorCounts(0, 0, 0, 0))
    assert table.errors_of(winners).tolist() == [counts.errors for counts in expected]
    assert table.oracle().errors == sum(min(distance(r, text) for text in texts) for r, texts in world)


def test_oracle_takes_the_first_of_equals() -> None:
    table = error_table([make_list("u", "a b", "x b", "a x", "x x")])
    assert table.oracle_winners().tolist() == [0]


def test_more_words_than_one_plane_of_characters() -> None:
    words = [f"w{index}" for index in range(70_000)]
    text = " ".join(words)
    table = error_table([make_list("u", text, text, " ".join(["x", *words[1:-1]]))])
    assert table.errors.tolist() == [0, 2]


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=6))
def test_first_maxima(rows: list[list[int]]) -> None:
    offsets = np.cumsum([0, *map(len, rows)])
    assert first_maxima(np.concatenate(rows), offsets).tolist() == [row.index(max(row)) for row in rows]


def test_clear_errors() -> None:
    with pytest.raises(ValueError, match="'dev/1' has no reference"):
        error_table([make_list("dev/1", None, "a")])
    with pytest.raises(ValueError, match="hypothesis 1 of 'dev/1' is made of subword pieces"):
        error_table([make_list("dev/1", "AS I", "▁AS ▁I")])
    with pytest.raises(ValueError, match="no N-best lists"):
        error_table([])
    table = error_table([make_list("dev/1", "a", "a"), make_list("dev/2", "a", "a", "b")])
    with pytest.raises(ValueError, match=r"winner 2 of 'dev/2'; expected 0 \.\.\. 1"):
        table.corpus(np.array([0, 2]))
    with pytest.raises(ValueError, match="expected an integer for each of 2 utterances"):
        table.corpus(np.array([0]))
    with pytest.raises(ValueError, match="expected none below zero"):
        ErrorCounts(-1, 0, 0, 0)


def test_equal_systems_do_not_differ() -> None:
    result = paired_bootstrap([1, 2, 3], [1, 2, 3], [5, 5, 5], seed=1, samples=200)
    assert (result.difference_percent, result.low, result.high, result.probability_of_improvement) == (0, 0, 0, 0)


def test_constant_gain_has_no_spread() -> None:
    """One error fewer in each of equally long utterances is the same change in every sample."""
    result = paired_bootstrap([1, 2, 3], [0, 1, 2], [5, 5, 5], seed=1, samples=200)
    assert result.difference_percent == pytest.approx(-20.0)
    assert (result.low, result.high) == (pytest.approx(-20.0), pytest.approx(-20.0))
    assert result.probability_of_improvement == 1.0


def test_standard_error_is_that_of_the_ratio() -> None:
    """Utterances of equal length: the WER is a mean, whose bootstrap deviation is known: sd / sqrt(n)."""
    errors = np.random.default_rng(0).integers(0, 6, 400)
    interval = wer_interval(errors, np.full(400, 10), seed=3, samples=20_000)
    expected = (10.0 * errors).std() / 20.0
    # The deviation of 20,000 samples is known to about 1 / sqrt(2 * 20,000) = 0.5 %; five times that.
    assert interval.standard_error == pytest.approx(expected, rel=0.025)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * expected, rel=0.05)
    assert interval.wer_percent == pytest.approx(10.0 * errors.mean())


def test_paired_interval_matches_single_intervals_of_the_difference() -> None:
    generator = np.random.default_rng(1)
    before, after = generator.integers(0, 6, 50), generator.integers(0, 5, 50)
    words = generator.integers(5, 20, 50)
    result = paired_bootstrap(before, after, words, seed=2, samples=500)
    single = wer_interval(after - before + 10 * words, words, seed=2, samples=500)
    assert (result.low + 1000, result.high + 1000) == (pytest.approx(single.low), pytest.approx(single.high))


def test_groups_are_drawn_whole() -> None:
    """Copies of an utterance in one group carry no new information: same interval as without the copies."""
    before, after, words = [3, 0, 2, 5], [1, 1, 2, 2], [9, 7, 8, 11]
    alone = paired_bootstrap(before, after, words, seed=5, samples=300)
    copied = paired_bootstrap(before * 4, after * 4, words * 4, seed=5, samples=300, groups=list("abcd") * 4)
    assert copied == alone
    assert paired_bootstrap(before * 4, after * 4, words * 4, seed=5, samples=300).low > alone.low


def test_bootstrap_repeats_from_its_seed_and_does_not_depend_on_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    before, after, words = (generator.integers(1, 9, 40) for _ in range(3))
    first = paired_bootstrap(before, after, words, seed=7, samples=100)
    monkeypatch.setattr("rescore.wer._SAMPLES_IN_MEMORY", 200)
    assert paired_bootstrap(before, after, words, seed=7, samples=100) == first
    assert paired_bootstrap(before, after, words, seed=8, samples=100) != first


def test_bootstrap_refuses_what_has_no_wer() -> None:
    with pytest.raises(ValueError, match="equal lengths"):
        paired_bootstrap([1], [1, 2], [3, 4], seed=1)
    with pytest.raises(ValueError, match="without reference words"):
        wer_interval([1], [0], seed=1)
    with pytest.raises(ValueError, match="confidence 95"):
        wer_interval([1], [1], seed=1, confidence=95)
    with pytest.raises(ValueError, match="0 bootstrap samples"):
        wer_interval([1], [1], seed=1, samples=0)
