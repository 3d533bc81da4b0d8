"""Drawing from models with uniform noise: the reverse process of the exact model gives back its language; self-correction."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from conftest import random_model
from diffusion_lm.families import SpecialIds, build_family
from diffusion_lm.layout import Sentences
from diffusion_lm.process import posterior
from diffusion_lm.sampling import sample
from diffusion_lm.sampling.noise import AncestralNoise, clean_marginal
from diffusion_lm.sampling.self_correction import self_correct
from tiny_world import leave_one_out, random_joint

SIZE, LENGTH, STEPS = 3, 2, 48
SPECIAL = SpecialIds(num_pieces=SIZE, mask_id=SIZE, bos_id=SIZE + 1, eos_id=SIZE + 2, num_inputs=SIZE + 3)
JOINT = random_joint(5, LENGTH, SIZE)


class Oracle:
    """The exact leave-one-out denoiser at the sampler's times, as a network."""

    def __init__(self, family):
        self.family = family
        self.times = torch.linspace(1 - family.time_eps, family.time_eps, STEPS + 1, dtype=torch.float64)
        self.levels = family.level_of_time(self.times).float()
        self.states = list(itertools.product(range(SIZE + 1), repeat=LENGTH))
        self.tables = []
        for time in self.times:
            marginal = family.process.marginal(time[None])
            with np.errstate(invalid="ignore", divide="ignore"):
                rows = [leave_one_out(JOINT, marginal, z)[0] for z in self.states]
            self.tables.append(torch.stack(rows))  # [states, LENGTH, SIZE]

    def __call__(self, ids, layout, sigma, select):
        table = self.tables[int((self.levels - sigma[0]).abs().argmin())]
        rows = ids.view(-1, LENGTH + 2)[:, 1:-1]
        answers = table[(rows * torch.tensor([SIZE + 1, 1])).sum(1)].reshape(-1, SIZE)
        return F.pad(answers, (0, 3), value=-50.0)


def law_of_the_chain(family, oracle):
    """Probabilities of all texts at the end of the reverse process, by multiplying its transitions out."""
    now = family.process.marginal(oracle.times[:1])
    prior = now.beta_pi[0] / now.beta_pi[0].sum()
    state = torch.stack([prior[list(z)].prod() for z in oracle.states])
    for place, table in enumerate(oracle.tables):
        last = place == STEPS
        before = clean_marginal(now) if last else family.process.marginal(oracle.times[place + 1 : place + 2])
        moves = torch.zeros(len(oracle.states), len(oracle.states), dtype=torch.float64)
        for index, z in enumerate(oracle.states):
            if state[index] == 0:
                continue
            x_hat = F.pad(table[index].exp(), (0, 3))
            step = posterior(now, before, x_hat, torch.tensor(z), torch.zeros(LENGTH, dtype=torch.int64))
            moves[index] = torch.stack([step[0, a] * step[1, b] for a, b in oracle.states])
        state, now = state @ moves, before
    return state


@pytest.mark.parametrize("name", ["uniform", "hybrid"])
def test_sampler_walks_the_chain_that_gives_back_the_language(name):
    family = build_family({"name": name}, SPECIAL)
    oracle = Oracle(family)
    law = law_of_the_chain(family, oracle)
    clean = law[[index for index, z in enumerate(oracle.states) if SIZE not in z]]
    assert float(clean.sum()) == pytest.approx(1.0, abs=1e-9), "nothing stays masked"
    assert np.abs(clean.numpy() - JOINT.flatten()).max() < 0.02, "the steps are finite"
    model = SimpleNamespace(family=family, network=oracle, device=torch.device("cpu"))
    count = 3000
    drawn = AncestralNoise(model, steps=STEPS).draw_all([LENGTH] * count, batch_size=count)
    seen = np.zeros(SIZE**LENGTH)
    for first, second in drawn.tokens:
        seen[first * SIZE + second] += 1
    assert chisquare(seen, clean.numpy() / clean.numpy().sum() * count).pvalue > 1e-4
    assert drawn.passes == count * (STEPS + 1)


@pytest.mark.parametrize("name", ["uniform", "hybrid"])
def test_samples_do_not_depend_on_batches_and_end_greedily_when_asked(vocab, name):
    model = random_model(vocab, {"name": name})
    lengths = [3, 5, 1]
    together = sample(model, lengths, steps=7, seed=3)
    apart = sample(model, lengths, steps=7, seed=3, batch_size=1)
    assert together.tokens == apart.tokens and [len(tokens) for tokens in together.tokens] == lengths
    assert all(0 <= token < vocab.num_pieces for tokens in together.tokens for token in tokens)
    early = random_model(vocab, {"name": name, "time_eps": 0.09})  # so much noise is left to the last step
    ends = [sample(early, [12] * 4, predictor=how, steps=3, seed=3).tokens for how in ("ancestral", "greedy-tail")]
    assert ends[0] != ends[1]
    with pytest.raises(ValueError, match="greedy-tail"):
        sample(model, lengths, predictor="ddpm")


class Speller:
    """A network that is sure of one text, whatever it sees."""

    def __init__(self, text):
        self.text = text

    def __call__(self, ids, layout, sigma, select):
        return F.one_hot(torch.tensor(self.text)[layout.position[select] - 1], SPECIAL.num_inputs).double() * 40


@pytest.mark.parametrize("name", ["uniform", "hybrid"])
def test_an_end_that_is_scored_is_drawn_too(name):
    """The first EOS ends the sentence; without one the sentence has the length that was asked for."""
    family = build_family({"name": name, "score_eos": True}, SPECIAL)
    for text, drawn in (([2, 1, SPECIAL.eos_id, 0, 1], [2, 1]), ([0, 1, 2, 0, 1], [0, 1, 2, 0, 1])):
        model = SimpleNamespace(family=family, network=Speller(text), device=torch.device("cpu"))
        assert AncestralNoise(model, steps=20).draw_all([4]).tokens == [drawn]


def test_self_correction_mends_one_token_a_round_and_stops():
    family = build_family({"name": "hybrid"}, SPECIAL)
    frame = lambda rows: Sentences.of(rows, bos_id=SPECIAL.bos_id, eos_id=SPECIAL.eos_id)  # noqa: E731
    model = SimpleNamespace(family=family, network=Speller([2, 0, 1]), device=torch.device("cpu"), frame=frame)
    mended = self_correct(model, [[2, 1, 0], [2, 0, 1], []])
    assert mended.tokens == [[2, 0, 1], [2, 0, 1], []]
    assert (mended.changed, mended.agreement, mended.passes) == (2, 1.0, 3 + 1)
    half = self_correct(model, [[2, 1, 0]], most_rounds=1)
    assert half.changed == 1 and half.agreement == pytest.approx(2 / 3)


def test_self_correction_is_refused_where_it_means_nothing(vocab):
    with pytest.raises(ValueError, match="uniform or hybrid"):
        self_correct(random_model(vocab), [[1]])
    with pytest.raises(ValueError, match="temperature"):
        self_correct(random_model(vocab, {"name": "uniform"}), [[1]], temperature=0.0)
