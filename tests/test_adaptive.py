"""Adaptive masking: the policy can not touch a score, and what each policy trains on is what it says it is."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.integrate import quad

from conftest import TINY, random_model
from diffusion_lm import presets
from diffusion_lm.config import TrainConfig, apply_overrides
from diffusion_lm.draws import NoiseDraw, draw_noise
from diffusion_lm.families import PolicyFamily, SpecialIds, build_family
from diffusion_lm.families.adaptive import tilt_penalty, tilted_rate, tilted_weight
from diffusion_lm.families.importance import ImportanceNetwork, rank_error, weighted_rank
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.lit_module import TrainingModule
from diffusion_lm.model import LanguageModel
from diffusion_lm.train import train
from returnn_bridge.batching import Position, TokenBatch
from tiny_world import TableNetwork, conditionals, inconsistent, random_joint

SIZE = 3
SPECIAL = SpecialIds(num_pieces=SIZE, mask_id=SIZE, bos_id=SIZE + 1, eos_id=SIZE + 2, num_inputs=SIZE + 3)
PLAIN = {
    "losses": {"policy": "losses", "pi_min": 1.0},
    "curriculum": {"policy": "curriculum", "curriculum_steps": 10, "focus": 1.0},
    "tilted": {"policy": "tilted", "beta": 0.0},
}
REAL = {
    "losses": {"policy": "losses", "pi_min": 0.2},
    "curriculum": {"policy": "curriculum", "curriculum_steps": 10},
    "tilted": {"policy": "tilted", "beta": 3.0},
}


def adaptive(options=None, special=SPECIAL):
    return build_family({"name": "adaptive", **(options or {})}, special)


def frame(*rows, special=SPECIAL):
    return Sentences.of(rows, bos_id=special.bos_id, eos_id=special.eos_id)


def random_network(seed=0):
    logits = torch.randn(64, SPECIAL.num_inputs, generator=torch.Generator().manual_seed(seed))
    return lambda ids, layout, sigma, select: logits[select] + 0.3 * ids[select][:, None].float()


def random_scores(sentences, seed=1):
    return torch.rand(len(sentences.ids), generator=torch.Generator().manual_seed(seed))


def network_of(log_probs, size, special):
    def answer(inner, place, level):
        mask = tuple(token == special.mask_id for token in inner)
        rows = (
            tuple(
                symbol if at == place else 0 if hidden else token for at, (token, hidden) in enumerate(zip(inner, mask))
            )
            for symbol in range(size)
        )
        return np.array([log_probs(row, mask)[place] for row in rows])

    return TableNetwork(answer, special.num_inputs)


# --- what the policies train on


@pytest.mark.parametrize("weighting", ["nelbo", "masked_mean"])
@pytest.mark.parametrize("policy", PLAIN)
def test_a_policy_without_power_gives_the_bits_of_the_masked_family(policy, weighting):
    if policy == "tilted" and weighting == "masked_mean":
        pytest.skip("refused")
    masked = build_family({"name": "masked", "weighting": weighting}, SPECIAL)
    family = adaptive({**PLAIN[policy], "weighting": weighting})
    rows = frame((0, 1, 2, 2, 1), (2, 2), (1, 0, 1, 1, 0, 0, 2))
    for seed in range(20):
        draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(seed), stratified=True, step=seed)
        expected = masked.training_loss(random_network(), rows, draw)
        found = family.policy_loss(random_network(), random_scores, rows, draw)
        assert torch.equal(found.network.loss, expected.loss)
        assert float(found.network.weight) == float(expected.weight)
        assert float(found.penalty) == 0


@pytest.mark.parametrize("weighting", ["nelbo", "masked_mean"])
def test_chosen_losses_are_the_masked_familys_in_expectation(weighting):
    """Horvitz and Thompson: all patterns of which masked tokens are predicted, with their probabilities."""
    family = adaptive({**REAL["losses"], "weighting": weighting})
    rows = frame((0, 1, 2, 2))
    scores = random_scores(rows)
    pi = 0.2 + 0.8 * scores[1:5].double()
    keep = torch.tensor([0.9, 0.1, 0.9, 0.1, 0.1, 0.9])
    draw = NoiseDraw(torch.tensor([0.5]), keep, torch.zeros(6))
    plain = build_family({"name": "masked", "weighting": weighting}, SPECIAL).training_loss(
        random_network(), rows, draw
    )
    mean = square = 0.0
    hidden = [0, 2, 3]
    for pattern in itertools.product((True, False), repeat=3):
        category = torch.ones(6)
        category[[1 + place for place, taken in zip(hidden, pattern) if taken]] = 0.0
        probability = float(torch.where(torch.tensor(pattern), pi[hidden], 1 - pi[hidden]).prod())
        made = family.policy_loss(random_network(), lambda _: scores, rows, draw._replace(category=category))
        assert len(made.network.loss) == sum(pattern), "only those are predicted"
        mean += probability * float(made.network.loss.sum() / made.network.weight)
        square += probability * float((made.network.loss**2).sum())
    assert mean == pytest.approx(float(plain.loss.sum() / plain.weight), rel=1e-6)
    assert square <= float((plain.loss**2).sum()) / 0.2


@pytest.mark.parametrize("a", [-3.0, -1.0, -0.031, -0.029, 1e-4, 0.0, 0.5, 2.0, 3.0])
def test_penalty_is_the_integral(a):
    tilt = torch.tensor([a], dtype=torch.float64)

    def integrand(t):
        rho = torch.tensor([t], dtype=torch.float64)
        m, r = tilted_rate(rho, tilt).item(), tilted_weight(rho, tilt).item() / t
        return m * (1 / t - r + r * math.log(r * t))

    assert tilt_penalty(tilt).item() == pytest.approx(quad(integrand, 0, 1)[0], abs=1e-8)


def test_tilted_weight_is_the_derivative_of_the_rate():
    rho = torch.linspace(0.01, 0.99, 30, dtype=torch.float64).requires_grad_()
    tilt = torch.linspace(-4, 4, 30, dtype=torch.float64)
    rate = tilted_rate(rho, tilt)
    (prime,) = torch.autograd.grad(rate.sum(), rho)
    assert torch.allclose(prime / rate, tilted_weight(rho, tilt) / rho)
    assert torch.allclose(torch.logit(rate), torch.logit(rho) + tilt)


def test_tilts_move_masking_between_tokens_and_not_its_amount():
    """Mean log-odds are those of t; the mean rate is that of t up to Var(a)/2 t (1 - t)(1 - 2 t), whose integral is 0."""
    family = adaptive({"policy": "tilted", "beta": 2.0})
    rows = frame(tuple([0] * 40), (1, 1), ())
    tilt = family.tilt(random_scores(rows), rows)
    first = tilt[1:41].double()
    assert abs(float(first.mean())) < 1e-6 and float(tilt.abs().max()) <= 2
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    rate = tilted_rate(t[:, None], first)
    assert torch.allclose(torch.logit(rate).mean(1), torch.logit(t), atol=1e-6)
    expected = first.var(unbiased=False) / 2 * t * (1 - t) * (1 - 2 * t)
    assert (rate.mean(1) - t - expected).abs().max() < 3e-3
    assert abs(float((rate.mean(1) - t).mean())) < 1e-3


def expected_bound(family, network, sentence, scores, special, nodes=60):
    """(weighted cross-entropy, penalty) of a sentence under the tilted policy: quadrature over t, all masks. Nats."""
    rows, length = frame(sentence, special=special), len(sentence)
    tilt = family.tilt(scores, rows)[1:-1].double()
    points, weights = np.polynomial.legendre.leggauss(nodes)
    main = penalty = 0.0
    # t = y^3: the rates change fast where t is small.
    for y, weight in zip((points + 1) / 2, weights / 2):
        u = torch.tensor([y**3], dtype=torch.float64)
        rate = tilted_rate(family._training_time(u)[0], tilt)
        for mask in itertools.product((False, True), repeat=length):
            probability = float(torch.where(torch.tensor(mask), rate, 1 - rate).prod())
            keep = torch.tensor([1.0, *[0.0 if hidden else 1.0 for hidden in mask], 1.0]).double()
            made = family.policy_loss(network, lambda _: scores, rows, NoiseDraw(u, keep))
            main += 3 * y**2 * weight * probability * float(made.network.loss.sum())
            penalty = float(made.penalty * made.network.weight)
    return main, penalty


EXACT = {"sampling_eps": 1e-7, "schedule_options": {"eps": 1e-9}}


def test_tilted_bound_is_the_log_probability_plus_the_penalty_for_an_exact_network():
    joint, family = random_joint(3, 3, SIZE), adaptive({**REAL["tilted"], **EXACT})
    network = network_of(conditionals(joint), SIZE, SPECIAL)
    for sentence in ((2, 0, 1), (0, 0, 2)):
        scores = random_scores(frame(sentence), seed=sum(sentence)).double()
        main, penalty = expected_bound(family, network, sentence, scores, SPECIAL)
        assert main == pytest.approx(-math.log(joint[sentence]), rel=2e-3)
        tilt = family.tilt(scores, frame(sentence))[1:-1]
        assert penalty == pytest.approx(float((tilt / torch.tanh(tilt / 2) - 2).sum()), rel=1e-6)


def flattering_scores(log_probs, sentence):
    """Of the order of revealing that makes this sentence likeliest: what comes first is masked least. With BOS and EOS."""

    def along(order):
        hidden = [True] * len(sentence)
        total = 0.0
        for place in order:
            total += log_probs(sentence, tuple(hidden))[place]
            hidden[place] = False
        return total

    best = max(itertools.permutations(range(len(sentence))), key=along)
    return torch.tensor([0, *(best.index(place) / (len(best) - 1) for place in range(len(best))), 0]).double()


def test_tilted_bound_adds_up_to_at_most_one_and_without_the_penalty_it_does_not():
    """All 8 sentences of 3 binary tokens, a network of no joint distribution, and for each sentence the order that flatters it."""
    special = SpecialIds(num_pieces=2, mask_id=2, bos_id=3, eos_id=4, num_inputs=5)
    family = adaptive({"policy": "tilted", "beta": 6.0, **EXACT}, special)
    world = inconsistent(1, 2)
    network = network_of(world, 2, special)
    bare = bound = 0.0
    for sentence in itertools.product(range(2), repeat=3):
        scores = flattering_scores(world, sentence)
        main, penalty = expected_bound(family, network, sentence, scores, special, nodes=30)
        bare += math.exp(-main)
        bound += math.exp(-main - penalty)
    assert bound <= 1
    assert bare > 1.5, "1.9 in all"


def test_curriculum_stages_and_weights():
    family = adaptive({"policy": "curriculum", "curriculum_steps": 1000})
    stages = [family.stage(step) for step in (0, 299, 300, 699, 700, 1000, 10**6)]
    assert stages == ["easy", "easy", "medium", "medium", "hard", "hard", "hard"]
    early = adaptive({"policy": "curriculum", "curriculum_steps": 1000, "easy_until": 0.2, "medium_until": 0.6})
    assert [early.stage(step) for step in (199, 200, 599, 600)] == ["easy", "medium", "medium", "hard"]
    scores = torch.tensor([0.1, 0.2, 0.5, 0.9])
    for step, hot in ((0, [0, 1]), (500, [2]), (900, [3])):
        weight = family.emphasis(scores, step)
        assert float(weight.mean()) == pytest.approx(1)
        assert (weight == weight.max()).nonzero()[:, 0].tolist() == hot
        assert float(weight.max() / weight.min()) == pytest.approx(2)


@pytest.mark.parametrize("policy", REAL)
def test_loss_and_gradients_are_finite_at_extreme_logits_and_scores(policy):
    rows = frame((0, 1, 2), (2, 2))
    logits = (torch.randn(200, SPECIAL.num_inputs, generator=torch.Generator().manual_seed(0)) * 200).requires_grad_()
    raw = torch.tensor([-200.0, 200.0, 0.0, -200.0, 1.0, 5.0, 200.0, -3.0, 9.0]).requires_grad_()
    draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(1), stratified=True)
    family = adaptive(REAL[policy])
    made = family.policy_loss(
        lambda ids, layout, sigma, select: logits[: len(select)], lambda _: raw.sigmoid(), rows, draw
    )
    (made.network.loss.sum() / made.network.weight + made.penalty + made.policy).backward()
    assert torch.isfinite(made.network.loss).all() and torch.isfinite(made.penalty) and torch.isfinite(made.policy)
    assert torch.isfinite(logits.grad).all() and torch.isfinite(raw.grad).all()


@pytest.mark.parametrize("policy", REAL)
def test_no_gradient_goes_from_the_loss_into_the_policy_or_back(policy):
    rows = frame((0, 1, 2, 0, 1), (2, 2, 1))
    scores = random_scores(rows).requires_grad_()
    logits = torch.randn(64, SPECIAL.num_inputs, generator=torch.Generator().manual_seed(0)).requires_grad_()
    draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(4), stratified=True)
    made = adaptive(REAL[policy]).policy_loss(
        lambda ids, layout, sigma, select: logits[select], lambda _: scores, rows, draw
    )
    assert not made.penalty.requires_grad
    assert torch.autograd.grad(made.network.loss.sum(), scores, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(made.policy, logits, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(made.policy, scores)[0].abs().sum() > 0


# --- the network that predicts difficulty


def test_ranks():
    value = torch.tensor([5.0, 1.0, 3.0, 3.0])
    assert weighted_rank(value, torch.ones(4)).tolist() == [0.875, 0.125, 0.5, 0.5]
    assert weighted_rank(torch.zeros(7), torch.ones(7)).tolist() == pytest.approx([0.5] * 7), (
        "all alike: nothing to learn"
    )
    assert weighted_rank(value, torch.tensor([1.0, 1.0, 0.0, 0.0])).tolist() == [0.75, 0.25, 0.5, 0.5]
    assert len(weighted_rank(value[:0], value[:0])) == 0 and float(rank_error(value[:0], value[:0], value[:0])) == 0


def test_ranks_of_a_sample_estimate_those_of_all():
    """Tokens are kept with probability pi; weights 1/pi undo it. 400 samples of 200 tokens."""
    generator = torch.Generator().manual_seed(0)
    value = torch.rand(200, generator=generator, dtype=torch.float64)
    pi = (0.2 + 0.8 * value).clamp(max=1)
    at, found, plain = int(value.argsort()[60]), [], []
    for _ in range(400):
        kept = torch.rand(200, generator=generator) < pi
        kept[at] = True
        place = int(kept[:at].sum())
        found.append(float(weighted_rank(value[kept], 1 / pi[kept])[place]))
        plain.append(float(weighted_rank(value[kept], torch.ones(int(kept.sum())))[place]))
    assert np.mean(found) == pytest.approx(60.5 / 200, abs=0.02)
    assert np.mean(plain) < 60.5 / 200 - 0.08, "without them hard tokens would look easier than they are"


def test_importance_of_a_row_does_not_depend_on_batch_mates():
    torch.manual_seed(0)
    policy = ImportanceNetwork(8, width=16, num_layers=2)
    torch.nn.init.normal_(policy.head.weight)
    embedded = torch.randn(9, 8)
    both = policy(embedded, Layout(torch.tensor([6, 3])))
    assert torch.allclose(both[6:], policy(embedded[6:], Layout(torch.tensor([3]))), atol=1e-6)
    assert both.dtype == torch.float32 and (both > 0).all() and (both < 1).all()


def test_importance_learns_which_tokens_are_hard_from_a_sample_of_their_losses():
    torch.manual_seed(0)
    embedding, difficulty = torch.randn(6, 8), torch.tensor([0.1, 3.0, 0.5, 2.0, 1.0, 7.0])
    policy = ImportanceNetwork(8, width=16, num_layers=1)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=5e-3)
    assert torch.equal(policy(embedding, Layout(torch.tensor([6]))), torch.full((6,), 0.5))
    for _ in range(150):
        ids = torch.randint(6, (40,))
        score = policy(embedding[ids], Layout(torch.tensor([10, 20, 10])))
        pi = 0.3 + 0.7 * score.detach()
        kept = torch.rand(40) < pi
        optimizer.zero_grad()
        rank_error(score[kept], difficulty[ids][kept], 1 / pi[kept]).backward()
        optimizer.step()
    with torch.no_grad():
        score = policy(embedding[torch.arange(6)], Layout(torch.tensor([6])))
    assert score.argsort().tolist() == difficulty.argsort().tolist()


def test_size_of_the_policy_of_the_reference_network():
    policy = adaptive().build_policy(768)
    assert sum(parameter.numel() for parameter in policy.parameters()) == 1_777_153


# --- training and what comes out of it

SMALL = ["data.batch_size=300", "data.max_seqs=20", "optim.lr=3e-3", "optim.warmup_steps=3", "trainer.logger=none"]
SMALL += ["trainer.val_check_interval=7", "trainer.max_steps=14", "trainer.save_every=4", "data.num_workers=0"]
SMALL += ["data.partition_epoch=3", "trainer.ema=0.9", "model.dropout=0.1"]


def config_of(vocab_folder, text_file, *extra, preset="demo_masked:tiny:fp32:adaptive"):
    files = [f"data.vocab={vocab_folder}", f"data.text=[{text_file}]", f"data.valid_text={{dev: {text_file}}}"]
    return apply_overrides(presets.build(preset), [*files, *SMALL, *extra])


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


TRAINED = [
    ["family.policy_width=16"],
    ["family.policy_width=16", "family.policy=curriculum", "family.curriculum_steps=14"],
    [
        "family.policy_width=16",
        "family.policy=tilted",
        "family.weighting=nelbo",
        "family.sampling_max=1",
        "trainer.accumulate_grad_batches=2",
    ],
]


@pytest.mark.parametrize("extra", TRAINED, ids=["losses", "curriculum", "tilted"])
def test_interrupted_training_ends_in_the_same_bits(vocab_folder, text_file, tmp_path, extra):
    """The policy, too: it is in the checkpoint, and not in the exported model."""
    config = config_of(vocab_folder, text_file, *extra)
    whole = train(config, tmp_path / "whole")
    for stop in (4, 7, 10):
        train(config, tmp_path / "parts", stop_after=stop)
    parts = train(config, tmp_path / "parts")
    assert same(load_file(whole.model / "model.safetensors"), load_file(parts.model / "model.safetensors"))
    first, second = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "parts")
    )
    assert same(first, second)
    assert (tmp_path / "whole" / "scores.tsv").read_text() == (tmp_path / "parts" / "scores.tsv").read_text()
    assert any(name.startswith("policy.") for name in first)
    assert first["policy.head.weight"].abs().sum() > 0, "it has learned something"
    model = LanguageModel.load(whole.model)
    assert not any("policy" in name for name in load_file(whole.model / "model.safetensors"))
    assert sum(parameter.numel() for parameter in model.network.parameters()) == model.num_parameters


def test_training_without_power_ends_in_the_bits_of_masked_training(vocab_folder, text_file, tmp_path):
    """The policy's start, gradients, clipping and optimizer state leave the network's alone."""
    masked = train(config_of(vocab_folder, text_file, preset="demo_masked:tiny:fp32"), tmp_path / "masked")
    config = config_of(vocab_folder, text_file, "family.pi_min=1", "family.policy_width=16")
    found = train(config, tmp_path / "adaptive")
    assert same(load_file(masked.model / "model.safetensors"), load_file(found.model / "model.safetensors"))
    assert (tmp_path / "masked" / "scores.tsv").read_text() == (tmp_path / "adaptive" / "scores.tsv").read_text()
    differs = train(config_of(vocab_folder, text_file, "family.policy_width=16"), tmp_path / "losses")
    assert not same(load_file(masked.model / "model.safetensors"), load_file(differs.model / "model.safetensors"))


class Data:
    valid_names = ("dev",)


@pytest.mark.parametrize("policy", REAL)
def test_validation_and_scores_do_not_depend_on_the_policy(vocab, policy):
    """Scrambled parameters: validation, nelbo and predictions keep every bit, and are those of the masked family."""
    options = {"name": "adaptive", "time_conditioning": True, **REAL[policy]}
    model = random_model(vocab, options)
    module = TrainingModule(model, TrainConfig(family=options, model=TINY), Data())
    module.eval()
    assert isinstance(model.family, PolicyFamily) and module.policy is not None
    tokens = torch.randint(vocab.num_pieces, (6, 9), generator=torch.Generator().manual_seed(0))
    batch = TokenBatch(tokens, torch.tensor([9, 3, 5, 1, 9, 7]), tuple("abcdef"), Position(1, 6), 0)
    rows = module._framed(batch)
    draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(0), stratified=True)
    select = torch.tensor([1, 2, 3])

    def measured(family):
        module._validation = {}
        with torch.no_grad():
            module.validation_step(batch, 0)
            return (
                module._validation["dev"],
                family.nelbo(module.network, rows, draw).tolist(),
                family.predict(module.network, rows.ids, rows.layout, torch.full((6,), 0.3), select).tolist(),
            )

    before = measured(model.family)
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 3)
    assert measured(model.family) == before
    masked = build_family({"name": "masked", "time_conditioning": True}, model.family.special)
    assert masked.nelbo(module.network, rows, draw).tolist() == before[1]


def test_building_the_policy_leaves_the_random_state_alone(vocab):
    model = random_model(vocab, {"name": "adaptive"})
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (TrainingModule(model, TrainConfig(seed=seed), Data()).policy for seed in (1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first.inputs.weight, second.inputs.weight), "and it follows the run's seed"


def test_scores_that_are_not_finite_are_an_error(vocab):
    """Compared with random numbers they would choose no token, and the loss would be 0."""
    module = TrainingModule(random_model(vocab, {"name": "adaptive"}), TrainConfig(), Data())
    module.policy.head.bias.data.fill_(math.nan)
    with pytest.raises(ValueError, match="scores are not finite"):
        module._importance(module.model.sentences(["the king"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "proportional"}, "'proportional'; expected one of losses, curriculum, tilted"),
        ({"pi_min": 0.0}, "family.pi_min 0.0"),
        ({"pi_min": 1.5}, "family.pi_min 1.5"),
        ({"beta": 2.0}, "family.beta belongs to family.policy 'tilted'"),
        ({"policy": "tilted", "pi_min": 0.5}, "family.pi_min belongs to family.policy 'losses'"),
        ({"policy": "tilted", "beta": -1.0}, "family.beta -1.0"),
        ({"policy": "tilted", "weighting": "masked_mean"}, "a bound in continuous time"),
        ({"policy": "tilted", "T": 1000}, "a bound in continuous time"),
        ({"policy": "tilted", "sampling_max": 0.5}, "a bound in continuous time"),
        ({"policy": "curriculum"}, "family.curriculum_steps 0"),
        ({"policy": "curriculum", "curriculum_steps": 9, "easy_until": 0.8}, "easy <= medium"),
        ({"policy": "curriculum", "curriculum_steps": 9, "focus": 0.5}, "focus >= 1"),
        ({"parameterization": "sedd"}, "expected 'subs'"),
        ({"policy_width": 100_001}, "family.policy_width 100001"),
        ({"policy_layers": 0}, "family.policy_width 256, family.policy_layers 0"),
        ({"temperature": 1.0}, "not an option of family 'adaptive'"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        adaptive(options)
