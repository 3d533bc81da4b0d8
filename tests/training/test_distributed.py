"""Several processes (two, gloo, CPU): unequal ranks, exact resumption, sharded weights, and tokens that count alike wherever they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from conftest import random_text
from diffusion_lm.config import to_dict
from diffusion_lm.draws import draw_noise
from diffusion_lm.layout import Sentences
from diffusion_lm.model import LanguageModel
from diffusion_lm.training.lightning_module import TrainingModule
from diffusion_lm.training.run import train
from returnn_bridge.batching import ReturnnBatches
from returnn_bridge.datasets import lm_dataset_dict
from returnn_bridge.vocab import Vocab
from training_runs import config_of, same, weights

SCRIPT = """
import sys, yaml
from pathlib import Path
from diffusion_lm.config import from_dict
from diffusion_lm.training.run import train
train(from_dict(yaml.safe_load(Path(sys.argv[1]).read_text())), sys.argv[2], stop_after=int(sys.argv[3]) or None)
"""
# 41 sentences, at most 14 in a batch: the ranks get 21 and 20 of them in batches of other sizes, and are soon in different sub-epochs.
UNEVEN = [
    "data.partition_epoch=1",
    "data.max_seqs=14",
    "data.max_seq_length=14",
    "data.batch_size=4000",
    "model.dropout=0.1",
]
STEPS = ["trainer.max_steps=8", "trainer.val_check_interval=3", "trainer.save_every=2", "trainer.devices=2"]


def launch(folder: Path, config, out: str, stop_after: int = 0) -> Path:
    """Train with two processes; Lightning starts the second one by repeating the command line."""
    (folder / "script.py").write_text(SCRIPT)
    (folder / f"{out}.yaml").write_text(yaml.safe_dump(to_dict(config)))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'recipe'}:{root}", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        str(folder / "script.py"),
        str(folder / f"{out}.yaml"),
        str(folder / out),
        str(stop_after),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not stop_after or "8/8" not in done.stdout
    return folder / out


@pytest.mark.slow
def test_unequal_ranks_train_resume_exactly_and_agree_with_sharded_weights(vocab_folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(random_text(41, seed=3))

    def config(strategy):
        extra = [*UNEVEN, *STEPS, f"trainer.strategy={strategy}", "trainer.accelerator=cpu"]
        return config_of(vocab_folder, text, *extra)

    whole = launch(tmp_path, config("ddp"), "whole")
    positions = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)["progress"]["data"]["positions"]
    assert positions[0][0] != positions[1][0], (
        "the ranks must have unequal numbers of batches, or this test shows nothing"
    )
    launch(tmp_path, config("ddp"), "parts", stop_after=5)
    assert same(weights(whole / "model"), weights(launch(tmp_path, config("ddp"), "parts") / "model"))

    launch(tmp_path, config("fsdp"), "sharded", stop_after=5)
    sharded = launch(tmp_path, config("fsdp"), "sharded")
    for name, value in weights(sharded / "model").items():
        assert torch.allclose(value, weights(whole / "model")[name], atol=2e-6), name
    facts = [json.loads((run / "model" / "config.json").read_text())["facts"] for run in (whole, sharded)]
    assert facts[0] == facts[1] and facts[0]["tokens"] > 0


def test_micro_batches_of_a_step_count_by_their_tokens(vocab_folder, text_file, tmp_path):
    """Two micro-batches of different sizes move the weights as their union would: no mean of means."""
    options = ["trainer.accumulate_grad_batches=2", "trainer.max_steps=1", "model.dropout=0", "trainer.ema=0"]
    options += ["trainer.gradient_clip=0", "optim.warmup_steps=0", "optim.eps=1", "optim.lr=1", "optim.weight_decay=0"]
    options += ["data.batch_size=40", "data.valid_text={}"]
    config = config_of(vocab_folder, text_file, *options, preset="demo_ar:tiny:fp32")
    trained = weights(train(config, tmp_path / "run").model)

    torch.manual_seed(config.seed)
    vocab = Vocab.load(vocab_folder)
    model = LanguageModel.build(config.family, config.model, vocab)
    opts = lm_dataset_dict([text_file], vocab_folder, partition_epoch=3, seq_ordering=config.data.seq_ordering)
    batches = iter(ReturnnBatches(opts, num_tokens=vocab.num_pieces, batch_size=40, max_seqs=20, max_seq_length=96))
    first, second = next(batches), next(batches)
    rows = [
        row[:length] for batch in (first, second) for row, length in zip(batch.tokens.tolist(), batch.lengths.tolist())
    ]
    assert first.lengths.sum() + len(first.lengths) != second.lengths.sum() + len(second.lengths)
    terms = model.family.training_loss(
        model.network, Sentences.of(rows, bos_id=vocab.bos_id, eos_id=vocab.eos_id), None
    )
    (terms.loss.sum() / terms.weight).backward()
    for name, value in model.network.named_parameters():
        # Adam's first step at this epsilon: g / (|g| + 1)
        expected = value.detach() - value.grad / (value.grad.abs() + 1)
        assert torch.allclose(trained[name], expected, atol=2e-6), name


def test_a_policy_is_not_sharded(vocab_folder, text_file, tmp_path):
    config = config_of(vocab_folder, text_file, "trainer.strategy=fsdp", preset="demo_masked:adaptive:tiny:fp32")
    with pytest.raises(ValueError, match="trains a second network; expected trainer.strategy"):
        train(config, tmp_path / "run")


def test_keys_that_are_newer_than_a_run_do_not_make_it_another_one(vocab_folder, text_file, tmp_path):
    config = config_of(vocab_folder, text_file, "data.valid_text={}")
    train(config, tmp_path / "run", stop_after=2)
    path = tmp_path / "run" / "config.json"
    tree = json.loads(path.read_text())
    del tree["preload_from_files"], tree["trainer"]["keep_last"]
    path.write_text(json.dumps(tree))
    assert train(config, tmp_path / "run", stop_after=3).steps == 3


def test_recomputed_activations_give_the_same_bits_and_keep_less(vocab_folder, text_file, tmp_path):
    config = config_of(vocab_folder, text_file, "trainer.max_steps=3")
    again = config_of(vocab_folder, text_file, "trainer.max_steps=3", "trainer.activation_checkpointing=true")
    assert same(weights(train(config, tmp_path / "one").model), weights(train(again, tmp_path / "two").model))

    def kept(recompute: bool) -> int:
        """Bytes that the forward pass leaves for the backward pass."""
        found = {}

        def pack(value):
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        model = LanguageModel.build(config.family, config.model, Vocab.load(vocab_folder))
        model.network.configure(recompute=recompute)
        sentences = model.sentences(["the king said"] * 20)
        draw = draw_noise(sentences.layout.lengths, torch.Generator().manual_seed(1), stratified=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            model.family.training_loss(model.network, sentences, draw)
        return sum(found.values())

    assert kept(True) < 0.6 * kept(False)


def test_sub_epochs_have_their_mean_training_loss(vocab_folder, text_file, tmp_path, monkeypatch):
    """Also over an interruption in the middle of one."""
    losses = []
    watch = TrainingModule._watch
    monkeypatch.setattr(TrainingModule, "_watch", lambda self, loss: (losses.append(loss.item()), watch(self, loss))[1])
    config = config_of(vocab_folder, text_file, "data.valid_text={}", preset="demo_ar:tiny:fp32")
    train(config, tmp_path / "run", stop_after=7)
    train(config, tmp_path / "run")
    header, *lines = [line.split("\t") for line in (tmp_path / "run" / "sub_epochs.tsv").read_text().splitlines()]
    assert header == ["sub_epoch", "step", "tokens", "learning_rate", "train_loss"]
    assert [line[0] for line in lines] == ["1"] and len(losses) == 20
    step = int(lines[0][1])
    assert 7 < step < 20 and min(losses[:step]) < float(lines[0][4]) < max(losses[:step])


@pytest.mark.slow
def test_compiled_blocks_train_to_the_same_weights(vocab_folder, text_file, tmp_path):
    # Without dropout: compiled code draws other numbers.
    options = ["trainer.max_steps=3", "data.valid_text={}", "model.num_blocks=1", "model.dropout=0"]
    config = config_of(vocab_folder, text_file, *options)
    compiled = config_of(vocab_folder, text_file, *options, "trainer.compile=true")
    plain, fast = (
        weights(train(run, tmp_path / name).model) for run, name in ((config, "plain"), (compiled, "compiled"))
    )
    for name, value in plain.items():
        assert torch.allclose(value, fast[name], atol=1e-5), name
