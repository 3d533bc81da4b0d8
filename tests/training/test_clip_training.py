"""The clip search of a training run: adopted, recorded, resumed to the same bits, and no bound's business."""

from __future__ import annotations

import json

import pytest
import torch

from diffusion_lm.training.clip_search import candidates
from diffusion_lm.training.lightning_module import TrainingModule
from diffusion_lm.training.run import train
from training_runs import config_of, same, weights

SEARCH = [
    "trainer.clip_search={widths: [0.3, 0.5], delta: 0.25}",
    "trainer.val_check_interval=4",
    "trainer.max_steps=12",
]


def test_the_interval_is_adopted_recorded_and_resumed(vocab_folder, text_file, tmp_path, capsys, monkeypatch):
    trained_on = []
    step = TrainingModule.training_step

    def watched(self, *inputs):
        trained_on.append((self.model.family.sampling_min, self.model.family.sampling_max))
        return step(self, *inputs)

    monkeypatch.setattr(TrainingModule, "training_step", watched)
    config = config_of(vocab_folder, text_file, *SEARCH, preset="demo_masked:block4:tiny:fp32")
    whole = train(config, tmp_path / "whole")
    said = [line for line in capsys.readouterr().out.splitlines() if "training on times" in line]
    assert len(said) == 3 and len(trained_on) == 12
    assert set(trained_on[:4]) == {(0.0, 1.0)}
    assert set(trained_on[4:]) <= set(candidates(1e-3, [0.3, 0.5], 0.25))
    assert set(trained_on[4:]) != {(1e-3, 1.0)}, "some interval varies less than all times, or this shows nothing"
    for stop in (6, 8):
        train(config, tmp_path / "parts", stop_after=stop)
    parts = train(config, tmp_path / "parts")
    assert same(weights(whole.model), weights(parts.model))
    assert trained_on[12:] == trained_on[:12]
    family = json.loads((whole.model / "config.json").read_text())["family"]
    assert f"training on times {family['sampling_min']:g} to {family['sampling_max']:g}" in said[-1]
    path = tmp_path / "whole" / "checkpoints" / "last.ckpt"
    states = torch.load(path, weights_only=True)["callbacks"]
    assert [state["interval"] for name, state in states.items() if "ClipTraining" in name] == [
        [family["sampling_min"], family["sampling_max"]]
    ]


@pytest.mark.parametrize(
    ("preset", "search", "message"),
    [
        ("demo_masked:tiny", "{widths: [0.5]}", "without a block family"),
        ("demo_masked:block4:tiny", "{width: [0.5]}", "unknown key 'trainer.clip_search.width'"),
    ],
)
def test_settings_that_fit_nothing_are_refused(vocab_folder, text_file, tmp_path, preset, search, message):
    with pytest.raises(ValueError, match=message):
        train(config_of(vocab_folder, text_file, f"trainer.clip_search={search}", preset=preset), tmp_path / "run")
    assert not (tmp_path / "run").exists()
