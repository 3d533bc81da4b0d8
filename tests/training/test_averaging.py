"""Averages of models, and the models of validations that are kept for them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from conftest import random_model
from diffusion_lm.model import LanguageModel
from diffusion_lm.training.averaging import average_models
from diffusion_lm.training.interruption import StopRequest
from diffusion_lm.training.keeper import Keeper
from diffusion_lm.training.run import train
from rescore.cli import main
from training_runs import config_of, same, weights


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


def test_only_an_earlier_average_is_replaced(vocab, tmp_path, monkeypatch, capsys):
    """Not a run, not a trained model, not an average with something else beside it; and that is said before a model is read."""
    trained = [
        random_model(vocab, seed=seed).save(tmp_path / f"run/kept/step.{seed}", facts={"steps": seed})
        for seed in (1, 2)
    ]
    average_models(trained, tmp_path / "mean")
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_text("precious")
    average_models(trained, tmp_path / "guarded")
    (tmp_path / "guarded" / "notes.txt").write_text("precious")
    other = random_model(vocab, seed=3).save(tmp_path / "other", facts={"steps": 3})

    average_models([trained[0], other], tmp_path / "mean")
    sources = LanguageModel.load(tmp_path / "mean").facts["averaged"]
    assert [part["folder"] for part in sources] == ["step.1", "other"], "an average takes the place of an average"

    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(LanguageModel, "load", lambda *_, **__: pytest.fail("a model is read first"))
    for out in ("run", "run/kept", "other", "guarded", "run/checkpoints/last.ckpt"):
        with pytest.raises(SystemExit) as stopped:
            main(["average", *map(str, trained), "--out", str(tmp_path / out)])
        assert stopped.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{tmp_path / out}: " in line and "expected" in line
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("out", ["mean", "elsewhere/../mean", "link", "mean/inside"])
def test_an_average_does_not_take_the_place_of_one_of_its_models(vocab, tmp_path, out):
    folders = [random_model(vocab, seed=seed).save(tmp_path / str(seed), facts={"steps": seed}) for seed in (1, 2)]
    mean = average_models(folders, tmp_path / "mean")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(mean)
    with pytest.raises(ValueError, match="a model to average; expected another folder for the mean"):
        average_models([folders[0], mean], tmp_path / out)


@pytest.mark.parametrize("keep_best", [0, 1, 2])
@pytest.mark.parametrize("keep_last", range(6))
def test_as_many_validations_are_kept_as_are_asked_for(vocab, vocab_folder, text_file, tmp_path, keep_last, keep_best):
    config = config_of(vocab_folder, text_file, f"trainer.keep_last={keep_last}", f"trainer.keep_best={keep_best}")
    keeper = Keeper(tmp_path, config, StopRequest())
    model = random_model(vocab)
    keeper._export = lambda trainer, module, name: model.save(tmp_path / name, facts={"steps": trainer.global_step})
    (tmp_path / "kept" / "step.mine").mkdir(parents=True)
    values = [5.0, 1.0, 4.0, 2.0, 6.0, 3.0, 7.0]
    for count in range(1, len(values) + 1):
        metrics = {config.trainer.monitor: values[count - 1]}
        keeper.export_kept(SimpleNamespace(global_step=count, is_global_zero=True, callback_metrics=metrics), None)
        steps = range(1, count + 1)
        best = sorted(steps, key=lambda step: values[step - 1])[:keep_best]
        expected = {step for step in steps if step > count - keep_last} | set(best)
        found = {folder.name for folder in (tmp_path / "kept").iterdir()}
        assert found == {f"step.{step:08d}" for step in expected} | {"step.mine"}


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
