"""Laws of the search over resamples: that of lists written out again and again, means, seeds and groups."""

from __future__ import annotations

import numpy as np
import pytest

from rescore.combination.line_search import Range, Space
from rescore.combination.scales import Scales, winners
from rescore.combination.search import resample, search
from rescore.combination.tuning import tune
from rescore.nbest.types import Hypothesis, NBestList
from rescore.wer import error_table

FREE: dict[str, Range] = {"lm": (0.0, 2.0), "words": (-2.0, 2.0), "other": (0.0, 2.0)}


def noisy_lists(seed: int, utterances: int = 9, size: int = 8) -> list[NBestList]:
    """Five words of which some are wrong, and scores that fall with the number of the wrong ones under noise."""
    generator = np.random.default_rng(seed)
    lists = []
    for number in range(utterances):
        hypotheses = []
        for _ in range(size):
            wrong = generator.random(5) < 0.3
            text = " ".join("x" if bad else "a" for bad in wrong) + " b" * int(generator.integers(3))
            scores = {name: float(generator.normal() - wrong.sum()) for name in ("am", "lm", "other")}
            hypotheses.append(Hypothesis(text, scores))
        lists.append(NBestList(f"u{number}", tuple(hypotheses), "a a a a a"))
    return lists


def repeated(lists: list[NBestList], times: np.ndarray) -> list[NBestList]:
    return [utterance for utterance, count in zip(lists, times.tolist()) for _ in range(count)]


@pytest.mark.parametrize("names", [("lm",), ("lm", "words")])
def test_weights_are_repetitions(names: tuple[str, ...]) -> None:
    """The point of a resample has the errors that tuning on its utterances finds, each as often as it was drawn."""
    free = {name: FREE[name] for name in names}
    for seed in range(3 - len(names)):
        lists = noisy_lists(seed)
        space = Space.build(lists, {"am": 1.0}, free, error_table(lists))
        weights = resample(len(lists), 3, seed=seed)
        assert (weights.sum(axis=1) == len(lists)).all()
        for times, point in zip(weights, search(space, weights)):
            written_out = repeated(lists, times)
            alone = tune(written_out, free=free)
            scales = Scales.from_named({"am": 1.0, **dict(zip(free, point.tolist()))})
            assert error_table(written_out).corpus(winners(written_out, scales)).errors == alone.errors.errors


def test_three_scales_of_a_resample_are_no_worse_than_none() -> None:
    """And with weights of 1 they are those of the lists as they are."""
    lists = noisy_lists(2)
    space = Space.build(lists, {"am": 1.0}, FREE, error_table(lists))
    whole = np.array([curve.chosen for curve in tune(lists, free=FREE).curves])
    weights = np.concatenate([np.ones((1, len(lists)), np.int64), resample(len(lists), 3, seed=1)])
    points = search(space, weights)
    assert points[0] == pytest.approx(whole, rel=1e-9)
    for times, point in zip(weights, points):
        part = space.resampled(times)
        assert part.errors_at(point) <= part.errors_at(space.nearest_to_zero())


def test_bagged_scales_are_the_mean_of_the_cloud() -> None:
    lists = noisy_lists(5, utterances=20)
    free = {name: FREE[name] for name in ("lm", "words")}
    result = tune(lists, free=free, resamples=7, seed=3)
    assert len(result.cloud) == 7
    assert [curve.chosen for curve in result.curves] == pytest.approx(np.mean(result.cloud, axis=0).tolist(), rel=1e-9)
    assert result.errors == error_table(lists).corpus(winners(lists, result.scales))
    exact = tune(lists, free=free)
    assert result.errors.errors >= exact.errors.errors
    assert result.warnings == exact.warnings
    assert exact.cloud == ()
    assert result == tune(lists, free=free, resamples=7, seed=3)
    assert result.cloud != tune(lists, free=free, resamples=7, seed=4).cloud


def test_whole_groups_are_drawn() -> None:
    weights = resample(6, 50, seed=1, groups=["x", "y", "x", "z", "y", "x"])
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 0] == weights[:, 5]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, 0] + weights[:, 1] + weights[:, 3] == 3).all()
    with pytest.raises(ValueError, match="groups of 2 utterances; expected 6"):
        resample(6, 1, seed=1, groups=["x", "y"])


def test_a_source_that_only_harms_is_off_in_the_mean_too() -> None:
    """It calls the right text of the first utterance impossible, which half of the resamples do not see."""
    texts = ("a b", "x b")
    scores = [(-1e10, -7.0), (-7.0, -7.5), (-7.0, -7.5)]
    lists = [
        NBestList(
            f"u{number}",
            tuple(Hypothesis(text, {"am": -5.0 - rank, "lm": pair[rank]}) for rank, text in enumerate(texts)),
            texts[0],
        )
        for number, pair in enumerate(scores)
    ]
    result = tune(lists, free={"lm": (0.0, 3.0)}, resamples=20)
    assert any(scale > 0.1 for (scale,) in result.cloud)
    assert (result.errors.errors, result.scales.scores["lm"]) == (0, 0.0)
