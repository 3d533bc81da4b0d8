"""Perplexity: exact sums, an honest error bar, independence of the batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from conftest import random_model
from diffusion_lm.draws import NoiseDraw
from diffusion_lm.evaluate import evaluate_text

TEXT = "the king said\na tree\n\nhe went to the old house\nthe great child\n"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_autoregressive_perplexity_is_the_sum_of_its_sentences(vocab, text):
    model = random_model(vocab, {"name": "autoregressive"})
    nothing = NoiseDraw(torch.empty(0), torch.empty(0))
    lines = [line for line in TEXT.splitlines() if line]
    with torch.no_grad():
        expected = sum(float(model.family.nelbo(model.network, model.sentences([line]), nothing)) for line in lines)
    result = evaluate_text(model, [text], batch_tokens=12)
    assert result.nelbo == pytest.approx(expected, rel=1e-6)
    assert (result.exact, result.standard_error, result.sentences, result.words) == (True, 0.0, 4, 14)
    assert result.tokens == sum(len(vocab.encode(line)) + 1 for line in lines)
    assert result.per_token == pytest.approx(math.exp(expected / result.tokens))


def test_error_bar_is_the_spread_over_seeds(vocab, text):
    """The passes of a sentence are stratified, so the stated variance may be too large, not too small."""
    model = random_model(vocab)
    results = [evaluate_text(model, [text], passes=4, seed=seed) for seed in range(60)]
    spread = np.std([result.nelbo for result in results], ddof=1)
    stated = math.sqrt(np.mean([result.standard_error**2 for result in results]))
    assert 0.75 * spread < stated < 3 * spread


def test_perplexity_does_not_depend_on_batches(vocab, text):
    model = random_model(vocab)
    first, second = (evaluate_text(model, [text], passes=3, batch_tokens=budget) for budget in (30, 10_000))
    assert first.nelbo == pytest.approx(second.nelbo, rel=1e-5)
    assert first.standard_error == pytest.approx(second.standard_error, rel=1e-4)


def test_text_without_a_sentence_and_a_single_pass_are_refused(vocab, tmp_path, text):
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"empty\.txt"):
        evaluate_text(random_model(vocab), [tmp_path / "empty.txt"])
    with pytest.raises(ValueError, match="at least 2"):
        evaluate_text(random_model(vocab), [text], passes=1)
