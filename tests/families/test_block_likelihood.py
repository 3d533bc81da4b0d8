"""The exact likelihood of block models: a distribution, that of the sampler, and never worse than the bound."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from test_block import enumerated_bound

from block_world import EOS, SIZE, Inconsistent, Language, family_of, frame
from conftest import random_model
from diffusion_lm.evaluate import evaluate_tokens


def mean_over_orders(family, network, text):
    """-log p of a text by its definition: every order of every block, one token at a time. Nats."""
    size = family.block_size
    sentences = frame(text if not family.fill_last else text + (EOS,) * (-(len(text) + 2) % size))
    count, total = len(sentences.ids), 0.0
    for start in range(0, count, size):
        places = list(range(max(start, 1), min(start + size, count)))
        probability = 0.0
        for order in itertools.permutations(places):
            masked = torch.zeros(count, dtype=torch.bool)
            masked[places] = True
            product = 1.0
            for place in order:
                log_probs = family.token_log_probs(network, sentences, masked)
                product *= math.exp(float(log_probs[masked.nonzero()[:, 0].tolist().index(place)]))
                masked[place] = False
            probability += product / math.factorial(len(places))
        total -= math.log(probability) if places else 0.0
    return total


@pytest.mark.parametrize("options", [{}, {"fill_last": False}], ids=str)
@pytest.mark.parametrize("size", [2, 3, 4])
def test_it_is_the_mean_over_the_orders_of_the_sampler_and_below_the_bound(size, options):
    family, network = family_of(size, **options), Inconsistent(size)
    texts = [(2, 0, 1, 1, 0), (), (1,), (0, 2, 2)]
    found = family.nll(network, frame(*texts)).tolist()
    for text, value in zip(texts, found):
        assert value == pytest.approx(mean_over_orders(family, network, text), rel=1e-6)
        assert value <= enumerated_bound(family, network, text) + 1e-6


@pytest.mark.parametrize("size", [1, 2, 3])
def test_of_the_exact_denoiser_it_is_the_languages(size):
    language = Language(3, 2, size)
    texts = [text for text, p in language.p.items() if p > 1e-4]
    found = family_of(size).nll(language, frame(*texts)).tolist()
    assert found == pytest.approx([-math.log(language.p[text]) for text in texts], rel=1e-5)


def test_it_adds_up_to_one_where_the_bound_does_not():
    """All texts of two tokens, EOS among them, in one block after BOS."""
    family, network = family_of(3), Inconsistent(3)
    symbols = (*range(SIZE), EOS)
    texts = list(itertools.product(symbols, repeat=2))
    sentences = frame(*(text[:-1] for text in texts))
    sentences.ids[sentences.is_eos] = torch.tensor([text[-1] for text in texts])
    total = float(torch.exp(-family.nll(network, sentences)).sum())
    assert total == pytest.approx(1, abs=1e-6)


def test_perplexity_takes_it_in_place_of_the_bound(vocab):
    model = random_model(vocab, {"name": "block", "block_size": 3})
    rows = [[5, 6, 7, 8, 9], [7, 7]]
    exact = evaluate_tokens(model, rows, words=4, likelihood=True)
    bound = evaluate_tokens(model, rows, words=4, passes=400)
    assert exact.exact and exact.standard_error == 0 and exact.tokens == bound.tokens
    assert exact.nelbo < bound.nelbo + 3 * bound.standard_error
    with torch.no_grad():
        assert exact.nelbo == pytest.approx(float(model.family.nll(model.network, model.frame(rows)).sum()), rel=1e-5)


def test_where_it_can_not_be_computed_it_is_refused(vocab):
    with pytest.raises(ValueError, match="takes 511 runs a sentence; expected blocks of at most 8"):
        family_of(9).nll(Inconsistent(9), frame((0, 1)))
    with pytest.raises(ValueError, match="MaskedFamily has no exact likelihood"):
        evaluate_tokens(random_model(vocab), [[5, 6]], words=1, likelihood=True)
