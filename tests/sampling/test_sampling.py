"""Samplers draw from the joint distribution that an exact denoiser belongs to; batches, caching and rounding change nothing."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from conftest import random_model
from diffusion_lm.families import SpecialIds, build_family
from diffusion_lm.sampling import SAMPLERS, Sampler, build_sampler, sample
from diffusion_lm.sampling.masked import PREDICTORS, Cached
from diffusion_lm.sampling.samples import Samples, categorical, draw_lengths, sample_entropy
from diffusion_lm.schedule import build_schedule
from tiny_world import conditionals, random_joint

LENGTH, SIZE, COUNT = 3, 3, 6000
MASK = SIZE
SPECIAL = SpecialIds(num_pieces=SIZE, mask_id=MASK, bos_id=SIZE + 1, eos_id=SIZE + 2, num_inputs=SIZE + 3)


class JointNetwork:
    """The exact denoiser of a joint table as a network for sentences of its length; counts its calls and remembers the levels."""

    def __init__(self, joint: np.ndarray):
        answer = conditionals(joint)
        self.table = torch.zeros((SIZE + 1) ** LENGTH, LENGTH, SIZE, dtype=torch.float64)
        for code, z in enumerate(itertools.product(range(SIZE + 1), repeat=LENGTH)):
            mask = tuple(token == MASK for token in z)
            for token in range(SIZE):
                self.table[code, :, token] = torch.from_numpy(
                    answer(tuple(token if hidden else seen for seen, hidden in zip(z, mask)), mask)
                )
        self.rows, self.levels = 0, set()

    def __call__(self, ids, layout, sigma, select):
        inner = ids.view(-1, LENGTH + 2)[:, 1:-1]
        code = (inner * (SIZE + 1) ** torch.arange(LENGTH - 1, -1, -1)).sum(1)
        self.rows += len(inner)
        if sigma is not None:
            self.levels |= set(sigma.tolist())
        return self.table[code[layout.row[select]], layout.position[select] - 1]


@pytest.fixture(scope="module")
def joint():
    return random_joint(5, LENGTH, SIZE)


def model_of(joint, **options):
    family = build_family({"name": "masked", **options}, SPECIAL)
    return SimpleNamespace(family=family, network=JointNetwork(joint), device=torch.device("cpu"))


def p_value(drawn, joint):
    counts = np.zeros(joint.shape)
    np.add.at(counts, tuple(np.array(drawn).T), 1)
    return chisquare(counts.ravel(), joint.ravel() * len(drawn)).pvalue


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("schedule", ["loglinear", "cosine", "geometric"])
def test_samples_follow_the_joint_distribution(joint, predictor, schedule):
    """500 steps: two of the three tokens fall into one step in under 1 % of the sentences. The seed is fixed, p > 0.01 is not luck."""
    model = model_of(joint, schedule=schedule)
    drawn = sample(
        model, [LENGTH] * COUNT, predictor=predictor, steps=500 if predictor != "ddpm" else 200, batch_size=COUNT
    )
    assert p_value(drawn.tokens, joint) > 0.01
    assert drawn.unfinished == 0


def test_one_step_draws_the_product_of_the_marginals(joint):
    """So the test above would notice a sampler that reveals everything at once."""
    drawn = sample(model_of(joint), [LENGTH] * COUNT, steps=1, batch_size=COUNT).tokens
    margins = [joint.sum(tuple(other for other in range(LENGTH) if other != axis)) for axis in range(LENGTH)]
    assert p_value(drawn, np.einsum("i,j,k->ijk", *margins)) > 0.01
    assert p_value(drawn, joint) < 1e-6


def test_filling_draws_the_rest_given_what_is_visible(joint):
    drawn = Cached(model_of(joint), steps=500).fill([[MASK, 2, MASK]] * COUNT, seed=1, first=0)
    assert {row[1] for row in drawn.tokens} == {2}
    given = joint[:, 2, :] / joint[:, 2, :].sum()
    assert p_value([[first, last] for first, _, last in drawn.tokens], given) > 0.01


@pytest.mark.parametrize("time_conditioning", [False, True])
def test_cached_is_uncached_bit_for_bit_in_at_most_one_pass_a_token(joint, time_conditioning):
    models = [model_of(joint, time_conditioning=time_conditioning) for _ in range(2)]
    cached, uncached = (
        sample(model, [LENGTH] * 300, predictor=name, steps=100) for model, name in zip(models, ("ddpm_cache", "ddpm"))
    )
    assert cached.tokens == uncached.tokens
    assert cached.passes == models[0].network.rows <= 300 * LENGTH
    assert uncached.passes == models[1].network.rows > 300 * 50


def test_time_conditioned_network_is_told_the_time_of_the_step(joint):
    model = model_of(joint, time_conditioning=True)
    sample(model, [LENGTH] * 20, predictor="ddpm", steps=10)
    grid = torch.linspace(1, 1e-5, 11, dtype=torch.float64)[:-1].clamp(1e-3, 1.0)
    expected = build_schedule("loglinear").sigma(grid).tolist()
    assert sorted(model.network.levels) == pytest.approx(sorted(expected), rel=1e-4)


@pytest.mark.parametrize("schedule", ["loglinear", "linear", "cosinesqr"])
def test_analytic_step_of_the_score_has_the_law_of_the_ancestral_step(schedule):
    """The Tweedie step of SEDD, written out from its score (arXiv 2310.16834), for a masked and for a visible token."""
    noise = build_schedule(schedule)
    p = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)  # the last symbol is the mask
    t, s = torch.tensor([0.7, 0.55], dtype=torch.float64)
    sigma, delta = noise.sigma(t), noise.sigma(t) - noise.sigma(s)
    mask = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    token = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    reveal = (noise.mask_probability(t) - noise.mask_probability(s)) / noise.mask_probability(t)
    scores = {"masked": (mask, p / torch.expm1(sigma) + mask), "visible": (token, mask * torch.expm1(sigma) + token)}
    expected = {"masked": reveal * p + (1 - reveal) * mask, "visible": token}
    for name, (here, score) in scores.items():
        staggered = delta.exp() * score + (1 - delta.exp()) * score.sum() * mask
        transition = (-delta).exp() * here + (1 - (-delta).exp()) * here[-1]
        assert torch.allclose(staggered * transition, expected[name], atol=1e-12), name


def test_without_noise_removal_a_mask_may_stay(joint, monkeypatch):
    monkeypatch.setattr("diffusion_lm.sampling.masked.LAST_TIME", 0.5)
    kept = sample(model_of(joint), [LENGTH] * 200, steps=10, noise_removal=False)
    assert sum(MASK in row for row in kept.tokens) == kept.unfinished
    assert 0.8 * 175 < kept.unfinished < 200, "7 of 8 sentences keep one"
    for predictor in PREDICTORS:
        clean = sample(model_of(joint), [LENGTH] * 200, steps=10, predictor=predictor)
        assert clean.unfinished == 0
        revealed = [(a, b) for a, b in zip(kept.tokens, clean.tokens) for a, b in zip(a, b) if a != MASK]
        assert all(a == b for a, b in revealed)


def test_samples_do_not_depend_on_the_batch(vocab):
    """Real networks, rows of several lengths."""
    for family in ({"name": "masked"}, {"name": "masked", "time_conditioning": True}, {"name": "autoregressive"}):
        model = random_model(vocab, family)
        lengths = [4, 9, 2, 7, 7]
        whole, single = (sample(model, lengths, steps=50, seed=3, batch_size=size) for size in (5, 1))
        assert whole.tokens == single.tokens
        assert sample(model, lengths, steps=50, seed=4).tokens != whole.tokens
        if not model.family.exact:
            assert [len(row) for row in whole.tokens] == lengths


def test_autoregressive_samples_follow_the_model(vocab):
    """Sentences of at most one piece: their frequencies against the model's own probabilities."""
    model = random_model(vocab, {"name": "autoregressive"}, seed=2)
    drawn = sample(model, [1] * 4000, batch_size=4000)
    sentences = model.frame([[token] for token in range(vocab.num_pieces)])
    with torch.no_grad():
        log_probs = model.family.clean_log_probs(model.network, sentences).view(-1, 2)
    allowed = [token for token in range(vocab.num_pieces) if token not in (vocab.bos_id, vocab.eos_id)]
    first = log_probs[allowed, 0].exp().double().numpy()
    counts = np.bincount([row[0] for row in drawn.tokens if row], minlength=vocab.num_pieces)[allowed]
    expected = np.append(first, 1 - first.sum()) * len(drawn.tokens)
    assert chisquare(np.append(counts, sum(not row for row in drawn.tokens)), expected).pvalue > 0.01
    ends = float((first * log_probs[allowed, 1].exp().double().numpy()).sum())
    finished = sum(len(row) == 1 for row in drawn.tokens) - drawn.unfinished
    assert finished == pytest.approx(ends * 4000, abs=4 * math.sqrt(ends * 4000))


