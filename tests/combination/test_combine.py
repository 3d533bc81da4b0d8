"""Laws of the combination and the exact search: sums written out, ties, round trips, brute force over breakpoints."""

from __future__ import annotations

import json
import tracemalloc
from itertools import combinations, pairwise
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rescore.combination import line_search
from rescore.combination.line_search import Space
from rescore.combination.rows import FIRST, RowSpec, default_rows, unused_scores, with_first
from rescore.combination.scales import Scales, best_texts, combined_scores, feature_matrix, winners
from rescore.combination.tuning import tune
from rescore.nbest.types import Hypothesis, NBestList, never_chosen
from rescore.wer import error_table

# Quarters: many totals tie exactly, and many breakpoints coincide.
QUARTERS = st.integers(-12, 12).map(lambda number: number / 4)
SCORES = st.fixed_dictionaries({"am": QUARTERS, "lm": QUARTERS, "prior": QUARTERS})
TEXTS = st.lists(st.sampled_from("abc"), max_size=4).map(" ".join)
UTTERANCES = st.tuples(TEXTS, st.lists(st.builds(Hypothesis, TEXTS, SCORES), min_size=1, max_size=5))
WORLDS = st.lists(UTTERANCES, min_size=1, max_size=4).map(
    lambda world: [
        NBestList(f"u{n}", tuple(hyps), ref) for n, (ref, hyps) in enumerate([("a b", world[0][1]), *world[1:]])
    ]
)


def random_lists(seed: int, utterances: int, size: int, names: tuple[str, ...] = ("am", "lm")) -> list[NBestList]:
    """Hypotheses with random edits; every score falls with the number of edits, under noise of its own."""
    generator = np.random.default_rng(seed)
    lists = []
    for number in range(utterances):
        reference = generator.integers(0, 50, generator.integers(3, 12)).tolist()
        hypotheses = []
        for _ in range(size):
            words = [int(generator.integers(50)) if generator.random() < 0.2 else word for word in reference]
            words += [1] * int(generator.integers(0, 2))
            edits = sum(a != b for a, b in zip(words, reference)) + len(words) - len(reference)
            noise = generator.normal(size=len(names))
            scores = {name: float(2.0 * value - edits) for name, value in zip(names, noise)}
            hypotheses.append(Hypothesis(" ".join(map(str, words)), scores))
        lists.append(NBestList(f"u{number}", tuple(hypotheses), " ".join(map(str, reference))))
    return lists


@given(WORLDS, QUARTERS, QUARTERS, QUARTERS)
def test_total_is_the_weighted_sum_and_the_first_of_equals_wins(
    lists: list[NBestList], am: float, lm: float, words: float
) -> None:
    best = winners(lists, Scales({"am": am, "lm": lm}, words=words))
    for utterance, place in zip(lists, best):
        totals = [am * h.scores["am"] + lm * h.scores["lm"] + words * len(h.text.split()) for h in utterance.hypotheses]
        assert place == totals.index(max(totals))  # quarters: these sums are exact


@given(WORLDS)
def test_zero_scale_for_every_lm_keeps_the_first_pass_order(lists: list[NBestList]) -> None:
    """Lists in the order of the first pass: nothing but a scale above 0 moves the top."""
    ranked = [
        NBestList(u.seq_tag, tuple(sorted(u.hypotheses, key=lambda h: -h.scores["am"])), u.reference) for u in lists
    ]
    for scales in (Scales({"am": 1.0, "lm": 0.0, "prior": 0.0}), Scales({"am": 0.0, "lm": 0.0})):
        assert not winners(ranked, scales).any()


def test_equal_hypotheses_tie_wherever_they_stand() -> None:
    """The sum must not round differently from row to row, as a matrix product may."""
    scores = {name: value / 7 for name, value in zip("abcde", (-31.0, 17.0, -5.3, 2.9, -11.1))}
    lists = [NBestList("u", tuple([Hypothesis("x", scores)] * size), None) for size in range(1, 40)]
    scales = Scales({name: value / 3 for name, value in zip("abcde", (1.0, 0.7, 1.3, -0.2, 0.9))})
    assert len(set(combined_scores(lists, scales).tolist())) == 1
    assert not winners(lists, scales).any()


