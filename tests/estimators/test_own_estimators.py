"""An estimator of one's own: registered, it is an estimator like any other, of each of the three kinds."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import random_model
from rescore.cli import main
from rescore.estimators import ESTIMATORS, build_estimator
from rescore.estimators.base import Estimate
from rescore.estimators.confidence_order import Sequential
from rescore.estimators.drawn_noise import Draw, Drawn
from rescore.estimators.plans import MaskPlan, plan_of_rows
from rescore.lms.network import NetworkScorer
from rescore.nbest import read_nbest, write_nbest
from rescore.nbest.types import Hypothesis, NBestList
from rescore.scores import ELBO, ORDER, PLL

TEXTS = ["the king said", "a king", "the king said"]


class Singly(MaskPlan):
    """PLL, written once more."""

    name, target, unbiased, usual_passes = "own:plan", PLL, True, None

    def _plan(self, length, numbers):
        return plan_of_rows(list(np.eye(length, dtype=bool)), [1.0] * length, [-1] * length)


class RightToLeft(Sequential):
    """Each token given those behind it, one question to the network after the other."""

    name, target, unbiased = "own:order", ORDER, True

    def log_probs(self, network, texts):
        totals = []
        for tokens in texts:
            index, total = np.arange(len(tokens)), 0.0
            for position in index[::-1]:
                ((log_probs, _),) = network.confidences([tokens], [index <= position])
                total += float(log_probs[-1])
            totals.append(total)
        return totals


class Halfway(Drawn):
    """The bound of a single draw in the middle."""

    name, target, unbiased, usual_passes = "own:draw", ELBO, False, None

    def estimate(self, network, seq_tags, texts, *, seed):
        found = []
        for own in texts:
            draws = [Draw(0, 0.5, *np.full((2, len(tokens) + 1), 0.5)) for tokens in own]
            found.append([Estimate(value, None, network.runs_per_draw) for value in network.bounds(own, draws)])
        return found


@pytest.fixture(params=[Singly, RightToLeft, Halfway])
def own(request):
    ESTIMATORS.add(request.param.name, request.param)
    yield request.param
    ESTIMATORS.remove(request.param.name)


def test_an_estimator_that_was_added_scores_from_the_command_line(own, vocab, tmp_path, capsys):
    family = {"name": "masked" if own.measures == "masks" else "uniform"}
    folder = random_model(vocab, family).save(tmp_path / "model")
    lists = [NBestList("u", tuple(Hypothesis(text, {"am": -float(rank)}) for rank, text in enumerate(TEXTS)))]
    write_nbest(tmp_path / "lists.jsonl", lists)
    out = tmp_path / "out.jsonl"
    command = ["score", tmp_path / "lists.jsonl", "--model", f"lm={folder}", "--estimator", own.name, "--out", out]
    with pytest.raises(SystemExit) as stopped:
        main([str(part) for part in command])
    assert not stopped.value.code, capsys.readouterr().err
    first, second, third = read_nbest(out)[0].hypotheses
    assert first.details["lm"]["target"] == own.target
    assert first.scores["lm"] == third.scores["lm"] != second.scores["lm"]
    with pytest.raises(SystemExit):
        main(["estimators"])
    assert f"{own.name:16s} target {own.target}" in capsys.readouterr().out


def test_a_plan_of_ones_own_is_what_it_repeats(model_folder):
    ESTIMATORS.add(Singly.name, Singly)
    try:
        own, built_in = (
            NetworkScorer(model_folder, name="lm", estimator=build_estimator(name)).score_texts("u", TEXTS)
            for name in (Singly.name, "pll")
        )
    finally:
        ESTIMATORS.remove(Singly.name)
    assert own == built_in


def test_an_estimator_of_another_kind_of_family_is_refused_before_anything_is_scored(model_folder):
    with pytest.raises(ValueError, match="estimator own:draw is not for noise by masks"):
        NetworkScorer(model_folder, name="lm", estimator=Halfway())
