"""Scores of families whose noise is no mask: the same laws as for plans of masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from conftest import random_model, utterances_of
from diffusion_lm.draws import draw_noise
from rescore.commands.race import race
from rescore.estimators import build_estimator
from rescore.lms.network import NetworkScorer
from rescore.lms.open import open_scorer
from rescore.lms.options import ScoringOptions
from rescore.scores import standard_error

TEXTS = ["the king said", "the king went", "the old king said", "a king", "", "the king said"]
FAMILIES = [{"name": "uniform"}, {"name": "hybrid"}, {"name": "hybrid", "p_uniform": 0.0, "shift": True}]
every_family = pytest.mark.parametrize("family", FAMILIES, ids=str)


def scorer_of(folder, name="draws", *, passes=8, replicates=2, **options):
    how = build_estimator(name, passes=passes if name == "draws" else None, replicates=replicates)
    return NetworkScorer(str(folder), name="lm", estimator=how, **options)


@pytest.fixture
def folder(vocab, tmp_path, family):
    return random_model(vocab, family).save(tmp_path / "model")


def values(scores):
    return [score.log_prob for score in scores]


@every_family
def test_mean_over_seeds_is_the_bound(folder, vocab, family):
    """Against the mean of the family's own nelbo over independent noise; z below 4.5."""
    scorer = scorer_of(folder)
    found = np.array([values(scorer_of(folder, seed=seed).score_texts("utt", TEXTS[:3])) for seed in range(60)])
    family_ = scorer.model.family
    for place, text in enumerate(TEXTS[:3]):
        sentences = scorer.model.sentences([text] * 3000)
        draw = draw_noise(sentences.layout.lengths, torch.Generator().manual_seed(place), stratified=False)
        with torch.no_grad():
            plain = -family_.nelbo(scorer.model.network, sentences, draw).numpy()
        error = np.sqrt(plain.var() / len(plain) + found[:, place].var() / len(found))
        assert abs(plain.mean() - found[:, place].mean()) < 4.5 * error


@every_family
def test_scores_do_not_depend_on_order_batch_size_or_other_utterances(folder, family):
    for name in ("draws", "one-pass") if family.get("p_uniform", 1) else ("draws",):
        alone = scorer_of(folder, name).score_texts("utt", TEXTS)
        turned = scorer_of(folder, name, batch_tokens=40).score_group(
            utterances_of({"other": ["a tree"], "utt": TEXTS[::-1]})
        )[1]
        assert values(turned[::-1]) == pytest.approx(values(alone), abs=1e-3)
        assert alone[0] == alone[-1], "the same text has the same score"
        assert values(alone)[4] == 0 and alone[4].num_passes == 0, "nothing is scored in an empty text"


@every_family
def test_shared_noise_shrinks_the_error_of_a_difference(folder, family):
    first, second = scorer_of(folder, passes=32, replicates=8).score_texts("utt", TEXTS[:2])
    difference = standard_error(np.subtract(first.replicates, second.replicates).tolist())
    assert difference < 0.8 * np.hypot(first.standard_error, second.standard_error)
    assert (first.num_passes, first.num_tokens, first.target) == (64, len(first_tokens(folder)), "elbo")


def first_tokens(folder):
    return scorer_of(folder).encode(TEXTS[:1])[0]


@pytest.mark.parametrize("family", FAMILIES[:2], ids=str)
def test_one_pass_is_deterministic_and_no_bound(folder, family):
    scorer = scorer_of(folder, "one-pass")
    scores = scorer.score_texts("utt", TEXTS)
    assert (scores[0].standard_error, scores[0].num_passes, scores[0].target) == (0.0, 1, "one-pass pll")
    assert scorer.passes_run == 5, "the distinct texts"
    sentences = scorer.model.sentences(TEXTS[:1])
    with torch.no_grad():
        expected = scorer.model.family.one_pass(scorer.model.network, sentences)
    assert scores[0].log_prob == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES[:1], ids=str)
def test_what_does_not_fit_is_refused(folder, model_folder, family, vocab, tmp_path):
    with pytest.raises(ValueError, match="expected draws or one-pass"):
        scorer_of(folder).with_estimator(build_estimator("pll")).score_texts("utt", TEXTS)
    with pytest.raises(ValueError, match="not for noise by masks"):
        scorer_of(model_folder).score_texts("utt", TEXTS)
    assert open_scorer(str(folder), ScoringOptions()).estimator.name == "one-pass"
    blind = random_model(vocab, FAMILIES[2]).save(tmp_path / "blind")
    assert open_scorer(str(blind), ScoringOptions()).estimator.name == "draws"
    with pytest.raises(ValueError, match="see errors"):
        scorer_of(blind, "one-pass").score_texts("utt", TEXTS)
    assert json.dumps(scorer_of(folder).describe())


@pytest.mark.parametrize("family", FAMILIES[:1], ids=str)
def test_a_race_of_what_is_no_ladder_is_refused_before_anything_is_scored(folder, tmp_path, family):
    options = {"calibrate": ["none.jsonl"], "scales": tmp_path / "none.json", "out": tmp_path / "out.jsonl"}
    for estimator, ladder in (("auto", "draws:2"), ("draws", "strided:2")):
        with pytest.raises(ValueError, match="draws:2,draws:4"):
            race(["none.jsonl"], model=str(folder), scoring=ScoringOptions(estimator), ladder=ladder, **options)
