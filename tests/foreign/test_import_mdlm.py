"""Weights of the public DiT: every name both ways, and nothing else. That the function is the same is benchmarks/parity.py's to show."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from diffusion_lm.backbones.dit import DiT, DiTConfig
from diffusion_lm.foreign.mdlm_weights import network_weights, parameter_names, read_checkpoint
from diffusion_lm.layout import Layout

CONFIG = DiTConfig(hidden_size=24, num_blocks=3, num_heads=2, cond_dim=8)
SYMBOLS = 11
FREQUENCIES = "backbone.rotary_emb.inv_freq"


@pytest.fixture
def network():
    made = DiT(CONFIG, num_inputs=SYMBOLS, num_outputs=SYMBOLS, visibility="bidirectional").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in made.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) / 4)
    return made


@pytest.fixture
def theirs(network):
    """A state dict as the public checkpoints have it: their names and order, and the rotary frequencies."""
    ours = network.state_dict()
    state = {f"backbone.{name}": ours[mine].clone() for name, mine in parameter_names(CONFIG.num_blocks).items()}
    names = list(state)
    state[FREQUENCIES] = torch.ones(CONFIG.hidden_size // CONFIG.num_heads // 2)
    return {name: state[name] for name in [*names[:5], FREQUENCIES, *names[5:]]}


def test_imported_network_computes_the_same(network, theirs):
    config, weights = network_weights(theirs)
    assert config == CONFIG
    again = DiT(config, num_inputs=SYMBOLS, num_outputs=SYMBOLS, visibility="bidirectional").eval()
    again.load_state_dict(weights)
    ids, layout, level = torch.arange(10), Layout(torch.tensor([4, 6])), torch.tensor([0.1, 2.0])
    assert torch.equal(again(ids, layout, level), network(ids, layout, level))


def test_names_cover_the_network_exactly(network):
    assert set(parameter_names(CONFIG.num_blocks).values()) == set(network.state_dict())
    causal = DiT(CONFIG, num_inputs=SYMBOLS, num_outputs=SYMBOLS, visibility="causal")
    assert set(parameter_names(CONFIG.num_blocks, conditioned=False).values()) == set(causal.state_dict())


@pytest.mark.parametrize("name", ["backbone.vocab_embed.embedding", "backbone.blocks.1.mlp.2.bias", FREQUENCIES])
def test_a_missing_weight_is_an_error(theirs, name):
    del theirs[name]
    with pytest.raises(ValueError, match="give num_heads" if name == FREQUENCIES else name.removeprefix("backbone.")):
        network_weights(theirs)


def test_an_unknown_weight_is_an_error(theirs):
    theirs["backbone.blocks.0.norm3.weight"] = torch.ones(24)
    with pytest.raises(ValueError, match=r"unknown blocks\.0\.norm3\.weight; missing none"):
        network_weights(theirs)


def test_a_shape_that_does_not_fit_is_an_error(theirs):
    theirs["backbone.blocks.2.mlp.0.weight"] = torch.zeros(95, 24)
    with pytest.raises(ValueError, match=r"blocks\.2\.mlp\.0\.weight: shape \(95, 24\); expected \(96, 24\)"):
        network_weights(theirs)


def test_heads_follow_from_the_frequencies(theirs):
    with pytest.raises(ValueError, match="those of 2 heads"):
        network_weights(theirs, num_heads=4)
    del theirs[FREQUENCIES]
    assert network_weights(theirs, num_heads=4)[0].num_heads == 4


def test_files_come_back_as_written(theirs, tmp_path):
    save_file(theirs, tmp_path / "model.safetensors")
    torch.save(theirs, tmp_path / "bare.bin")
    torch.save({"state_dict": theirs, "global_step": 7}, tmp_path / "lightning.ckpt")
    for path in sorted(tmp_path.iterdir()):
        state = read_checkpoint(path)
        assert state.keys() == theirs.keys()
        assert all(torch.equal(state[name], value) for name, value in theirs.items())


def test_moving_average_takes_the_place_of_the_weights(theirs, tmp_path):
    shadow = [value + 1 for name, value in theirs.items() if name != FREQUENCIES]
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": theirs, "ema": {"decay": 0.9999, "num_updates": 3, "shadow_params": shadow}}, path)
    averaged, raw = read_checkpoint(path), read_checkpoint(path, ema=False)
    for name, value in theirs.items():
        assert torch.equal(raw[name], value)
        assert torch.equal(averaged[name], value if name == FREQUENCIES else value + 1)


@pytest.mark.parametrize("change", [lambda shadow: shadow[1:], lambda shadow: shadow[::-1]])
def test_moving_average_of_another_network_is_an_error(theirs, tmp_path, change):
    shadow = change([value for name, value in theirs.items() if name != FREQUENCIES])
    torch.save({"state_dict": theirs, "ema": {"shadow_params": shadow}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="moving average"):
        read_checkpoint(tmp_path / "last.ckpt")


class Trap:
    """What a pickle can do; must never happen."""

    def __reduce__(self):
        return print, ("executed",)


def test_a_file_with_objects_is_refused(theirs, tmp_path, capsys):
    torch.save({"state_dict": theirs, "hyper_parameters": Trap()}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="not a file of tensors alone"):
        read_checkpoint(tmp_path / "last.ckpt")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_an_unreadable_file_is_an_error(tmp_path, content):
    for name in "model.safetensors", "model.bin":
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises((ValueError, FileNotFoundError), match=name):
            read_checkpoint(tmp_path / name)