def test_token_counts_come_from_the_details_of_their_source() -> None:
    hypotheses = tuple(
        Hypothesis(text, {"am": 0.0}, {"masked": {"num_tokens": count}})
        for text, count in (("a", 3), ("a b", 5), ("", 0))
    )
    lists = [NBestList("u", hypotheses)]
    scales = Scales({"am": 1.0}, words=-2.0, tokens={"masked": 0.5})
    assert combined_scores(lists, scales).tolist() == [-0.5, -1.5, 0.0]
    assert best_texts(lists, scales) == {"u": ""}
    with pytest.raises(ValueError, match=r"hypothesis 1 of 'u' has no token count from 'lm'; expected 'num_tokens'"):
        winners(lists, Scales({"am": 1.0}, tokens={"lm": 1.0}))


def test_a_negative_prior_scale_takes_the_prior_out() -> None:
    hypotheses = (Hypothesis("a", {"am": -1.0, "prior": -1.0}), Hypothesis("b", {"am": -2.0, "prior": -9.0}))
    assert winners([NBestList("u", hypotheses)], Scales({"am": 1.0, "prior": -0.5})).tolist() == [1]


def test_missing_and_bad_scores_are_named() -> None:
    good = NBestList("dev/1", (Hypothesis("a", {"am": 1.0, "masked": 1.0}),))
    lacks = NBestList("dev/2", (Hypothesis("a", {"am": 1.0, "masked": 1.0}), Hypothesis("b", {"am": 1.0})))
    with pytest.raises(
        ValueError, match=r"hypothesis 2 of 'dev/2' has no score 'masked'; expected one of its scores: am"
    ):
        feature_matrix([good, lacks], ["am", "masked"])
    with pytest.raises(ValueError, match=r"hypothesis 1 of 'dev/1' has no score 'maskd' \(perhaps 'masked'\?\)"):
        feature_matrix([good], ["maskd"])
    infinite = NBestList("dev/3", (Hypothesis("a", {"am": float("-inf")}),))
    with pytest.raises(ValueError, match=r"all hypotheses of 'dev/3' have a score of -inf; expected one that can be"):
        winners([infinite], Scales({"am": 0.0}))


@given(
    st.dictionaries(st.sampled_from(["am", "lm", "prior"]), st.floats(-1e6, 1e6), min_size=1),
    st.floats(-9, 9),
    st.dictionaries(st.sampled_from(["lm", "masked"]), st.floats(-9, 9)),
)
def test_scales_survive_json_and_names(scores: dict[str, float], words: float, tokens: dict[str, float]) -> None:
    scales = Scales(scores, words, tokens)
    assert Scales.from_json(json.loads(json.dumps(scales.to_json()))) == scales
    assert Scales.from_named(scales.named()) == scales


