"""Filling by entropy and importance: the order is a matter of what is visible, and the policy is that of the model's run."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_sampling import LENGTH, MASK, SIZE, model_of, p_value

from conftest import random_model
from diffusion_lm.sampling import build_sampler, sample
from diffusion_lm.sampling.by_entropy import UncertainFirst
from diffusion_lm.sampling.by_importance import ImportantFirst, load_policy
from diffusion_lm.training.run import train
from tiny_world import random_joint
from training_runs import config_of

ADAPTIVE = {"name": "adaptive", "policy_width": 16}


@pytest.fixture
def model(vocab):
    return random_model(vocab, ADAPTIVE)


@pytest.fixture
def policy_file(model, tmp_path):
    """A policy with random weights; a new one finds everything equally important."""
    torch.manual_seed(3)
    policy = model.family.build_policy(model.network.embedding.embedding_dim)
    torch.nn.init.normal_(policy.head.weight)
    save_file(policy.state_dict(), tmp_path / "policy.safetensors")
    return str(tmp_path / "policy.safetensors")


class ByFirstSymbol(UncertainFirst):
    """An importance that depends on the guess of every masked position."""

    def importance(self, log_probs, ids, layout, select):
        return 0.1 + log_probs.argmax(-1).double()


def test_drawn_text_follows_the_joint_distribution():
    """One position a pass: the chain rule in an order that depends on what is seen. The seed is fixed, p > 0.01 is not luck."""
    joint = random_joint(5, LENGTH, SIZE)
    with torch.no_grad():
        drawn = ByFirstSymbol(model_of(joint)).fill([[MASK] * LENGTH] * 4000, seed=3, first=0)
    assert p_value(drawn.tokens, joint) > 0.01


def test_a_policy_that_knows_nothing_gives_uncertain_first(model, tmp_path):
    fresh = model.family.build_policy(model.network.embedding.embedding_dim)
    save_file(fresh.state_dict(), tmp_path / "fresh.safetensors")
    drawn = sample(model, [9, 4], predictor="important-first", options={"policy": str(tmp_path / "fresh.safetensors")})
    assert drawn.tokens == sample(model, [9, 4], predictor="uncertain-first").tokens


def test_the_most_important_uncertain_position_is_revealed_first(model, policy_file):
    sampler = build_sampler(model, "important-first", policy=policy_file)
    mask = model.vocab.mask_id
    rows = model.frame([[5, mask, mask, 7, mask, mask]])
    select = (rows.ids == mask).nonzero()[:, 0]
    with torch.no_grad():
        log_probs = model.family.predict(model.network, rows.ids, rows.layout, select=select)
        guess = rows.ids.clone()
        guess[select] = log_probs.argmax(-1)
        scores = load_policy(model, policy_file)(model.network.embedding(guess), rows.layout)[select]
        found = sampler.importance(log_probs, rows.ids, rows.layout, select)
    assert torch.equal(found, scores) and len(set(scores.tolist())) > 1
    drawn = {
        seed: sample(model, [9], predictor="important-first", seed=seed, options={"policy": policy_file}).tokens
        for seed in (1, 2)
    }
    assert drawn[1] != drawn[2]
    assert any(drawn[seed] != sample(model, [9], predictor="uncertain-first", seed=seed).tokens for seed in drawn)


def test_training_writes_the_policy_that_the_sampler_reads(vocab_folder, text_file, tmp_path):
    from diffusion_lm.model import LanguageModel

    options = ["family.policy_width=16", "trainer.max_steps=2", "trainer.limit_val_batches=0"]
    made = train(
        config_of(vocab_folder, text_file, *options, preset="demo_masked:tiny:fp32:adaptive"), tmp_path / "run"
    )
    trained, file = LanguageModel.load(made.model), tmp_path / "run" / "policy.safetensors"
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    stored = load_file(file)
    assert {f"policy.{name}" for name in stored} == {name for name in kept if name.startswith("policy.")}
    assert all(torch.equal(value, kept[f"policy.{name}"]) for name, value in stored.items())
    ImportantFirst(trained, policy=str(file), share=0.5).draw_all([5], seed=1)


def test_what_is_no_policy_of_the_model_is_refused(model, vocab, policy_file, tmp_path):
    with pytest.raises(ValueError, match="a policy is for a model of an adaptive family"):
        load_policy(random_model(vocab), policy_file)
    with pytest.raises(FileNotFoundError, match="no such file; expected the policy.safetensors"):
        load_policy(model, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="not the policy of this model"):
        load_policy(random_model(vocab, {**ADAPTIVE, "policy_width": 32}), policy_file)
    with pytest.raises(ValueError, match="'important-first' without its option 'policy'"):
        sample(model, [3], predictor="important-first")
    with pytest.raises(ValueError, match="option share: got 'much'; expected float"):
        sample(model, [3], predictor="certain-first", options={"share": "much"})
