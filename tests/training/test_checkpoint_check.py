"""A resume checkpoint that is none is refused in one line that names it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from diffusion_lm.training.run import train
from training_runs import config_of


@pytest.fixture(scope="module")
def run(vocab_folder, text_file, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(config_of(vocab_folder, text_file, "data.valid_text={}"), folder, stop_after=2)
    return folder


def edited(change):
    def edit(path: Path) -> None:
        tree = torch.load(path, weights_only=True)
        change(tree)
        torch.save(tree, path)

    return edit


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """One bit of one weight: the archive stays readable."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "not a zip file"),
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: path.write_text("a text\n" * 100), "not a zip file"),
        (flip, "its part .* is damaged"),
        (lambda path: torch.save([1, 2], path), "a list"),
        (lambda path: torch.save({"state_dict": {}}, path), "without optimizer_states, lr_schedulers"),
        (edited(lambda tree: tree.pop("progress")), "without progress"),
        (edited(lambda tree: tree["progress"].pop("tokens_seen")), "KeyError: 'tokens_seen'"),
        (edited(lambda tree: tree["callbacks"].update(Keeper=3)), "TypeError"),
        (edited(lambda tree: tree["optimizer_states"][0]["state"].update({7: "a\nb"})), "the moments of parameter 7"),
        (edited(lambda tree: tree.update({"pytorch-lightning_version": "2.x"})), "Invalid version"),
        (edited(lambda tree: tree["state_dict"].pop("network.head.bias")), r"network\.head\.bias missing"),
        (
            edited(lambda tree: tree["state_dict"].update({"network.head.bias": torch.zeros(3)})),
            r"network\.head\.bias of shape \[3\]; of shape \[45\] in this run",
        ),
    ],
)
def test_what_is_no_checkpoint_of_the_run_is_one_line(vocab_folder, text_file, run, tmp_path, damage, message):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    damage(path)
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match=message) as caught:
        train(config_of(vocab_folder, text_file, "data.valid_text={}"), tmp_path / "run")
    assert str(caught.value).startswith(f"{path}: not a whole checkpoint of this run (")
    assert "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


def test_a_whole_checkpoint_is_gone_on_from(vocab_folder, text_file, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    assert train(config_of(vocab_folder, text_file, "data.valid_text={}"), tmp_path / "run", stop_after=3).steps == 3
    assert json.loads((tmp_path / "run" / "progress.json").read_text())["step"] == 3