def test_scales_file(tmp_path: Path) -> None:
    path, scales = tmp_path / "scales.json", Scales({"am": 1.0, "masked": 0.1 + 0.2}, words=-0.5)
    scales.save(path)
    assert Scales.load(path) == scales
    assert [entry.name for entry in tmp_path.iterdir()] == ["scales.json"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "scales.json:1: invalid JSON"),
        ('{"scores": {"am": 1.0}', "scales.json:1: "),
        ("[]", "got list; expected an object"),
        (
            '{"scores": {"am": 1}, "word": 1}',
            "unknown key 'word'; expected scores, words, tokens, posterior, perhaps 'words'",
        ),
        ("{}", "'scores' is None; expected an object"),
        ('{"scores": {"am": "1"}}', "the scale of 'am' is '1'; expected a finite number"),
        ('{"scores": {"am": NaN}}', "got nan in 'scores.am'; expected a finite number"),
        ('{"scores": {"am": true}}', "the scale of 'am' is True; expected a finite number"),
        ('{"scores": {"words": 1}}', "a score is named 'words'"),
        ('{"scores": {"am": 1, "am": 2}}', "scales.json:1: the key 'am' is given twice"),
        ('{"scores": ' + "[" * 100_000, "scales.json:1: JSON nested too deeply"),
        ("\ufeff{}", "expected an object {source: scale}"),
    ],
)
def test_broken_scale_files_give_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "scales.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"scales\.json") as caught:
        Scales.load(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def brute_force(lists: list[NBestList], low: float, high: float) -> int:
    """Fewest errors over 0 and the midpoints between all points where any two hypotheses of an utterance change places."""
    table = error_table(lists)
    points = {low, high}
    for utterance in lists:
        for one, other in combinations(utterance.hypotheses, 2):
            steeper = one.scores["lm"] - other.scores["lm"]
            if steeper:
                points.add((other.scores["am"] - one.scores["am"]) / steeper)
    inside = sorted(point for point in points if low <= point <= high)
    middles = [(left + right) / 2 for left, right in pairwise(inside) if right - left > 1e-9 * (high - low)]
    zero = [0.0] if low <= 0.0 <= high else []
    return min(table.corpus(winners(lists, Scales({"am": 1.0, "lm": point}))).errors for point in [*middles, *zero])


@settings(max_examples=150)
@given(WORLDS, st.sampled_from([(0, 2), (-1.5, 0.5), (0.25, 3.0)]))
def test_line_search_is_exact(lists: list[NBestList], bounds: tuple[float, float]) -> None:
    result = tune(lists, free={"lm": bounds})
    assert result.errors.errors == brute_force(lists, *bounds)
    assert result.errors == error_table(lists).corpus(winners(lists, result.scales))
    (curve,) = result.curves
    assert curve.plateau[0] <= curve.chosen <= curve.plateau[1]
    assert curve.chosen == 0.0 or curve.plateau[0] < curve.chosen < curve.plateau[1]
    for end, held in zip(bounds, curve.at_ends):
        same = error_table(lists).corpus(winners(lists, Scales({"am": 1.0, "lm": end}))).errors == result.errors.errors
        assert held == (same and (curve.plateau[0] == end or curve.plateau[1] == end))
    assert min(curve.wer_percent) >= result.wer_percent == curve.chosen_wer_percent


@given(st.integers(0, 10_000), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5))
def test_errors_along_a_line_are_those_of_the_winners(seed: int, positions: list[float]) -> None:
    lists = random_lists(seed, 5, 8)
    table = error_table(lists)
    space = Space.build(lists, {"am": 1.0}, {"lm": (0.0, 2.0), "words": (-1.0, 1.0)}, table)
    steps = space.steps(np.array([0.3, -1.0]), np.array([1.1, 1.5]))
    for position in positions:
        if np.abs(steps.edges - position).min() < 1e-9:
            continue  # on a breakpoint the tie-break decides
        scales = Scales({"am": 1.0, "lm": 0.3 + 1.1 * position}, words=-1.0 + 1.5 * position)
        count = steps.counts[np.searchsorted(steps.edges, position) - 1]
        assert count == table.corpus(winners(lists, scales)).errors


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_two_scales_are_at_least_as_good_as_a_dense_grid(seed: int) -> None:
    lists = random_lists(seed, 8, 12)
    table = error_table(lists)
    result = tune(lists, free={"lm": (0.0, 2.0), "words": (-2.0, 2.0)})
    assert result.errors == table.corpus(winners(lists, result.scales))
    features, _ = feature_matrix(lists, ["am", "lm", "words"])
    sizes = np.diff(table.offsets)
    assert (sizes == 12).all()
    # 33 of the 257 lines of the search. A grid point that lies on a tie is a random score away from being one.
    for words in np.linspace(-2.0, 2.0, 33):
        totals = (features @ np.array([[1.0, scale, words] for scale in np.linspace(0.001, 1.999, 97)]).T).reshape(
            8, 12, -1
        )
        errors = np.take_along_axis(table.errors.reshape(8, 12)[:, :, None], totals.argmax(axis=1)[:, None], 1)
        assert result.errors.errors <= errors.sum(axis=0).min()


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_three_scales_are_no_worse_than_each_alone(seed: int) -> None:
    """And the same every time."""
    lists = random_lists(seed, 6, 8, ("am", "lm", "other"))
    free = {"lm": (0.0, 2.0), "other": (0.0, 2.0), "words": (-1.0, 1.0)}
    result = tune(lists, free=free)
    assert result == tune(lists, free=free)
    for name, bounds in free.items():
        rest = {other: 0.0 for other in free if other != name}
        assert result.errors.errors <= tune(lists, fixed={"am": 1.0, **rest}, free={name: bounds}).errors.errors


def test_the_middle_of_the_widest_best_piece_is_chosen() -> None:
    """Right between lm = 0.5 and 1.5, by hand: "b" passes "a" at 0.5, "c" passes "b" at 1.5."""
    hypotheses = (
        Hypothesis("a", {"am": 0.0, "lm": 0.0}),
        Hypothesis("b", {"am": -0.5, "lm": 1.0}),
        Hypothesis("c", {"am": -2.0, "lm": 2.0}),
    )
    result = tune([NBestList("u", hypotheses, "b")], free={"lm": (0, 4)})
    assert result.scales == Scales({"am": 1.0, "lm": 1.0})
    assert (result.errors.errors, result.warnings) == (0, ())
    assert result.curves[0].plateau == (0.5, 1.5)


