"""Training end to end on a little text: resumption to the same bits, validation that really runs, what a run leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from conftest import random_text
from diffusion_lm import presets
from diffusion_lm.backbones.dit import DiT
from diffusion_lm.config import from_dict, to_dict
from diffusion_lm.model import LanguageModel
from diffusion_lm.training.run import train
from returnn_bridge.vocab import Vocab
from training_runs import config_of, same, weights


@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["trainer.accumulate_grad_batches=2"],
        ["family.sampling_max=1", "family.time_conditioning=true", "model.adaln=true"],
    ],
    ids=str,
)
def test_interrupted_training_ends_in_the_same_bits(vocab_folder, text_file, tmp_path, extra):
    """Stops at and off the checkpoints and validations, over the end of a sub-epoch; dropout and moving average are on."""
    config = config_of(vocab_folder, text_file, *extra)
    whole = train(config, tmp_path / "whole")
    for stop in (4, 7, 13):
        train(config, tmp_path / "parts", stop_after=stop)
    parts = train(config, tmp_path / "parts")
    assert same(weights(whole.model), weights(parts.model))
    assert same(weights(tmp_path / "whole" / "best"), weights(tmp_path / "parts" / "best"))
    assert (tmp_path / "whole" / "scores.tsv").read_text() == (tmp_path / "parts" / "scores.tsv").read_text()
    assert whole.tokens == parts.tokens


@pytest.mark.slow
def test_killed_twice_training_ends_in_the_same_bits(vocab_folder, text_file, tmp_path):
    config = config_of(vocab_folder, text_file, "trainer.max_steps=120", "trainer.val_check_interval=50")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'recipe'}:{root}", "OMP_NUM_THREADS": "1"}

    def command(out):
        return [
            sys.executable,
            "-m",
            "diffusion_lm",
            "train",
            "--config",
            str(tmp_path / "config.yaml"),
            "--out",
            str(out),
        ]

    subprocess.run(command(tmp_path / "whole"), env=environment, check=True, capture_output=True)
    checkpoint = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    for _ in range(2):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = subprocess.Popen(
            command(tmp_path / "killed"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed" / "model").exists(), "killed before the end, or this test shows nothing"
    subprocess.run(command(tmp_path / "killed"), env=environment, check=True, capture_output=True)
    assert same(weights(tmp_path / "whole" / "model"), weights(tmp_path / "killed" / "model"))


def test_validation_runs_although_the_sub_epoch_is_shorter_than_its_interval(vocab_folder, text_file, tmp_path):
    """A third of 600 sentences is 10 batches of 20; the interval is 12. Both named sets get their own metrics."""
    (tmp_path / "other.txt").write_text(random_text(50, seed=9))
    config = config_of(
        vocab_folder,
        text_file,
        "trainer.val_check_interval=12",
        "trainer.max_steps=24",
        f"data.valid_text.devtrain={tmp_path / 'other.txt'}",
    )
    train(config, tmp_path / "run")
    header, *lines = (tmp_path / "run" / "scores.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["12", "24"]
    assert {"val_dev/nll", "val_devtrain/nll"} < set(header.split("\t"))
    assert int(lines[-1].split("\t")[1]) >= 2, "more than one sub-epoch has passed"


def test_training_lowers_the_loss_and_the_average_is_what_is_saved(vocab_folder, text_file, tmp_path):
    config = config_of(
        vocab_folder, text_file, "trainer.max_steps=60", "trainer.val_check_interval=20", "trainer.ema=0.5"
    )
    result = train(config, tmp_path / "run")
    losses = [float(line.split("\t")[5]) for line in (tmp_path / "run" / "scores.tsv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0]
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    averages = checkpoint["progress"]["ema"]["shadow"]
    model = LanguageModel.load(result.model)
    assert all(
        torch.equal(average, parameter) for average, parameter in zip(averages, model.network.parameters(), strict=True)
    )
    raw = checkpoint["state_dict"]["network.head.weight"]
    assert not torch.equal(raw, model.network.head.weight), "and not the last step's weights"


def test_a_run_of_another_configuration_is_not_continued(vocab_folder, text_file, tmp_path):
    train(config_of(vocab_folder, text_file), tmp_path / "run", stop_after=4)
    with pytest.raises(ValueError, match=r"optim\.lr"):
        train(config_of(vocab_folder, text_file, "optim.lr=1e-2"), tmp_path / "run")


def test_a_failed_start_does_not_claim_the_folder(vocab_folder, text_file, tmp_path):
    with pytest.raises(OSError, match=r"missing\.txt"):
        train(config_of(vocab_folder, text_file, "data.text=[missing.txt]"), tmp_path / "run")
    assert train(config_of(vocab_folder, text_file), tmp_path / "run", stop_after=1).steps == 1


def test_checkpoints_come_where_validation_is_switched_off(vocab_folder, text_file, tmp_path):
    options = ["trainer.limit_val_batches=0", "trainer.save_every=1", "trainer.val_check_interval=1"]
    train(config_of(vocab_folder, text_file, *options), tmp_path / "run", stop_after=2)
    assert json.loads((tmp_path / "run" / "progress.json").read_text())["step"] == 2


def test_masked_model_starts_from_autoregressive_weights(vocab_folder, text_file, tmp_path, capsys):
    ar = train(config_of(vocab_folder, text_file, preset="demo_ar:tiny:fp32"), tmp_path / "ar")
    config = config_of(
        vocab_folder, text_file, "family.shift=true", f"init_from={ar.model}", "trainer.max_steps=1", "optim.lr=1e-9"
    )
    masked = train(config, tmp_path / "masked")
    assert "0 fresh" in capsys.readouterr().out
    # One step at no rate: the networks still agree, so a sentence's last token has the same distribution from both.
    first, second = LanguageModel.load(ar.model), LanguageModel.load(masked.model)
    assert torch.allclose(first.network.embedding.weight, second.network.embedding.weight, atol=1e-6)


@pytest.mark.parametrize(
    "name", [*sorted(presets.PRESETS), *(f"demo_masked:{suffix}" for suffix in sorted(presets.SUFFIXES))]
)
def test_every_preset_trains(vocab_folder, text_file, tmp_path, name):
    config = config_of(
        vocab_folder, text_file, "trainer.max_steps=2", "trainer.val_check_interval=2", preset=f"{name}:tiny:fp32"
    )
    assert train(config, tmp_path / "run").steps == 2


@pytest.mark.parametrize("name", [*presets.PRESETS, *(f"librispeech_masked:{suffix}" for suffix in presets.SUFFIXES)])
def test_every_preset_and_suffix_survives_a_round_trip(name):
    config = presets.build(name)
    assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.learning_rate=1"], "unknown key 'optim.learning_rate'"),
        (["optim.lrr=1"], "did you mean 'lr'"),
        (["model.hidden_size=33"], "even width per head"),
        (["trainer.max_steps=many"], "trainer.max_steps"),
        (["trainer.precision=16"], "'32' or 'bf16'"),
        (["optim"], "expected section.key=value"),
        (["data.train={class: LmDataset}"], "data.text and data.train are both set"),
        (["family.sampling=1"], "unknown key 'family.sampling'; did you mean 'sampling_max'"),
        (["family.T=abc"], "family.T: got 'abc'; expected int"),
        (["family.time_conditioning=maybe"], "family.time_conditioning: got 'maybe'; expected bool"),
        (["optim.lr=.nan"], "optim.lr"),
        (["trainer.max_steps=.inf"], "trainer.max_steps"),
        (["model.num_heads=0"], "model.num_heads 0"),
        (["data.vocab=nowhere"], "nowhere"),
        (["data.text=[missing.txt]"], "missing.txt"),
        (["trainer.monitor=val/wer"], "trainer.monitor"),
    ],
)
def test_bad_configurations_are_one_clear_line(vocab_folder, text_file, tmp_path, overrides, message):
    with pytest.raises((ValueError, OSError), match=message) as caught:
        train(config_of(vocab_folder, text_file, *overrides), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_config_file_says_everything(vocab_folder, text_file, tmp_path):
    config = config_of(vocab_folder, text_file)
    train(config, tmp_path / "run", stop_after=1)
    assert from_dict(json.loads((tmp_path / "run" / "config.json").read_text())) == config


def test_a_loss_that_is_no_number_stops_with_the_batch_saved(vocab_folder, text_file, tmp_path, monkeypatch):
    forward = DiT.forward

    def broken(self, ids, *args, **kwargs):
        return forward(self, ids, *args, **kwargs) * torch.nan

    monkeypatch.setattr(DiT, "forward", broken)
    with pytest.raises(ValueError, match=r"training loss is nan at step 0 .*bad_batch.json"):
        train(config_of(vocab_folder, text_file), tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "bad_batch.json").read_text())
    assert saved["step"] == 0 and len(saved["seq_tags"]) == len(saved["tokens"]) > 0
    lines = text_file.read_text().splitlines()
    number = int(saved["seq_tags"][0].removeprefix("line-"))
    assert Vocab.load(vocab_folder).decode(saved["tokens"][0]) == lines[number]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_names_the_batch_and_what_to_set(vocab_folder, text_file, tmp_path, monkeypatch, error):
    def full(self, ids, *args, **kwargs):
        raise error

    monkeypatch.setattr(DiT, "forward", full)
    with pytest.raises(ValueError, match=r"out of memory at step 0, a batch of \d+ sentences .*data.batch_size below"):
        train(config_of(vocab_folder, text_file), tmp_path / "run")


def test_other_errors_stay_what_they_are(vocab_folder, text_file, tmp_path, monkeypatch):
    def broken(self, ids, *args, **kwargs):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(DiT, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train(config_of(vocab_folder, text_file), tmp_path / "run")
