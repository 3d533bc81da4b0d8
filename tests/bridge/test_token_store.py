"""A token store gives RETURNN's own sentences, order and batches, and RETURNN reads it as it is."""

from __future__ import annotations

import gzip
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from conftest import random_text
from diffusion_lm.commands.data import tokenize
from diffusion_lm.training.run import train
from rescore.cli import main
from returnn_bridge import token_store
from returnn_bridge.batching import Position, ReturnnBatches
from returnn_bridge.datasets import init_dataset, lm_dataset_dict
from returnn_bridge.token_store import TokenStore, build_store, default_store, find_store
from returnn_bridge.vocab import train_vocab
from training_runs import config_of

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


def test_returnn_trains_on_the_store_with_the_config_of_the_docs(store, tmp_path, monkeypatch):
    """RETURNN's own loading of docs/data.md's settings: four sub-epochs hold every sentence once."""
    import returnn.__main__
    from returnn.config import Config

    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "HDFDataset" in block)
    monkeypatch.chdir(tmp_path)
    Path("tokens.hdf").symlink_to(store.path)
    Path("returnn.config").write_text(f"#!rnn.py\n{block}")
    config = Config()
    config.load_file("returnn.config")
    monkeypatch.setattr(returnn.__main__, "config", config, raising=False)
    dataset, _ = returnn.__main__.load_data(config, returnn.__main__.get_cache_byte_sizes()[0], "train")
    tags = []
    for sub_epoch in range(1, 5):
        dataset.init_seq_order(epoch=sub_epoch)
        tags += [dataset.get_tag(index) for index in range(dataset.num_seqs)]
    assert len(tags) == len(set(tags)) == len(store)
    config.typed_dict.pop("cache_size")
    assert returnn.__main__.get_cache_byte_sizes()[0] > 0, "with which RETURNN refuses partition_epoch"


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
    root = Path(__file__).parents[2]
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


def test_a_bliss_corpus_is_no_text(vocab_folder, tmp_path):
    (tmp_path / "a.xml").write_text('<?xml version="1.0"?>\n<corpus/>\n')
    with pytest.raises(ValueError, match="a.xml: a Bliss corpus.*dlm bliss"):
        build_store([tmp_path / "a.xml"], vocab_folder, tmp_path / "out.hdf")


@pytest.fixture
def own_vocab(vocab_folder, tmp_path) -> Path:
    """A vocabulary folder that only this test puts stores into."""
    return Path(shutil.copytree(vocab_folder, tmp_path / "vocab"))


def trained(vocab, text, out, *extra) -> dict[str, torch.Tensor]:
    return load_file(train(config_of(vocab, text, "trainer.max_steps=9", *extra), out).model / "model.safetensors")


def equal(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_training_finds_the_store_by_itself_and_gives_the_same_weights(own_vocab, text_file, tmp_path, capsys):
    without = trained(own_vocab, text_file, tmp_path / "text")
    assert "token store" not in capsys.readouterr().out
    tokenize([text_file], own_vocab)
    path = default_store([text_file], own_vocab)
    assert path.parent == own_vocab and f"{path}: 600 sentences" in capsys.readouterr().out
    (tmp_path / "elsewhere.hdf").write_bytes(path.read_bytes())
    dataset = yaml.safe_dump(lm_dataset_dict([text_file], own_vocab, partition_epoch=3), default_flow_style=True)
    for name, extra, found in (
        ("auto", [], path),
        ("model file", [f"data.vocab={own_vocab / 'spm.model'}"], path),
        ("dict", ["data.text=[]", f"data.train={dataset}"], path),
        ("given", [f"data.store={tmp_path / 'elsewhere.hdf'}"], tmp_path / "elsewhere.hdf"),
        ("none", ["data.store=none"], None),
    ):
        assert equal(without, trained(own_vocab, text_file, tmp_path / name, *extra)), name
        said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("token store")]
        assert [line.split(": ")[0] for line in said] == ([] if found is None else [f"token store {found}"]), name


def test_a_run_goes_on_with_and_without_a_store(own_vocab, text_file, tmp_path):
    whole = trained(own_vocab, text_file, tmp_path / "whole")
    for steps, extra in ((3, []), (5, ["data.store=none"]), (7, [f"data.store={tmp_path / 'given.hdf'}"])):
        if steps == 5:
            build_store([text_file], own_vocab, tmp_path / "given.hdf")
            build_store([text_file], own_vocab, default_store([text_file], own_vocab))
        config = config_of(own_vocab, text_file, "trainer.max_steps=9", *extra)
        train(config, tmp_path / "parts", stop_after=steps)
    assert equal(whole, trained(own_vocab, text_file, tmp_path / "parts"))


def test_a_stale_store_stops_training_with_the_command_that_helps(own_vocab, text_file, tmp_path):
    text = tmp_path / "own text.txt"
    shutil.copy(text_file, text)
    tokenize([text], own_vocab)
    with open(text, "a") as file:
        file.write("the king\n")
    with pytest.raises(ValueError, match=r"other content than own text.txt has now \(\d+ bytes, now \d+\)") as caught:
        trained(own_vocab, text, tmp_path / "run")
    assert "\n" not in str(caught.value) and "data.store=none" in str(caught.value)
    assert not (tmp_path / "run").exists()
    command = str(caught.value).split("build it again: ")[1].split(" (or")[0]
    remove, make = command.split(" && ")
    assert shlex.split(remove) == ["rm", str(default_store([text], own_vocab))]
    program, *arguments = shlex.split(make)
    subprocess.run(shlex.split(remove), check=True)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert program == "dlm" and stopped.value.code == 0
    trained(own_vocab, text, tmp_path / "run")
    (own_vocab / "spm.model").unlink()
    train_vocab([text], size=40, out=own_vocab)
    with pytest.raises(ValueError, match="other content than the vocabulary spm.model has now"):
        trained(own_vocab, text, tmp_path / "other")


def test_no_store_is_looked_for_where_it_could_not_stand_for_the_data(own_vocab, text_file):
    tokenize([text_file], own_vocab)
    opts = lm_dataset_dict([text_file], own_vocab)
    assert find_store(opts, own_vocab) is not None
    for more in ({"seq_list_file": "a"}, {"unique_seq_tags": True}, {"skip_empty_lines": False}):
        assert find_store({**opts, **more}, own_vocab) is None
        with pytest.raises(ValueError, match="stands for an LmDataset without"):
            find_store({**opts, **more}, own_vocab, str(default_store([text_file], own_vocab)))
    with pytest.raises(FileNotFoundError, match="missing.hdf.: no such token store"):
        find_store(opts, own_vocab, "missing.hdf")


def test_the_default_place_follows_from_the_list_of_files(own_vocab):
    first = default_store(["a.txt", "b.txt"], own_vocab)
    assert first == default_store(["x/a.txt", "y/b.txt"], own_vocab / "spm.model")
    others = [["b.txt", "a.txt"], ["a.txt"], ["a.txt", "b.txt", "b.txt"], ["a.txt\nb.txt"]]
    assert len({first, *(default_store(files, own_vocab) for files in others)}) == 5
