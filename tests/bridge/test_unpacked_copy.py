"""RETURNN's unpacked copy of a .gz corpus leaves no file, however the reading process ends."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from conftest import random_text
from returnn_bridge.datamodule import ReturnnDataModule
from returnn_bridge.datasets import lm_dataset_dict
from returnn_bridge.unpacked_copy import unnamed_copies

READ = """
import os, signal, sys
from returnn_bridge.batching import ReturnnBatches
from returnn_bridge.datasets import lm_dataset_dict

opts = lm_dataset_dict([sys.argv[1]], sys.argv[2])
batches = iter(ReturnnBatches(opts, num_tokens=int(sys.argv[3]), endless=True))
next(batches)
held = {os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{number}")}
print(len([name for name in held if name.startswith(os.environ["TMPDIR"])]), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    path = tmp_path / "train.txt.gz"
    with gzip.open(path, "wt") as file:
        file.write(random_text(60))
    return path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def copies(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith("returnn_lm_dataset")]


def test_no_copy_has_a_name_while_training_reads_nor_after(zipped, vocab_folder, vocab, temporary):
    data = ReturnnDataModule(lm_dataset_dict([zipped], vocab_folder), {}, num_tokens=vocab.num_pieces)
    batches = iter(data.train_dataloader())
    next(batches)
    assert copies(temporary) == []
    del batches
    assert copies(temporary) == []


def test_sigkill_leaves_none(zipped, vocab_folder, vocab, temporary):
    call = [sys.executable, "-c", READ, str(zipped), str(vocab_folder), str(vocab.num_pieces)]
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(call, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout == "1\n", "the copy was there, in the temporary folder"
    assert copies(temporary) == []


def test_other_temporary_files_keep_their_names(temporary):
    with unnamed_copies(), tempfile.NamedTemporaryFile(prefix="other") as file:
        assert Path(file.name).is_file()
    assert not Path(file.name).exists()
