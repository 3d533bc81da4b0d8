"""The resume checkpoint is written beside its place, whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile

import pytest
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from diffusion_lm.training import checkpoint_file
from diffusion_lm.training.checkpoint_file import CheckpointFile
from diffusion_lm.training.run import train
from returnn_bridge.files import temporary_path
from training_runs import config_of


def test_a_training_needs_no_temporary_folder_of_the_system(vocab_folder, text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    config = config_of(vocab_folder, text_file, "data.valid_text={}")
    train(config, tmp_path / "run", stop_after=2)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["last.ckpt"]


def test_the_bytes_are_those_of_lightning_and_left_overs_are_swept(tmp_path):
    state = {"weights": torch.arange(6.0), "step": 3}
    TorchCheckpointIO().save_checkpoint(state, tmp_path / "theirs.ckpt")
    target = tmp_path / "ours" / "last.ckpt"
    target.parent.mkdir()
    left = temporary_path(target)
    left = left.with_name(left.name.replace(f"-{os.getpid()}-", "-999999999-"))  # of a process that is no more
    left.write_bytes(b"half")
    CheckpointFile().save_checkpoint(state, target)
    assert target.read_bytes() == (tmp_path / "theirs.ckpt").read_bytes()
    assert list(target.parent.iterdir()) == [target]


def test_a_full_disk_is_named_and_the_earlier_checkpoint_stays(tmp_path, monkeypatch):
    target = tmp_path / "last.ckpt"
    CheckpointFile().save_checkpoint({"step": 1}, target)
    before = target.read_bytes()

    def small_disk(path, mode):
        file = open(path, mode, buffering=0)  # closed by the caller

        class Full:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                file.close()

            def write(self, data):
                if file.tell() + len(data) > 1000:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return file.write(data)

            def flush(self):
                file.flush()

        return Full()

    monkeypatch.setattr(checkpoint_file, "open", small_disk, raising=False)
    with pytest.raises(OSError, match="No space left") as caught:
        CheckpointFile().save_checkpoint({"weights": torch.zeros(1000)}, target)
    assert caught.value.filename == str(target)
    assert target.read_bytes() == before and list(tmp_path.iterdir()) == [target]
