"""Averages of models, and the models of validations that are kept for them."""

from __future__ import annotations

import json

import pytest
import torch

from conftest import random_model
from diffusion_lm.averaging import average_models
from diffusion_lm.model import LanguageModel
from diffusion_lm.train import train
from rescore.cli import main
from test_train import config_of, same, weights


def test_the_average_is_the_mean_of_the_weights(vocab, tmp_path):
    models = [random_model(vocab, {"name": "masked"}, seed=seed) for seed in range(3)]
    folders = [model.save(tmp_path / str(number)) for number, model in enumerate(models)]
    with pytest.raises(SystemExit) as stopped:
        main(["average", *map(str, folders), "--out", str(tmp_path / "mean")])
    assert not stopped.value.code
    averaged = LanguageModel.load(tmp_path / "mean")
    for name, value in averaged.network.state_dict().items():
        parts = torch.stack([model.network.state_dict()[name] for model in models]).double()
        assert torch.equal(value, parts.mean(0).float()), name
    assert [part["folder"] for part in averaged.facts["averaged"]] == ["0", "1", "2"]


def test_only_models_of_one_kind_are_averaged(vocab, tmp_path, capsys):
    folder = random_model(vocab, {"name": "masked"}).save(tmp_path / "masked")
    other = random_model(vocab, {"name": "masked", "shift": True}).save(tmp_path / "shifted")
    with pytest.raises(ValueError, match="shifted: its family is not that of .*masked"):
        average_models([folder, other], tmp_path / "mean")
    with pytest.raises(SystemExit) as stopped:
        main(["average", str(folder), str(other), "--out", str(tmp_path / "mean")])
    assert stopped.value.code and len(capsys.readouterr().err.strip().splitlines()) == 1
    with pytest.raises(ValueError, match="1 model to average; expected at least two"):
        average_models([folder], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize("stop", [None, 9])
def test_the_last_and_the_best_validations_are_kept(vocab_folder, text_file, tmp_path, stop):
    """Whatever was interrupted: each is the model of its step, and best/ is among them."""
    options = ["trainer.val_check_interval=4", "trainer.max_steps=16", "trainer.keep_last=2", "trainer.keep_best=1"]
    config = config_of(vocab_folder, text_file, *options)
    run = tmp_path / "run"
    if stop:
        train(config, run, stop_after=stop)
    train(config, run)
    header, *lines = [line.split("\t") for line in (run / "scores.tsv").read_text().splitlines()]
    scores = {int(line[0]): float(line[header.index("val_dev/loss")]) for line in lines}
    best = min(scores, key=scores.__getitem__)
    kept = {int(folder.name.removeprefix("step.")): folder for folder in (run / "kept").iterdir()}
    assert set(kept) == {12, 16, best}
    assert same(weights(kept[best]), weights(run / "best"))
    assert same(weights(kept[16]), weights(run / "model"))
    assert json.loads((kept[12] / "config.json").read_text())["facts"]["steps"] == 12
