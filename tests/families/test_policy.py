"""The network of a policy: what it learns, that training with it resumes to the same bits, and that no score ever sees it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_adaptive import REAL, adaptive

from conftest import TINY, random_model
from diffusion_lm import presets
from diffusion_lm.config import TrainConfig, apply_overrides
from diffusion_lm.draws import draw_noise
from diffusion_lm.families import build_family
from diffusion_lm.families.importance import ImportanceNetwork, rank_error, weighted_rank
from diffusion_lm.layout import Layout
from diffusion_lm.model import LanguageModel
from diffusion_lm.training.lightning_module import TrainingModule
from diffusion_lm.training.run import train
from returnn_bridge.batching import Position, TokenBatch

SMALL = ["data.batch_size=300", "data.max_seqs=20", "optim.lr=3e-3", "optim.warmup_steps=3", "trainer.logger=none"]
SMALL += ["trainer.val_check_interval=7", "trainer.max_steps=14", "trainer.save_every=4", "data.num_workers=0"]
SMALL += ["data.partition_epoch=3", "trainer.ema=0.9", "model.dropout=0.1"]


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


def test_training_logs_the_effective_sample_size(vocab_folder, text_file, tmp_path, monkeypatch):
    logged = []
    log = TrainingModule.log
    monkeypatch.setattr(
        TrainingModule,
        "log",
        lambda self, name, value, **more: (logged.append((name, value)), log(self, name, value, **more))[1],
    )
    options = ["family.policy_width=16", "family.policy=proposal", "family.weighting=nelbo", "trainer.max_steps=2"]
    train(config_of(vocab_folder, text_file, *options), tmp_path / "run")
    values = [float(value) for name, value in logged if name == "train/effective_sample_size"]
    assert len(values) == 2 and all(0.5 < value <= 1 for value in values)


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
    assert model.family.has_policy and module.policy is not None
    tokens = torch.randint(vocab.num_pieces, (6, 9), generator=torch.Generator().manual_seed(0))
    batch = TokenBatch(tokens, torch.tensor([9, 3, 5, 1, 9, 7]), tuple("abcdef"), Position(1, 6), 0)
    rows = module.framed(batch)
    draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(0), stratified=True)
    select = torch.tensor([1, 2, 3])

    def measured(family):
        module._validation = {}
        with torch.no_grad():
            module.validation_step(batch, 0)
            return (
                module._validation["dev"],
                family.nelbo(module.network, rows, draw).tolist(),
                family.predict(
                    module.network, rows.ids, rows.layout, level=torch.full((6,), 0.3), select=select
                ).tolist(),
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