def test_scored_end_of_sentence_is_drawn_too(vocab):
    drawn = sample(random_model(vocab, {"name": "masked", "score_eos": True}), [6] * 40, steps=50)
    assert all(vocab.eos_id not in row and vocab.mask_id not in row for row in drawn.tokens)
    assert max(len(row) for row in drawn.tokens) <= 7


def test_windows_slide(vocab):
    model = random_model(vocab)
    sampler = build_sampler(model, "semi-autoregressive", stride=2, num_strides=3, steps=20)
    drawn = sampler.draw_all([5, 8])
    assert [len(row) for row in drawn.tokens] == [11, 14]
    assert drawn.unfinished == 0
    assert drawn.tokens != sampler.draw_all([5, 8], seed=2).tokens
    assert drawn.tokens == sampler.draw_all([5, 8], batch_size=1).tokens


def test_categorical_never_hits_what_can_not_be():
    log_probs = torch.tensor([[-math.inf, 0.0, -math.inf], [math.log(0.25), -math.inf, math.log(0.75)]]).repeat(3, 1)
    uniform = torch.tensor([0.0, 0.0, 0.5, 0.2, 1 - 2**-53, 1 - 2**-53], dtype=torch.float64)
    assert categorical(log_probs, uniform).tolist() == [1, 0, 1, 0, 1, 2]


