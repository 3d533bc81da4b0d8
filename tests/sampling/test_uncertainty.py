"""Filling by certainty: only masked places, as many as said for each row, the right ones first, and the language's law for an exact network."""

from __future__ import annotations

import math

import pytest
import torch
from test_sampling import LENGTH, MASK, SIZE, model_of, p_value

from conftest import random_model
from diffusion_lm.sampling import sample
from diffusion_lm.sampling.by_entropy import CertainFirst, UncertainFirst, adapted, entropy
from tiny_world import random_joint

KINDS = {"certain": CertainFirst, "uncertain": UncertainFirst}


@torch.no_grad()
def fill_by_entropy(model, rows, *, first="certain", seed=1, **options):
    return KINDS[first](model, **options).fill(rows, seed=seed, first=0)


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("options", [{}, {"parameterization": "sedd", "time_conditioning": True}], ids=["subs", "sedd"])
def test_drawn_text_follows_the_joint_distribution(first, options):
    """One position a pass: the chain rule in an order that depends on what is seen. The seed is fixed, p > 0.01 is not luck."""
    joint = random_joint(5, LENGTH, SIZE)
    model = model_of(joint, **options)
    drawn = fill_by_entropy(model, [[MASK] * LENGTH] * 4000, first=first, seed=2)
    assert p_value(drawn.tokens, joint) > 0.01
    assert drawn.passes == model.network.rows == 3 * 4000


def test_the_most_certain_position_is_revealed_first(vocab):
    model = random_model(vocab)
    seen = []
    network, mask = model.network, vocab.mask_id

    class Watched:
        family, device = model.family, model.device

        @staticmethod
        def network(ids, layout, sigma, select):
            seen.append(ids.clone())
            return network(ids, layout, sigma, select)

    row = [5, mask, mask, 7, mask]
    for first, choose in (("certain", torch.argmin), ("uncertain", torch.argmax)):
        seen.clear()
        drawn = fill_by_entropy(Watched, [row], first=first, seed=1)
        assert drawn.tokens[0][0] == 5 and drawn.tokens[0][3] == 7 and mask not in drawn.tokens[0]
        rows = model.frame([row])
        select = (rows.ids == mask).nonzero()[:, 0]
        with torch.no_grad():
            certain = entropy(model.family.predict(network, rows.ids, rows.layout, select=select))
        changed = (seen[0] != seen[1]).nonzero()[:, 0].tolist()
        assert changed == [int(select[choose(certain)])]


@pytest.mark.parametrize(("share", "passes"), [(0.0, 9), (0.5, 5), (1.0, 1)])
def test_each_row_reveals_its_own_count(vocab, share, passes):
    """9 masked: one by one; 4, 2, 1, 1, 1 with a half, though its neighbour has one left; all at once."""
    model, mask = random_model(vocab), vocab.mask_id
    drawn = fill_by_entropy(model, [[mask] * 9, [3, mask, 4], [3, 4], []], share=share)
    assert drawn.passes == passes + 1
    assert [len(row) for row in drawn.tokens] == [9, 3, 2, 0]
    assert drawn.tokens[2] == [3, 4] and not any(mask in row for row in drawn.tokens)


def test_batch_mates_change_nothing(vocab):
    model, mask = random_model(vocab), vocab.mask_id
    rows = [[mask] * 6, [3, mask, 4, mask]]
    assert fill_by_entropy(model, rows, seed=4).tokens[0] == fill_by_entropy(model, rows[:1], seed=4).tokens[0]
    assert fill_by_entropy(model, rows, seed=4).tokens != fill_by_entropy(model, rows, seed=5).tokens


def test_entropy_is_in_nats_and_knows_impossible_symbols():
    log_probs = torch.tensor([[math.log(0.5), math.log(0.5), -math.inf], [0.0, -math.inf, -math.inf]])
    assert entropy(log_probs).tolist() == pytest.approx([math.log(2), 0.0])


def test_the_share_follows_the_mean_entropy_of_each_row():
    """Three rows of the levels 0.8, 0.5 and 0.2: 1.2 times as many steps, as many, 0.8 times as many."""
    full = math.log(8)
    uncertainty = torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1]) * full
    row = torch.tensor([0, 0, 1, 2, 2])
    shares = adapted(torch.full((3,), 0.6, dtype=torch.float64), uncertainty, row, symbols=8)
    assert shares.tolist() == pytest.approx([0.5, 0.6, 0.75])


def test_an_adapted_number_of_passes_depends_on_the_sentence_alone(vocab):
    model, mask = random_model(vocab), vocab.mask_id
    rows = [[mask] * 12, [3, mask, mask, 4, 7]]
    both = fill_by_entropy(model, rows, share=0.4, adapt=True)
    alone = [fill_by_entropy(model, [row], share=0.4, adapt=True) for row in rows]
    assert both.tokens[0] == alone[0].tokens[0]
    assert both.passes == sum(drawn.passes for drawn in alone)


def test_what_can_not_be_filled_is_refused(vocab):
    model = random_model(vocab)
    with pytest.raises(ValueError, match="share 1.5"):
        fill_by_entropy(model, [[1]], share=1.5)
    with pytest.raises(ValueError, match="adapt without a share"):
        fill_by_entropy(model, [[1]], adapt=True)
    with pytest.raises(ValueError, match="only a masked model"):
        fill_by_entropy(random_model(vocab, {"name": "masked", "score_eos": True}), [[1]])


def test_sampling_by_entropy_is_a_predictor_of_the_command(vocab):
    """In batches of any size the same; one pass a token."""
    model = random_model(vocab)
    for predictor, first in (("certain-first", "certain"), ("uncertain-first", "uncertain")):
        drawn = sample(model, [3, 5, 2], predictor=predictor, seed=4, batch_size=2)
        rows = [[vocab.mask_id] * length for length in (3, 5, 2)]
        assert drawn.tokens == fill_by_entropy(model, rows, first=first, seed=4).tokens
        assert drawn.passes == 10