@pytest.mark.parametrize(
    "reference, expected",
    [
        ("a", "the best scale of 'lm', 0.25, is as good as 0: the source does not help on these lists"),
        ("c", "the best scale of 'lm', 2.75, lies at the edge of the range 0 ... 4; a wider range may be better"),
        ("x", "the scale of 'lm' makes no difference between 0 and 4"),
    ],
)
def test_edges_of_the_range_are_reported(reference: str, expected: str) -> None:
    hypotheses = (
        Hypothesis("a", {"am": 0.0, "lm": 0.0}),
        Hypothesis("b", {"am": -0.5, "lm": 1.0}),
        Hypothesis("c", {"am": -2.0, "lm": 2.0}),
    )
    result = tune([NBestList("u", hypotheses, reference)], free={"lm": (0, 4)})
    assert result.warnings == (expected,)


LOG_ZEROS = [-1e9, -1e10, -3.4e38, -1e100, -1e290]


def log_zero_lists(*scores: tuple[float, float], names: tuple[str, ...] = ("lm",)) -> list[NBestList]:
    """An utterance for each pair: the scores of a hypothesis that is first by the acoustic score, and of a second one."""
    texts = ("a b", "x b")
    return [
        NBestList(
            f"u{number}",
            tuple(Hypothesis(t, {"am": -5.0 - r, **dict.fromkeys(names, pair[r])}) for r, t in enumerate(texts)),
            texts[0],
        )
        for number, pair in enumerate(scores)
    ]


@pytest.mark.parametrize("log_zero", LOG_ZEROS)
@pytest.mark.parametrize("names", [("lm",), ("lm", "lm2"), ("lm", "lm2", "lm3")])
@pytest.mark.parametrize("low", [0.0, -1.0])
def test_zero_is_found_however_narrow_its_piece(log_zero: float, names: tuple[str, ...], low: float) -> None:
    """A scale of 0 is the system without the source: tuning never ends worse, and says that the source does not help.

    The sources call the right hypothesis of one utterance impossible, which any positive scale shows, and the wrong one of the other,
    which any negative scale turns round.
    """
    lists = log_zero_lists((log_zero, -7.0), (-7.0, log_zero), names=names)
    result = tune(lists, free=dict.fromkeys(names, (low, 3.0)))
    assert result.errors.errors == error_table(lists).corpus(winners(lists, Scales({"am": 1.0}))).errors == 0
    if low == 0.0 or len(names) == 1:
        assert set(result.scales.scores.values()) == {0.0, 1.0}
        assert result.warnings == tuple(
            f"the best scale of {name!r} is 0: the source does not help on these lists" for name in names
        )


@pytest.mark.parametrize("log_zero", LOG_ZEROS)
def test_a_plateau_that_only_touches_zero_is_not_at_zero(log_zero: float) -> None:
    """Every scale above 1e-10 rules out what is wrong; at 0 it stays: the source is not "without effect"."""
    lists = log_zero_lists((log_zero, -7.0))
    lists = [NBestList(u.seq_tag, u.hypotheses, u.hypotheses[1].text) for u in lists]
    result = tune(lists, free={"lm": (0.0, 3.0)})
    assert (result.errors.errors, result.curves[0].at_ends) == (0, (False, True))
    edge = "lies at the edge of the range 0 ... 3; a wider range may be better"
    assert result.warnings == (f"the best scale of 'lm', 1.5, {edge}",)
    both = tune(lists, free={"lm": (0.0, 3.0), "words": (-1.0, 1.0)})
    assert not any("'lm' makes no difference" in warning for warning in both.warnings)


def test_scores_whose_sums_are_no_numbers_are_refused(recwarn: pytest.WarningsRecorder) -> None:
    """Beyond the range of float64 a total is infinite, and of two such nothing can be told."""
    lists = log_zero_lists((-1.7e308, -7.0))
    message = r"hypothesis 1 of 'u0' has lm score -1\.7e\+308, with the scale 3; expected less than 1e\+300"
    for use in (lambda: tune(lists, free={"lm": (0.0, 3.0)}), lambda: winners(lists, Scales({"am": 1.0, "lm": 3.0}))):
        with pytest.raises(ValueError, match=message):
            use()
    assert not recwarn.list


