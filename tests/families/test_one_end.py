"""GPT-2's vocabulary has one id for BOS and EOS. That is another name and nothing else: bounds, losses and samples are those of two ids.

Two worlds with the same network: pieces 0 1 2, mask 3, BOS 4, EOS 5; and pieces 0 1 2 and END 3 (a piece, as in GPT-2's vocabulary), mask 4.
"""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import random_model
from diffusion_lm.draws import NoiseDraw, draw_noise
from diffusion_lm.families import FAMILIES, SpecialIds, build_family
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.sampling import build_sampler, sample
from rescore.estimators import build_estimator
from rescore.lms.network import NetworkScorer
from returnn_bridge.vocab.open import load_vocab

TWO = SpecialIds(num_pieces=3, mask_id=3, bos_id=4, eos_id=5, num_inputs=6)
ONE = SpecialIds(num_pieces=4, mask_id=4, bos_id=3, eos_id=3, num_inputs=5)
OUTPUTS = [0, 1, 2, 5, 3]  # of the first world, in the order of the second one's ids; nothing is BOS there
OPTIONS = [
    *({"name": name} for name in FAMILIES),
    {"name": "masked", "score_eos": True},
    {"name": "masked", "score_eos": True, "shift": True},
    {"name": "masked", "score_eos": True, "parameterization": "sedd"},
    {"name": "masked", "score_eos": True, "parameterization": "d3pm", "T": 20},
    {"name": "hybrid", "score_eos": True},
    {"name": "uniform", "score_eos": True, "curriculum_steps": 9},
    {"name": "block", "block_size": 1},
    {"name": "block", "block_size": 3, "fill_last": False},
]
TEXTS = [(2, 0, 1, 1), (), (1,), (0, 2)]


def two_ids(ids, layout, sigma, select, context=None, blend=None):
    """A denoiser that belongs to no joint distribution, of all that its row holds."""
    every = range(len(ids)) if select is None else select.tolist()
    starts = (torch.cumsum(layout.lengths, 0) - layout.lengths).tolist()
    logits = torch.zeros(len(every), TWO.num_inputs, dtype=torch.float64)
    for index, flat in enumerate(every):
        row = int(layout.row[flat])
        inside = slice(starts[row], starts[row] + int(layout.lengths[row]))
        seen = [] if context is None else context[inside].tolist()
        key = [int(layout.position[flat]), *ids[inside].tolist(), *seen]
        logits[index] = torch.from_numpy(np.random.default_rng(key).normal(size=TWO.num_inputs) * 1.5)
    return logits


def one_id(ids, layout, sigma, select, context=None, blend=None):
    """The same network in the other world."""

    def translated(own):
        if own is None:
            return None
        names = torch.tensor([0, 1, 2, TWO.eos_id, TWO.mask_id])[own]
        return torch.where(layout.position == 0, TWO.bos_id, names)

    return two_ids(translated(ids), layout, sigma, select, translated(context))[:, OUTPUTS]


def worlds(options):
    """(family, network, sentences) of each world."""
    for special, network in ((TWO, two_ids), (ONE, one_id)):
        sentences = Sentences.of(TEXTS, bos_id=special.bos_id, eos_id=special.eos_id)
        yield build_family(options, special), network, sentences


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_bounds_and_losses_are_those_of_two_ids(options):
    values, losses = [], []
    for family, network, sentences in worlds(options):
        draw = draw_noise(sentences.layout.lengths, torch.Generator().manual_seed(3), stratified=False)
        values.append(family.nelbo(network, sentences, draw))
        losses.append(family.training_loss(network, sentences, draw).loss.double())
    assert torch.isfinite(values[0]).all()
    assert torch.allclose(values[0], values[1], rtol=1e-6)
    assert torch.allclose(losses[0], losses[1], rtol=1e-6)


def left_to_right(ids, layout, sigma, select, context=None):
    """A network in the world of one id that looks at the tokens before the one it predicts, whether it is autoregressive or of blocks of one."""
    rows = (ids if context is None else context).split(layout.lengths.tolist())
    logits = torch.zeros(len(select), ONE.num_inputs, dtype=torch.float64)
    for index, flat in enumerate(select.tolist()):
        place = int(layout.position[flat]) + (context is None)
        before = rows[int(layout.row[flat])][:place].tolist()
        logits[index, :4] = torch.from_numpy(next_logits(before))
    logits[:, ONE.mask_id] = 60.0  # what is left out must not matter
    return logits


