"""The folder of a run: nothing in it is lost to another run, and it goes on only with what it was begun with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from conftest import random_model, random_text
from diffusion_lm.commands.train import train as train_command
from diffusion_lm.config import apply_overrides, to_dict
from diffusion_lm.training.run import dataset_dicts, train
from diffusion_lm.training.run_folder import RESULTS, claim, describe_inputs, only_writer
from returnn_bridge.digests import Digests
from returnn_bridge.files import lock
from returnn_bridge.vocab import Vocab, train_vocab
from training_runs import config_of, same, weights


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def claimed(folder: Path, config, write: bool = True) -> Path | None:
    vocab = Vocab.load(config.data.vocab)
    return claim(
        folder,
        config,
        vocab,
        describe_inputs(vocab, *dataset_dicts(config, vocab), Digests(folder / "digests")),
        write=write,
    )


def refused(folder: Path, config, message: str) -> None:
    """By any process of the run, with nothing changed."""
    before = content(folder)
    for write in (True, False):
        with pytest.raises(ValueError, match=message) as caught:
            claimed(folder, config, write)
        assert "\n" not in str(caught.value) and "expected" in str(caught.value)
    assert content(folder) == before


def leave(folder: Path, name: str, vocab: Vocab) -> None:
    """A result as a run leaves it."""
    if name in ("model", "best"):
        random_model(vocab).save(folder / name, facts={"steps": 4})
    elif name == "kept":
        random_model(vocab).save(folder / name / "step.00000004", facts={"steps": 4})
    else:
        path = folder / (name if "." in name else f"{name}/last.ckpt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("step\tval/nll\n4\t1.0\n8\t1.0\n")


@pytest.fixture
def config(vocab_folder, tmp_path):
    (tmp_path / "train.txt").write_text(random_text(600))
    shutil.copytree(vocab_folder, tmp_path / "vocab")
    return config_of(tmp_path / "vocab", tmp_path / "train.txt")


@pytest.fixture
def other(config, tmp_path):
    return config_of(tmp_path / "vocab", tmp_path / "train.txt", "optim.lr=1e-2")


def test_a_finished_run_without_its_checkpoint_takes_no_other_and_does_not_begin_again(config, other, tmp_path):
    run = tmp_path / "run"
    train(config, run, stop_after=8)
    shutil.rmtree(run / "checkpoints")
    before = content(run)
    with pytest.raises(
        ValueError, match=r"run of another configuration \(optim\.lr differ; it has model, best, scores"
    ):
        train(other, run)
    with pytest.raises(ValueError, match=r"holds model, best, .* but not its checkpoint checkpoints/last\.ckpt"):
        train(config, run)
    assert content(run) == before


@pytest.mark.parametrize("name", RESULTS)
def test_any_result_keeps_another_configuration_away(config, other, vocab, tmp_path, name):
    claimed(tmp_path / "run", config)
    leave(tmp_path / "run", name, vocab)
    refused(tmp_path / "run", other, "holds a run of another configuration")


@pytest.mark.parametrize(
    "name", [name for name in RESULTS if name not in ("best", "kept", "checkpoints", "sub_epochs.tsv")]
)
def test_results_without_a_checkpoint_are_not_begun_again(config, vocab, tmp_path, name):
    claimed(tmp_path / "run", config)
    leave(tmp_path / "run", name, vocab)
    refused(tmp_path / "run", config, f"holds {name} of a run, but not its checkpoint")


def test_a_run_killed_in_its_first_validation_begins_again(config, other, vocab, tmp_path):
    """Scores and best model are written there, and the first checkpoint is only then."""
    run = tmp_path / "run"
    claimed(run, config)
    for name in ("best", "kept"):
        leave(run, name, vocab)
    (run / "scores.tsv").write_text("step\tval/nll\n7\t1.0\n")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / ".last.ckpt.host-1-ab.tmp").write_text("half")
    refused(run, other, "holds a run of another configuration")
    assert claimed(run, config) is None
    assert train(config, run, stop_after=8).steps == 8
    assert [line.split("\t")[0] for line in (run / "scores.tsv").read_text().splitlines()] == ["step", "7"]


def test_an_aborted_run_without_results_is_claimed_anew(config, other, tmp_path):
    claimed(tmp_path / "run", config)
    (tmp_path / "vocab" / "spm.model").unlink()
    train_vocab([tmp_path / "train.txt"], size=40, out=tmp_path / "vocab")
    assert claimed(tmp_path / "run", other) is None
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == to_dict(other)
    assert Vocab.load(tmp_path / "run" / "vocab") == Vocab.load(tmp_path / "vocab")


def test_what_is_no_run_is_not_made_one(config, vocab, tmp_path):
    model = random_model(vocab).save(tmp_path / "model", facts={"steps": 3})
    refused(model, config, r"model/config\.json: not the configuration of a run")
    refused(tmp_path, config, r"holds model but no config\.json of a run")
    train_vocab([tmp_path / "train.txt"], size=40, out=tmp_path / "mine" / "vocab")
    refused(tmp_path / "mine", config, r"mine/vocab/spm\.model: another vocabulary than data\.vocab")


@pytest.mark.parametrize("place", ["model", "best", "kept/step.00000004"])
def test_a_model_folder_with_something_else_in_it_is_noticed_at_the_start(config, vocab, tmp_path, place):
    claimed(tmp_path / "run", config)
    leave(tmp_path / "run", "checkpoints", vocab)
    assert claimed(tmp_path / "run", config) == tmp_path / "run" / "checkpoints" / "last.ckpt"
    folder = random_model(vocab).save(tmp_path / "run" / place, facts={"steps": 3})
    assert claimed(tmp_path / "run", config) is not None
    (folder / "notes.txt").write_text("mine")
    refused(tmp_path / "run", config, f"{place}: exists and holds something else")


def test_a_run_goes_on_with_its_own_vocabulary_and_text_only(config, vocab, tmp_path):
    run = tmp_path / "run"
    claimed(run, config)
    leave(run, "checkpoints", vocab)
    original = {path: path.read_bytes() for path in (tmp_path / "vocab" / "spm.model", tmp_path / "train.txt")}
    (tmp_path / "other.txt").write_text(random_text(600, seed=5).replace("king", "gnik"))
    (tmp_path / "vocab" / "spm.model").unlink()
    assert train_vocab([tmp_path / "other.txt"], size=vocab.num_pieces, out=tmp_path / "vocab") != vocab
    refused(run, config, r"holds a run with another vocabulary \(its own copy is .*run/vocab/spm\.model\)")
    shutil.rmtree(run / "vocab")
    refused(run, config, r"holds a run with another vocabulary \(.*inputs\.json says which\)")
    (tmp_path / "vocab" / "spm.model").write_bytes(original[tmp_path / "vocab" / "spm.model"])

    text = original[tmp_path / "train.txt"]
    (tmp_path / "train.txt").write_bytes(text + b"the king\n")
    refused(run, config, rf"train\.txt: {len(text) + 9} bytes, but {len(text)} when the run in .*run was begun")
    (tmp_path / "train.txt").write_bytes(text.replace(b"king", b"gnik", 1))
    refused(run, config, r"train\.txt: other content than when the run in")
    (tmp_path / "train.txt").write_bytes(text)
    assert claimed(run, config) is not None


def test_runs_without_a_record_of_their_inputs_go_on_and_get_one(config, tmp_path):
    run = tmp_path / "run"
    train(config, run, stop_after=2)
    recorded = (run / "inputs.json").read_text()
    (run / "inputs.json").unlink()
    assert train(config, run, stop_after=3).steps == 3
    assert (run / "inputs.json").read_text() == recorded
    assert (
        json.loads(recorded)["files"][str(tmp_path / "train.txt")]["bytes"] == (tmp_path / "train.txt").stat().st_size
    )


def test_all_datasets_encode_with_the_vocabulary_of_the_run(config, vocab, tmp_path):
    train_vocab([tmp_path / "train.txt"], size=40, out=tmp_path / "other")
    train_opts, valid_opts = dataset_dicts(config, vocab)
    valid_opts["dev"]["orth_vocab"]["model_file"] = str(tmp_path / "other" / "spm.model")
    with pytest.raises(
        ValueError, match=r"other/spm\.model: not the vocabulary of data\.vocab \(data\.valid\.dev\.orth_vocab"
    ):
        describe_inputs(vocab, train_opts, valid_opts, Digests(tmp_path / "digests"))


def test_one_training_at_a_time(config, tmp_path):
    run = tmp_path / "run"
    train(config, run, stop_after=1)
    before = content(run)
    with (
        lock(run / "run"),
        pytest.raises(ValueError, match="run: process .* is writing it; expected one writer at a time"),
    ):
        train(config, run)
    assert {path for path in content(run) if path.name != ".run.lock"} == set(before)
    assert train(config, run, stop_after=2).steps == 2
    assert not (run / ".run.lock").exists()


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_of_several_processes_the_first_one_writes(config, tmp_path, monkeypatch, name):
    """However they are started; the others neither lock nor are locked out."""
    several = config_of(tmp_path / "vocab", tmp_path / "train.txt", "trainer.devices=2").trainer
    monkeypatch.setenv(name, "0")
    with only_writer(tmp_path / "run", several) as first:
        assert first
        monkeypatch.setenv(name, "1")
        with only_writer(tmp_path / "run", several) as second:
            assert not second
    with only_writer(tmp_path / "run", config.trainer) as alone:
        assert alone, "one process: the variable is of something else"


def test_a_finished_run_can_be_trained_longer(config, tmp_path):
    """With a constant learning rate that gives the weights of one long run; fewer steps are another configuration."""

    def steps(number: int):
        return apply_overrides(config, [f"trainer.max_steps={number}", "optim.schedule=constant"])

    train(steps(14), tmp_path / "run")
    refused(tmp_path / "run", steps(7), r"trainer\.max_steps differ.*trainer\.max_steps may be raised")
    assert train(steps(21), tmp_path / "run").steps == 21
    train(steps(21), tmp_path / "straight")
    assert same(weights(tmp_path / "run" / "model"), weights(tmp_path / "straight" / "model"))
    assert (tmp_path / "run" / "scores.tsv").read_text() == (tmp_path / "straight" / "scores.tsv").read_text()


def test_an_error_in_the_settings_of_a_file_names_the_file(tmp_path):
    path = tmp_path / "run.yaml"
    for text, message in (
        ("model: {num_blocks: 40000000}", "model.num_blocks 40000000: expected a number between 1 and 1000"),
        ("trainer: {accelerator: abacus}", "trainer.accelerator 'abacus'; expected one of auto, cpu"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"run\.yaml: {message}"):
            train_command(config=path, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
