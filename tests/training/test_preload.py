"""Starting from the weights of other models: all that fits, or parts by RETURNN's preload_from_files."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import TINY, random_model
from diffusion_lm.model import LanguageModel
from diffusion_lm.training.preload import preload
from diffusion_lm.training.run import train
from training_runs import config_of, weights


@pytest.fixture
def source(vocab, tmp_path):
    """A model folder, and its weights."""
    folder = random_model(vocab, {"name": "masked"}, seed=7).save(tmp_path / "source")
    return folder, load_file(folder / "model.safetensors")


def fresh(vocab, seed=1, **changes):
    torch.manual_seed(seed)
    return LanguageModel.build({"name": "masked"}, dataclasses.replace(TINY, **changes), vocab)


def test_a_prefix_takes_that_part_and_leaves_the_rest(vocab, source):
    folder, stored = source
    model, untouched = fresh(vocab), fresh(vocab).network.state_dict()
    names = {name: name.removeprefix("blocks.") for name in untouched if name.startswith("blocks.")}
    file = folder.parent / "blocks.safetensors"
    save_file({short: stored[name] for name, short in names.items()}, file)
    (line,) = preload(model, {"body": {"filename": str(file), "prefix": "blocks."}})
    assert f"{len(names)} weights" in line
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, stored[name] if name in names else untouched[name]), name


def test_later_entries_win_and_names_can_be_mapped(vocab, source, tmp_path):
    folder, stored = source
    renamed = {"out" if name == "head.bias" else name: value for name, value in stored.items()}
    renamed["out"] = torch.ones_like(renamed["out"])
    save_file(renamed, tmp_path / "renamed.safetensors")
    model = fresh(vocab)
    head = {
        "filename": str(tmp_path / "renamed.safetensors"),
        "prefix": "head.bias",
        "var_name_mapping": {"head.bias": "out"},
    }
    preload(model, {"all": {"filename": str(folder)}, "head": head})
    state = model.network.state_dict()
    assert torch.equal(state["head.bias"], torch.ones_like(state["head.bias"]))
    assert torch.equal(state["embedding.weight"], stored["embedding.weight"])


def test_what_is_missing_or_of_another_shape_is_named(vocab, source, tmp_path):
    folder, stored = source
    save_file({name: value for name, value in stored.items() if name != "head.bias"}, tmp_path / "part.safetensors")
    entry = {"filename": str(tmp_path / "part.safetensors")}
    with pytest.raises(ValueError, match="no 'head.bias' in .*part.safetensors"):
        preload(fresh(vocab), {"x": entry})
    preload(fresh(vocab), {"x": {**entry, "ignore_missing": True}})
    wider = fresh(vocab, cond_dim=2 * TINY.cond_dim)
    with pytest.raises(ValueError, match=r"has the shape .*; expected .* for '.*'"):
        preload(wider, {"x": {"filename": str(folder)}})
    ignored = ["noise.", "final_modulation", *(f"blocks.{number}.modulation" for number in range(TINY.num_blocks))]
    preload(wider, {"x": {"filename": str(folder), "ignore_params_prefixes": ignored}})


def test_weights_that_are_nan_or_not_those_of_the_record_are_named(vocab, source, tmp_path):
    folder, stored = source
    save_file({**stored, "head.bias": stored["head.bias"] + float("nan")}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"part\.safetensors: head\.bias has .* nan or inf"):
        preload(fresh(vocab), {"x": {"filename": str(tmp_path / "part.safetensors")}})
    shutil.copytree(folder, tmp_path / "model")
    save_file({**stored, "head.bias": stored["head.bias"] + 1}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: .*config\.json beside it says"):
        preload(fresh(vocab), {"x": {"filename": str(tmp_path / "model")}})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("path", "expected a section with a filename"),
        ({"filename": "nowhere"}, "nowhere: not readable"),
        ({"filename": "x", "checkpoint_key": "model"}, "unknown key 'checkpoint_key'"),
        ({"filename": "x", "init_for_train": "always"}, "init_for_train 'always'"),
    ],
)
def test_bad_entries_are_one_clear_line(vocab, entry, message):
    with pytest.raises(ValueError, match=message) as caught:
        preload(fresh(vocab), {"x": entry})
    assert "\n" not in str(caught.value)


def test_a_prefix_that_nothing_has_is_an_error(vocab, source):
    with pytest.raises(ValueError, match="no weight taken; expected parameters with the prefix 'encoder.'"):
        preload(fresh(vocab), {"x": {"filename": str(source[0]), "prefix": "encoder."}})


def test_training_starts_from_them(vocab_folder, text_file, tmp_path, capsys):
    first = train(config_of(vocab_folder, text_file, "trainer.max_steps=3"), tmp_path / "first")
    entry = f"{{embedding: {{filename: {first.model}, prefix: embedding, var_name_mapping: {{embedding.weight: embedding.weight}}}}}}"
    config = config_of(
        vocab_folder, text_file, f"preload_from_files={entry}", "trainer.max_steps=1", "optim.lr=1e-9", "seed=5"
    )
    second = train(config, tmp_path / "second")
    assert "preload_from_files.embedding: 1 weights" in capsys.readouterr().out
    old, new = weights(first.model), weights(second.model)
    assert torch.allclose(old["embedding.weight"], new["embedding.weight"], atol=1e-6)
    assert not torch.allclose(old["blocks.0.qkv.weight"], new["blocks.0.qkv.weight"], atol=1e-3)
