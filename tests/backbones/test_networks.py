"""A network is an entry of a registry and nothing else: it trains, scores, samples, is saved and loaded, or refuses by name."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

from conftest import TINY, random_model
from diffusion_lm.backbones.dit import DiTConfig
from diffusion_lm.config import apply_overrides, from_dict, to_dict
from diffusion_lm.draws import draw_noise
from diffusion_lm.families import FAMILIES
from diffusion_lm.model import LanguageModel
from diffusion_lm.presets import build
from diffusion_lm.sampling import build_sampler, sample
from diffusion_lm.training.run import train
from toy_network import ToyConfig, ToyNetwork, registered
from training_runs import config_of, same, weights

TOY = ["model.network=toy", "model.width=8"]


@pytest.fixture(autouse=True)
def toy() -> Iterator[None]:
    with registered():
        yield


@pytest.mark.parametrize(
    "preset", ["demo_masked", "demo_masked:adaptive", "demo_ar", "demo_masked:hybrid", "demo_masked:block4"]
)
def test_it_trains_resumes_and_is_loaded_again(vocab_folder, text_file, tmp_path, preset):
    config = config_of(vocab_folder, text_file, *TOY, preset=f"{preset}:tiny:fp32")
    whole = train(config, tmp_path / "whole")
    train(config, tmp_path / "parts", stop_after=6)
    assert same(weights(whole.model), weights(train(config, tmp_path / "parts").model))
    losses = [float(line.split("\t")[-1]) for line in (tmp_path / "whole" / "scores.tsv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0]
    model = LanguageModel.load(whole.model)
    assert isinstance(model.network, ToyNetwork) and model.backbone == ToyConfig(width=8)
    assert json.loads((whole.model / "config.json").read_text())["model"] == {"network": "toy", "width": 8}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_scores_with_it_and_a_sentence_alone_is_as_with_its_mates(vocab, name):
    model = random_model(vocab, {"name": name}, backbone=ToyConfig())
    texts = ["the king said", "a stone", "the little old woman went to the house"]
    framed = model.sentences(texts)
    lengths = framed.layout.lengths
    draw = draw_noise(lengths, torch.Generator().manual_seed(1), stratified=False)
    together = model.family.nelbo(model.network, framed, draw)
    ends = [0, *lengths.cumsum(0).tolist()]
    for row, text in enumerate(texts):
        part = slice(ends[row], ends[row + 1])
        own = draw._replace(time=draw.time[row : row + 1], keep=draw.keep[part], category=draw.category[part])
        assert torch.allclose(model.family.nelbo(model.network, model.sentences([text]), own), together[row], rtol=1e-4)


def test_it_samples(vocab):
    drawn = sample(random_model(vocab, backbone=ToyConfig()), [5, 7], steps=4, seed=1)
    assert [len(tokens) for tokens in drawn.tokens] == [5, 7]
    model = random_model(vocab, {"name": "block", "block_size": 3}, backbone=ToyConfig())
    assert len(build_sampler(model, cached=False).draw_all([8, 5]).tokens) == 2


def test_what_it_does_not_offer_is_refused_by_name(vocab, vocab_folder, text_file, tmp_path, monkeypatch):
    model = random_model(vocab, {"name": "block", "block_size": 3}, backbone=ToyConfig())
    with pytest.raises(ValueError, match="network ToyNetwork keeps no keys and values of finished blocks; expected"):
        sample(model, [8])
    with pytest.raises(
        ValueError, match="trainer.activation_checkpointing true: the network ToyNetwork does not offer it"
    ):
        train(config_of(vocab_folder, text_file, *TOY, "trainer.activation_checkpointing=true"), tmp_path / "run")
    with pytest.raises(
        ValueError, match="trainer.attention 'flex': the network ToyNetwork does not offer it; expected sdpa"
    ):
        model.network.configure(attention="flex")


def test_a_configuration_names_its_network():
    config = apply_overrides(build("demo_masked:tiny"), ["model.width=4", "model.network=toy"])
    assert config.model == ToyConfig(width=4) and from_dict(to_dict(config)) == config
    assert apply_overrides(config, ["model.network=dit", "model.num_heads=6"]).model == DiTConfig(num_heads=6)
    assert from_dict({"model": {"num_heads": 6}}).model == DiTConfig(num_heads=6)
    for settings, message in [
        (["model.network=tyo"], r"model.network 'tyo' is unknown \(perhaps 'toy'\?\); expected one of dit, toy"),
        (["model.network=3"], "model.network '3' is unknown"),
        (["model.widht=4", "model.network=toy"], "unknown key 'model.widht'; did you mean 'width'?"),
        (["model.hidden_size=4", "model.network=toy"], "unknown key 'model.hidden_size'"),
    ]:
        with pytest.raises(ValueError, match=message):
            apply_overrides(config, settings)


def test_folders_name_a_network_other_than_the_first_and_are_read_strictly(vocab, tmp_path):
    """A folder of a DiT is what earlier versions wrote."""
    saved = json.loads((random_model(vocab).save(tmp_path / "dit") / "config.json").read_text())
    assert list(saved["model"]) == ["hidden_size", "num_blocks", "num_heads", "cond_dim", "dropout", "adaln"]
    assert LanguageModel.load(tmp_path / "dit").backbone == TINY
    folder = random_model(vocab, backbone=ToyConfig()).save(tmp_path / "toy")
    config = json.loads((folder / "config.json").read_text())
    for section, message in [
        ({"network": "tyo"}, "config.json: model.network 'tyo' is unknown"),
        ({"network": ["toy"]}, r"config.json: model.network \['toy'\]; expected one of"),
        ({"width": 3}, "model.safetensors: weights do not fit config.json"),
        ({"width": "3"}, "model.width '3'; expected int"),
        ({"height": 3}, "section 'model' does not fit"),
    ]:
        (folder / "config.json").write_text(json.dumps(config | {"model": config["model"] | section}))
        with pytest.raises(ValueError, match=message):
            LanguageModel.load(folder)