def test_lengths_are_those_of_real_sentences():
    assert set(draw_lengths([4, 4, 9, 0], 200, seed=1)) == {4, 9}
    assert draw_lengths([4, 4, 9], 50, seed=1) == draw_lengths([4, 4, 9], 50, seed=1)
    with pytest.raises(ValueError, match="no sentence"):
        draw_lengths([0], 3)


def test_entropy_of_samples():
    assert sample_entropy([[1, 2, 3, 4]]) == pytest.approx(math.log(4))
    assert sample_entropy([[7, 7, 7], [1, 2]]) == pytest.approx(math.log(2) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predictor": "euler"}, "'euler' is unknown; expected one of ddpm"),
        ({"steps": 0}, "steps 0"),
        ({"batch_size": 0}, "batch size 0"),
    ],
)
def test_bad_settings_are_named(joint, options, message):
    with pytest.raises(ValueError, match=message):
        sample(model_of(joint), [LENGTH], **options)


def test_bad_lengths_and_models_are_named(joint, vocab):
    with pytest.raises(ValueError, match="lengths"):
        sample(model_of(joint), [0])
    with pytest.raises(ValueError, match="stride 4"):
        build_sampler(model_of(joint), "semi-autoregressive", stride=4, num_strides=1).draw_all([3])
    with pytest.raises(ValueError, match="'ddpm' is unknown; expected one of left-to-right"):
        sample(random_model(vocab, {"name": "autoregressive"}), [1], predictor="ddpm")


def test_options_of_another_sampler_are_refused_with_those_of_this_one(joint, vocab):
    for predictor, options, message in (
        ("ddpm", {"share": 0.1}, "predictor 'ddpm' has no option 'share'; expected one of steps, noise_removal"),
        ("certain-first", {"noise_removal": False}, "no option 'noise_removal'; expected one of share"),
        ("semi-autoregressive", {"stride": 2}, "without its option 'num_strides'"),
    ):
        with pytest.raises(ValueError, match=message):
            build_sampler(model_of(joint), predictor, **options)
    with pytest.raises(ValueError, match="no option 'nucleus_p'; expected one of fixed_length"):
        sample(random_model(vocab, {"name": "autoregressive"}), [1], nucleus_p=0.5)


def test_a_sampler_of_ones_own_is_one_entry(joint):
    class Always(Sampler):
        def __init__(self, model, *, token=0):
            super().__init__(model)
            self.token = token

        def draw(self, lengths, *, seed, first):
            return Samples([[self.token] * length for length in lengths], 0, 0)

    SAMPLERS["masks"].add("always", Always)
    try:
        assert build_sampler(model_of(joint), "always", token=2).draw_all([2, 3]).tokens == [[2, 2], [2, 2, 2]]
    finally:
        SAMPLERS["masks"].remove("always")
