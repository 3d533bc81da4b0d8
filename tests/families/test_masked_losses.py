"""D3PM and SEDD: their losses against independent formulas, enumeration and autodiff, and what their networks give for scoring."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from diffusion_lm import presets
from diffusion_lm.config import apply_overrides
from diffusion_lm.draws import NoiseDraw, draw_noise
from diffusion_lm.families import SpecialIds, build_family
from diffusion_lm.families.objectives import LARGEST_LOG_MASS, Step, d3pm_loss, sedd_loss
from diffusion_lm.layout import Sentences
from diffusion_lm.model import LanguageModel
from diffusion_lm.process import ForwardProcess, posterior
from diffusion_lm.schedule import SCHEDULES, build_schedule
from diffusion_lm.training.run import train
from tiny_world import TableNetwork, conditionals, random_joint

SIZE = 3
SPECIAL = SpecialIds(num_pieces=SIZE, mask_id=SIZE, bos_id=SIZE + 1, eos_id=SIZE + 2, num_inputs=SIZE + 3)
D3PM = {"name": "masked", "parameterization": "d3pm", "T": 1000}
SEDD = {"name": "masked", "parameterization": "sedd"}


def frame(*rows):
    return Sentences.of(rows, bos_id=SPECIAL.bos_id, eos_id=SPECIAL.eos_id)


def random_logits(count, scale=1.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, SPECIAL.num_inputs, generator=generator, dtype=dtype) * scale


def step_at(schedule, number, steps):
    s, t = (torch.tensor([index / steps], dtype=torch.float64) for index in (number - 1, number))
    return Step(schedule.alpha(s), schedule.mask_probability(s), schedule.alpha(t), schedule.mask_probability(t))


class Absorbing(ForwardProcess):
    """Over SIZE pieces and the mask."""

    def __init__(self, schedule):
        self.schedule = schedule

    def alpha(self, t):
        return self.schedule.alpha(t)

    def beta_pi(self, t):
        return torch.nn.functional.pad((1 - self.schedule.alpha(t))[:, None], (SIZE, 0))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("number", [2, 5, 8])
def test_d3pm_loss_is_the_divergence_of_the_two_posteriors(name, number):
    """Computed here from q(z_s | z_t, .) over all symbols, by the general process."""
    schedule, steps, x = build_schedule(name), 8, 1
    p = torch.softmax(random_logits(1)[:, : SIZE + 1], -1)
    process = Absorbing(schedule)
    now, before = (
        process.marginal(torch.tensor([index / steps], dtype=torch.float64)) for index in (number, number - 1)
    )
    z, row = torch.tensor([SIZE]), torch.tensor([0])
    truth = posterior(now, before, torch.eye(SIZE + 1, dtype=torch.float64)[[x]], z, row)
    model = posterior(now, before, p, z, row)
    expected = steps * (torch.special.xlogy(truth, truth) - torch.special.xlogy(truth, model)).sum()
    found = d3pm_loss(p[:, x].log(), p[:, SIZE].log(), step_at(schedule, number, steps), steps)
    assert float(found) == pytest.approx(float(expected), rel=1e-8)


def test_d3pm_loss_at_the_clean_end_is_the_limit_and_not_nan():
    """rho_s -> 0: everything is revealed. The formula as it stands is 0 * log(1 + q/0)."""
    log_prob, log_mask = torch.tensor([-1.2]).double().requires_grad_(), torch.tensor([-0.7]).double().requires_grad_()
    schedule = build_schedule("loglinear")
    at_zero = d3pm_loss(log_prob, log_mask, step_at(schedule, 1, 10), 10)
    _, rho_s, alpha_t, rho_t = step_at(schedule, 1, 10)
    tiny = torch.full_like(rho_s, 1e-12)
    near = d3pm_loss(log_prob, log_mask, Step(1 - tiny, tiny, alpha_t, rho_t), 10)
    assert at_zero.item() == pytest.approx(near.item(), rel=1e-9)
    at_zero.backward()
    assert math.isfinite(float(log_prob.grad)) and math.isfinite(float(log_mask.grad))


@pytest.mark.parametrize("number", [1, 3, 8])
def test_d3pm_without_the_mask_is_discrete_subs(number):
    log_prob = torch.tensor([-1.5, -0.01]).double()
    step = step_at(build_schedule("cosine"), number, 8)
    expected = -8 * (step.alpha_s - step.alpha_t) / step.rho_t * log_prob
    found = d3pm_loss(log_prob, torch.full_like(log_prob, -torch.inf), step, 8)
    assert torch.allclose(found, expected, rtol=1e-12)


def test_subs_masking_trains_the_discrete_subs_loss_and_a_reconstruction():
    rows, network = frame((0, 1, 2), (2, 2)), fixed(random_logits(20))
    draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(3), stratified=True)
    subs = build_family({"name": "masked", "T": 1000}, SPECIAL).training_loss(network, rows, draw)
    d3pm = build_family({**D3PM, "subs_masking": True}, SPECIAL).training_loss(network, rows, draw)
    count = len(subs.loss)
    assert torch.allclose(d3pm.loss[:count], subs.loss, rtol=1e-4), "1 - alpha of neighbouring times in float32 and 64"
    assert len(d3pm.loss) == count + 5 and d3pm.weight == subs.weight
    reconstruction = -torch.log_softmax(random_logits(20)[:5, :SIZE], -1)[range(5), [0, 1, 2, 2, 2]]
    assert torch.allclose(d3pm.loss[count:], reconstruction)


def fixed(logits):
    """A network that says the same whatever it sees."""
    return lambda ids, layout, sigma, select: logits[: len(select)]


@pytest.mark.parametrize("options", [D3PM, SEDD], ids=["d3pm", "sedd"])
def test_trained_loss_is_never_below_that_of_the_denoiser(options):
    """Term by term, whatever the network says: why scoring with the denoiser is a bound and no looser."""
    subs = build_family({"name": "masked", "T": options.get("T", 0)}, SPECIAL)
    family = build_family(options, SPECIAL)
    rows = frame((0, 1, 2), (2, 2, 1, 0))
    for seed in range(20):
        network = fixed(random_logits(20, scale=2, seed=seed))
        draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(seed), stratified=True)
        draw = draw._replace(time=draw.time.double())
        plain = subs.training_loss(network, rows, draw).loss
        assert (family.training_loss(network, rows, draw).loss[: len(plain)] >= plain * (1 - 1e-9) - 1e-9).all()


@pytest.mark.parametrize("options", [D3PM, SEDD], ids=["d3pm", "sedd"])
def test_predictions_are_normalised_over_pieces_and_scores_are_those_of_subs(options):
    rows, network = frame((0, 1, 2)), fixed(random_logits(20))
    subs, family = build_family({"name": "masked"}, SPECIAL), build_family(options, SPECIAL)
    log_probs = family.predict(network, rows.ids, rows.layout, select=torch.tensor([1, 2]))
    assert log_probs.shape == (2, SIZE)
    assert torch.allclose(log_probs.exp().sum(-1), torch.ones(2).double())
    draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(1), stratified=False)
    assert torch.equal(family.nelbo(network, rows, draw), subs.nelbo(network, rows, draw))


@pytest.mark.parametrize("name", SCHEDULES)
def test_sedd_loss_is_the_score_entropy(name):
    """Against the formula in the scores themselves, with values and gradients by autodiff."""
    schedule, x = build_schedule(name), 2
    t = torch.tensor([0.4], dtype=torch.float64)
    sigma, ratio = schedule.sigma(t), 1 / torch.expm1(schedule.sigma(t))
    first, second = (random_logits(1)[:, :SIZE].clone().requires_grad_() for _ in range(2))
    log_scores = first + ratio.log() - math.log(SIZE)
    entropy = log_scores.exp().sum() - ratio * log_scores[0, x] + ratio * (ratio.log() - 1)
    (schedule.sigma_prime(t) * entropy).sum().backward()
    total = second.logsumexp(-1)
    found = sedd_loss(second[:, x] - total, total - math.log(SIZE), schedule.weight(t)).sum()
    found.backward()
    assert found.item() == pytest.approx((schedule.sigma_prime(t) * entropy).item(), rel=1e-9)
    assert torch.allclose(first.grad, second.grad, rtol=1e-9)
    assert sigma > 0


def test_sedd_loss_is_the_mdlm_loss_where_the_ratios_add_up():
    """s = r p with normalised p."""
    log_prob, weight = torch.tensor([-2.0, -0.1, -7.0]).double(), torch.tensor([1.0, 3.0, 1000.0]).double()
    assert torch.allclose(sedd_loss(log_prob, torch.zeros(3).double(), weight), -weight * log_prob, rtol=1e-14)
    log_p = torch.log_softmax(random_logits(20)[:, :SIZE], -1) + math.log(SIZE)  # then the ratios are r p
    network = fixed(torch.nn.functional.pad(log_p, (0, 3), value=9.0))
    rows = frame((0, 1, 2), (2, 2))
    draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(3), stratified=True)
    subs, sedd = (
        build_family(options, SPECIAL).training_loss(network, rows, draw) for options in ({"name": "masked"}, SEDD)
    )
    assert torch.allclose(sedd.loss, subs.loss, rtol=1e-12)


def d3pm_network(log_probs, *, q, copies):
    """The exact denoiser of a joint, with probability q given to the mask at masked places and `copies` to the token itself elsewhere."""

    def answer(inner, place, level):
        mask = tuple(token == SPECIAL.mask_id for token in inner)
        values = np.full(SIZE + 1, -60.0)
        if not mask[place]:
            values[:SIZE] = math.log((1 - copies) / (SIZE - 1))
            values[inner[place]] = math.log(copies)
            return values
        for symbol in range(SIZE):
            row = tuple(symbol if at == place else 0 if mask[at] else token for at, token in enumerate(inner))
            values[symbol] = log_probs(row, mask)[place] + math.log1p(-q)
        values[SIZE] = math.log(q) if q else -60.0
        return values

    return TableNetwork(answer, SPECIAL.num_inputs)


@pytest.mark.parametrize(("q", "copies"), [(0.0, 1 - 1e-12), (0.0, 0.9), (0.3, 1 - 1e-12), (0.7, 0.8)])
@pytest.mark.parametrize("independent", [True, False])
def test_expected_d3pm_loss_is_an_upper_bound_on_the_entropy(q, copies, independent):
    """All T times (also the first: T is below 1/sampling_eps) and all masks, for every sentence, with the exact denoiser.

    Tokens that are revealed in one step are predicted apart, so it is tight where they are independent, the mask is not predicted
    and visible tokens are copied.
    """
    steps, length = 4, 2
    joint = random_joint(5, length, SIZE)
    if independent:
        joint = np.outer(joint.sum(1), joint.sum(0))
    options = {**D3PM, "T": steps, "sampling_eps": 1e-9, "schedule_options": {"eps": 1e-12}}
    family = build_family(options, SPECIAL)
    network = d3pm_network(conditionals(joint), q=q, copies=copies)
    mean = mass = 0.0
    for sentence in itertools.product(range(SIZE), repeat=length):
        total = 0.0
        for number in range(1, steps + 1):
            u = torch.tensor([(number - 0.5) / steps], dtype=torch.float64)
            for mask in itertools.product((False, True), repeat=length):
                rho = number / steps
                probability = rho ** sum(mask) * (1 - rho) ** (length - sum(mask))
                keep = torch.tensor([1.0, *[0.0 if hidden else 1 - 1e-13 for hidden in mask], 1.0]).double()
                if probability > 0:
                    loss = family.training_loss(network, frame(sentence), NoiseDraw(u, keep))
                    total += probability / steps * float(loss.loss.sum())
        exact = -math.log(joint[sentence])
        mass += math.exp(-total)
        if independent and q == 0:
            assert total == pytest.approx(exact - length * math.log(copies), abs=1e-6), "and each part is its own"
        mean += joint[sentence] * total
    assert mass <= 1 + 1e-6, "of each sentence's bound: they are those of one model"
    assert mean >= -(joint * np.log(joint)).sum() - 1e-6


@pytest.mark.parametrize("options", [D3PM, {**D3PM, "T": 10}, {**D3PM, "subs_masking": True}, SEDD], ids=str)
@pytest.mark.parametrize("scale", [30, 300])
def test_loss_and_gradient_are_finite_at_extreme_logits(options, scale):
    family, rows = build_family(options, SPECIAL), frame((0, 1, 2), (2, 2))
    logits = random_logits(200, scale=scale, dtype=torch.float32).requires_grad_()
    for seed in range(5):
        draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(seed), stratified=True)
        loss = family.training_loss(fixed(logits), rows, draw)
        (loss.loss.sum() / loss.weight).backward()
        assert torch.isfinite(loss.loss).all() and (loss.loss >= -1e-6).all()
    assert torch.isfinite(logits.grad).all()


def test_sedd_beyond_the_largest_mass_leads_back():
    mass = torch.tensor([LARGEST_LOG_MASS - 1e-6, LARGEST_LOG_MASS + 1e-6, 300.0]).requires_grad_()
    loss = sedd_loss(torch.zeros(3), mass, torch.ones(3))
    loss.sum().backward()
    assert torch.isfinite(loss).all() and (loss.diff() >= 0).all()
    assert (mass.grad > 1e8).all(), "downwards"


def test_sedd_needs_no_time_conditioning():
    """The scale of the ratios is the schedule's; in the original it is the network's level, 0 without conditioning."""
    rows, network = frame((0, 1, 2)), fixed(random_logits(20))
    draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(1), stratified=True)
    first, second = (
        build_family({**SEDD, "time_conditioning": told}, SPECIAL).training_loss(network, rows, draw).loss
        for told in (False, True)
    )
    assert torch.isfinite(first).all() and torch.equal(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameterization": "x0"}, "expected one of subs, d3pm, sedd"),
        ({"parameterization": "d3pm"}, "expected family.T > 0"),
        ({"parameterization": "sedd", "T": 1000}, "expected family.T 0, without"),
        ({"parameterization": "sedd", "importance_sampling": True}, "without family.importance_sampling"),
        (
            {"parameterization": "sedd", "change_of_variables": True, "time_conditioning": True},
            "or family.change_of_variables",
        ),
        ({"parameterization": "d3pm", "T": 1000, "importance_sampling": True}, "family.T 0"),
        (
            {"parameterization": "sedd", "weighting": "masked_mean"},
            "'masked_mean' with family.parameterization 'sedd': expected 'nelbo'",
        ),
        ({"subs_masking": True}, "because it belongs to family.parameterization 'd3pm'"),
        ({"parameterization": "sedd", "subs_masking": True}, "subs_masking True .*expected False"),
        ({"T": -1}, "expected 0 .*or a number of steps"),
    ],
)
def test_impossible_combinations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_family({"name": "masked", **options}, SPECIAL)


@pytest.mark.parametrize(
    "name", [f"{preset}:{suffix}" for preset in ("demo_masked", "librispeech_masked") for suffix in ("d3pm", "sedd")]
)
def test_presets_build(name):
    assert build_family(presets.build(name).family, SPECIAL).parameterization == name.rpartition(":")[2]


@pytest.mark.parametrize("suffix", ["d3pm", "sedd", "d3pm:bf16", "sedd:bf16"])
def test_training_runs_and_the_model_scores(vocab_folder, text_file, tmp_path, suffix):
    files = [f"data.vocab={vocab_folder}", f"data.text=[{text_file}]", f"data.valid_text={{dev: {text_file}}}"]
    steps = ["trainer.max_steps=3", "trainer.val_check_interval=3", "trainer.logger=none", "data.num_workers=0"]
    name = f"librispeech_masked:tiny:fp32:{suffix}"
    result = train(apply_overrides(presets.build(name), [*files, *steps]), tmp_path / "run")
    model = LanguageModel.load(result.model)
    sentences = model.sentences(["the king went"])
    draw = draw_noise(sentences.layout.lengths, torch.Generator().manual_seed(0), stratified=True)
    assert torch.isfinite(model.family.nelbo(model.network, sentences, draw)).all()
