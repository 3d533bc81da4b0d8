"""A token store gives RETURNN's own sentences, order and batches, and RETURNN reads it as it is."""

from __future__ import annotations

import gzip
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import random_text
from diffusion_lm.train import train
from returnn_bridge import token_store
from returnn_bridge.batching import Position, ReturnnBatches
from returnn_bridge.datasets import init_dataset, lm_dataset_dict
from returnn_bridge.token_store import TokenStore, build_store
from test_train import config_of

RULE = {"num_tokens": 44, "batch_size": 300, "max_seqs": 16, "max_seq_length": 24}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> list[str]:
    """A plain file with empty lines and blanks at line ends, and a .gz without a last line end."""
    folder = tmp_path_factory.mktemp("corpora")
    lines = random_text(300, seed=3).splitlines()
    lines[7], lines[100], lines[40] = "", "", lines[40] + "  "
    (folder / "a.txt").write_text("\n".join(lines) + "\n")
    with gzip.open(folder / "b.txt.gz", "wt") as file:
        file.write(random_text(150, seed=4).rstrip("\n").replace("\n", " \n\n", 3))
    return [str(folder / "a.txt"), str(folder / "b.txt.gz")]


@pytest.fixture(scope="module")
def store(corpora, vocab_folder, tmp_path_factory) -> TokenStore:
    return build_store(corpora, vocab_folder, tmp_path_factory.mktemp("store") / "corpus.hdf")


def same(left, right) -> bool:
    return (
        torch.equal(left.tokens, right.tokens)
        and torch.equal(left.lengths, right.lengths)
        and (left.seq_tags, left.position, left.num_dropped) == (right.seq_tags, right.position, right.num_dropped)
    )


@pytest.mark.parametrize("ordering", ["laplace:.100", "laplace:7", "random", "sorted_reverse", "default"])
@pytest.mark.parametrize("shard", [(0, 1), (1, 3)])
def test_batches_are_those_of_lm_dataset(corpora, vocab_folder, store, ordering, shard):
    opts = lm_dataset_dict(corpora, vocab_folder, partition_epoch=3, seq_ordering=ordering)
    for sub_epoch in (1, 2, 5):
        start = Position(sub_epoch, 0)
        plain = list(ReturnnBatches(opts, start=start, shard=shard, **RULE))
        stored = list(ReturnnBatches(opts, start=start, shard=shard, store=str(store.path), **RULE))
        assert len(plain) == len(stored) > 1
        assert all(map(same, plain, stored))


def test_a_stored_run_goes_on_at_any_batch(corpora, vocab_folder, store):
    opts = lm_dataset_dict(corpora, vocab_folder, partition_epoch=2)
    batches = ReturnnBatches(opts, store=str(store.path), endless=True, **RULE)
    whole = [batch for batch, _ in zip(batches, range(40))]
    for place in (0, 3, 17, 25):
        rest = ReturnnBatches(opts, store=str(store.path), endless=True, start=whole[place].position, **RULE)
        assert all(same(left, right) for left, right in zip(rest, whole[place + 1 :]))
    with pytest.raises(ValueError, match="this sub-epoch has"):
        next(iter(ReturnnBatches(opts, store=str(store.path), start=Position(1, 10_000), **RULE)))


def test_returnn_reads_the_store_itself(corpora, vocab_folder, store):
    text = init_dataset(lm_dataset_dict(corpora, vocab_folder, seq_ordering="default"), num_tokens=44)
    stored = init_dataset({"class": "HDFDataset", "files": [str(store.path)], "cache_byte_size": 0}, num_tokens=44)
    for dataset in (text, stored):
        dataset.init_seq_order(epoch=1)
    assert text.num_seqs == stored.num_seqs == len(store)
    for index in range(text.num_seqs):
        for dataset in (text, stored):
            dataset.load_seqs(index, index + 1)
        assert text.get_tag(index) == stored.get_tag(index)
        assert np.array_equal(text.get_data(index, "data"), stored.get_data(index, "data"))


def test_the_file_tells_its_checksum(store):
    with h5py.File(store.path) as file:
        assert file.attrs["sha256"] == store.checksum()


def test_a_stale_store_is_an_error_that_says_what_to_do(corpora, vocab_folder, store, tmp_path):
    (tmp_path / "a.txt").write_text(Path(corpora[0]).read_text().replace("king", "ring"))
    opts = lm_dataset_dict([str(tmp_path / "a.txt"), corpora[1]], vocab_folder)
    with pytest.raises(ValueError, match="made from other content than a.txt has now.*dlm tokenize"):
        next(iter(ReturnnBatches(opts, store=str(store.path), **RULE)))
    with pytest.raises(ValueError, match="made from 2 corpus files; expected 1"):
        build_store(corpora[:1], vocab_folder, store.path)
    (tmp_path / "text.hdf").write_text("no HDF")
    with pytest.raises(ValueError, match="expected a token store that `dlm tokenize` wrote"):
        TokenStore.open(tmp_path / "text.hdf")
    zipped = {"class": "HDFDataset", "files": [str(store.path)]}
    with pytest.raises(ValueError, match="stands for an LmDataset"):
        ReturnnBatches(zipped, store=str(store.path), **RULE)


def test_a_line_that_returnn_would_lose_is_an_error_and_nothing_is_written(vocab_folder, tmp_path):
    (tmp_path / "a.txt").write_text("the king\nno end")
    with pytest.raises(ValueError, match="a.txt:2: no line end"):
        build_store([tmp_path / "a.txt"], vocab_folder, tmp_path / "out.hdf")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("stop_after", [1, 3])
def test_interrupted_after_any_block_the_same_bytes(corpora, vocab_folder, store, tmp_path, monkeypatch, stop_after):
    monkeypatch.setattr(token_store, "BLOCK", 100)
    out, calls = tmp_path / "corpus.hdf", []

    def stop(_: int) -> None:
        calls.append(1)
        if len(calls) == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_store(corpora, vocab_folder, out, progress=stop)
    with open(tmp_path / "corpus.hdf.partial" / "ids", "ab") as file:
        file.write(b"half")  # a block that was cut off
    done = build_store(corpora, vocab_folder, out)
    for name in ("inputs", "starts", "lineBytes", "seqLengths", "seqTags"):
        with h5py.File(out) as left, h5py.File(store.path) as right:
            assert np.array_equal(left[name][...], right[name][...])
    assert done.checksum() == store.checksum()
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.hdf"]


def test_killed_at_a_random_moment_the_command_goes_on(vocab_folder, tmp_path):
    (tmp_path / "a.txt").write_text(random_text(60_000, seed=5))
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'recipe'}:{root}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "diffusion_lm", "tokenize", str(tmp_path / "a.txt"), "--vocab", str(vocab_folder)]
    command += ["--out", str(tmp_path / "a.hdf")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(random.Random(os.getpid()).uniform(0.5, 2.5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    again = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "complete already" in again.stdout
    assert len(TokenStore.open(tmp_path / "a.hdf")) == 60_000


def test_training_from_a_store_gives_the_same_weights(vocab_folder, text_file, tmp_path):
    build_store([text_file], vocab_folder, tmp_path / "train.hdf")
    for name, extra in (("text", []), ("store", [f"data.store={tmp_path / 'train.hdf'}"])):
        train(config_of(vocab_folder, text_file, "trainer.max_steps=9", *extra), tmp_path / name)
    left, right = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("text", "store"))
    assert all(torch.equal(left[key], right[key]) for key in left)