def next_logits(before):
    return np.random.default_rng(before).normal(size=4)


def next_p(before, token):
    p = np.exp(next_logits(before))
    return p[token] / p.sum()


@pytest.mark.parametrize("options", [{"name": "autoregressive"}, {"name": "block", "block_size": 1}], ids=str)
def test_exact_scores_are_the_chain_rule_with_its_end(options):
    """Of all texts of up to three pieces; with those that begin with any three and go on, they sum to 1."""
    texts = [text for length in range(4) for text in itertools.product(range(3), repeat=length)]
    sentences = Sentences.of(texts, bos_id=ONE.bos_id, eos_id=ONE.eos_id)
    family = build_family(options, ONE)
    found = family.nelbo(left_to_right, sentences, NoiseDraw(torch.empty(0), torch.empty(0))).tolist()
    total = 0.0
    for text, nelbo in zip(texts, found):
        framed = [ONE.bos_id, *text, ONE.eos_id]
        expected = [next_p(framed[:place], framed[place]) for place in range(1, len(framed))]
        assert nelbo == pytest.approx(-np.log(expected).sum(), rel=1e-9)
        total += np.exp(-nelbo) / (expected[-1] if len(text) == 3 else 1)
    assert total == pytest.approx(1, rel=1e-9)


# Draws are by the order of the ids, and the mask of a hybrid model, which is drawn too, has another place in it.
@pytest.mark.parametrize("options", [own for own in OPTIONS if own != {"name": "hybrid", "score_eos": True}], ids=str)
def test_samples_are_those_of_two_ids(options):
    drawn = []
    for family, network, _ in worlds(options):
        model = SimpleNamespace(family=family, network=network, device=torch.device("cpu"))
        lengths = [1, 4, 2, 3] * 3
        if family.block_size is not None:
            found = build_sampler(model, cached=False).draw_all(lengths)
        else:
            found = sample(model, lengths, steps=4)
        drawn.append((found.tokens, found.unfinished))
    assert drawn[0] == drawn[1]
    assert {token for row in drawn[1][0] for token in row} <= {0, 1, 2}
    if family.scores_end:
        assert any(len(row) < length for row, length in zip(drawn[1][0], lengths))


@pytest.mark.parametrize("options", [{"score_eos": True}, {"score_eos": False}], ids=str)
def test_every_estimator_scores_the_end_of_a_masked_model(gpt2_folder, tmp_path, options):
    """pll is the sum of log p of each token masked alone, worked out here from the network's outputs; the others are finite."""
    vocab = load_vocab(gpt2_folder)
    model = random_model(vocab, {"name": "masked", **options})
    folder, text = str(model.save(tmp_path / "model")), "the king said"
    ids = vocab.encode(text)
    score = NetworkScorer(folder, estimator=build_estimator("pll")).score_texts("utterance", [text])[0]
    framed = [vocab.bos_id, *ids, vocab.eos_id]
    expected, last = 0.0, len(framed) if options["score_eos"] else len(framed) - 1
    for place in range(1, last):
        noised = torch.tensor([*framed[:place], vocab.mask_id, *framed[place + 1 :]])
        logits = model.network(noised, Layout(torch.tensor([len(framed)])), None, torch.tensor([place]))[0].detach()
        # Every piece, <|endoftext|> where the end is scored; never the mask.
        possible = logits[: vocab.num_pieces - (not options["score_eos"])]
        expected += float(torch.log_softmax(possible.double(), -1)[framed[place]])
    assert score.log_prob == pytest.approx(expected, rel=1e-5)
    assert score.num_tokens == last - 1
    for name in ("control", "strided", "order:l2r", "order:confidence", "fixed-k"):
        scores = NetworkScorer(folder, estimator=build_estimator(name)).score_texts("utterance", [text, "", "a"])
        assert all(math.isfinite(own.log_prob) for own in scores)