def test_tune_refuses_what_it_can_not_tune() -> None:
    lists = random_lists(0, 2, 3)
    with pytest.raises(ValueError, match="no free scale"):
        tune(lists, free={})
    with pytest.raises(ValueError, match="'am' is both free and fixed"):
        tune(lists, free={"am": (0, 1)})
    with pytest.raises(ValueError, match=r"range of the scale of 'lm' is 2 \.\.\. 1; expected low < high"):
        tune(lists, free={"lm": (2, 1)})
    with pytest.raises(ValueError, match="hypothesis 1 of 'u0' has no score 'xlnet'"):
        tune(lists, free={"xlnet": (0, 1)})
    with pytest.raises(ValueError, match="the references have no words"):
        tune([NBestList("u", lists[0].hypotheses, "")], free={"lm": (0, 1)})


@pytest.mark.parametrize("free", [["lm"], ["lm", "words"], ["lm", "words", "b", "c", "d", "e"]])
def test_hypotheses_of_minus_infinity_are_as_if_not_there(free: list[str]) -> None:
    """Winners, tuned scales, errors and curves are those of the lists without them, wherever they stand."""
    lists = random_lists(3, utterances=12, size=5, names=("am", "lm", "b", "c", "d", "e"))
    generator, impossible = np.random.default_rng(5), []
    for utterance in lists:
        hypotheses = list(utterance.hypotheses)
        for name in ("am", "lm"):  # texts without error, which would win
            scores = dict.fromkeys(("am", "lm", "b", "c", "d", "e"), 9.0) | {name: float("-inf")}
            hypotheses.insert(int(generator.integers(6)), Hypothesis(utterance.reference or "", scores))
        impossible.append(NBestList(utterance.seq_tag, tuple(hypotheses), utterance.reference))
    assert never_chosen(impossible) == {"am": 12, "lm": 12}
    ranges = dict.fromkeys(free, (-1.0, 2.0))
    found, expected = tune(impossible, free=ranges), tune(lists, free=ranges)
    assert found == expected
    for scales in (found.scales, Scales({"am": -1.0, "lm": 0.0}), Scales({"am": 1.0, "lm": 1.0}, posterior=0.1)):
        assert best_texts(impossible, scales) == best_texts(lists, scales)


def test_two_scales_are_tuned_quickly() -> None:
    """200 x 50 here; benchmarks/combine.py has 600 x 100. A generous limit that a loop in Python would miss."""
    lists = random_lists(1, 200, 50)
    start = perf_counter()
    tune(lists, free={"lm": (0.0, 2.0), "words": (-2.0, 2.0)})
    assert perf_counter() - start < 5.0


@given(st.lists(st.tuples(QUARTERS, QUARTERS), min_size=1, max_size=20), st.sampled_from([1, 50, 10_000]))
def test_beaten_hypotheses_are_found_a_few_at_a_time(totals: list[tuple[float, float]], memory: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_search, "_ELEMENTS_IN_MEMORY", memory)
        found = line_search._beaten(np.array(totals))
    for place, own in enumerate(totals):
        above = any(all(a > b for a, b in zip(other, own)) for other in totals)
        before = any(all(a >= b for a, b in zip(other, own)) for other in totals[:place])
        assert found[place] == (above or before)


def test_memory_grows_with_the_number_of_hypotheses_and_not_with_its_square() -> None:
    peaks = []
    for size in (3000, 6000):
        totals = np.random.default_rng(0).normal(size=(size, 2))
        tracemalloc.start()
        line_search._beaten(totals)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] and peaks[0] < 40e6


def test_default_rows_add_an_lm_to_everything_the_recogniser_has_used() -> None:
    rows = {row.name: row for row in with_first(default_rows(["am", "bigram"], ["x", "y"]))}
    assert list(rows) == [FIRST, "am only", "all given scores", "+ x", "+ y", "+ x and y"]
    assert not rows[FIRST].fixed and not rows[FIRST].free
    assert set(rows["all given scores"].free) == {"bigram", "words"}
    assert set(rows["+ x and y"].free) == {"bigram", "x", "y", "words"}
    assert all(row.fixed == {"am": 1.0} for name, row in rows.items() if name != FIRST)
    assert unused_scores(list(rows.values()), ["am", "bigram", "x", "y"]) == []
    assert unused_scores([RowSpec.parse("r=am:1,tokens:x")], ["am", "bigram", "x"]) == ["bigram"]
