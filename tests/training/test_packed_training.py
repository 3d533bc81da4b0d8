"""Training on packed rows: the same bits after an interruption and from a token store, and validation on packed rows too."""

from __future__ import annotations

import csv

import pytest
import torch

from conftest import random_model
from diffusion_lm.config import DataConfig, TrainConfig
from diffusion_lm.evaluate import evaluate_packed
from diffusion_lm.model import LanguageModel
from diffusion_lm.training.lightning_module import TrainingModule
from diffusion_lm.training.run import train
from returnn_bridge.batching import Position, TokenBatch
from returnn_bridge.packing import Packing, pack
from returnn_bridge.token_store import build_store
from returnn_bridge.vocab import read_lines
from training_runs import config_of, same, weights

ROWS = ["data.wrap=true", "data.max_seq_length=30", "data.seq_ordering=random", "trainer.max_steps=5"]
ROWS += ["trainer.monitor=val/nll", "data.insert_valid_special=false", "trainer.val_check_interval=3"]
FAMILIES = {
    "demo_masked:block4:tiny:fp32": [],
    "hybrid-tiny:tiny:fp32": [
        "family.score_eos=true",
        "data.too_long=drop",
        "data.valid_too_long=keep",
        "trainer.accumulate_grad_batches=1",
    ],
}


def table(run):
    return list(csv.DictReader((run / "scores.tsv").read_text().splitlines(), delimiter="\t"))


@pytest.mark.parametrize("preset", FAMILIES)
def test_interrupted_training_on_packed_rows_ends_in_the_same_bits(vocab_folder, text_file, tmp_path, preset):
    options = [*ROWS, *FAMILIES[preset], "trainer.limit_val_batches=1"]
    config = config_of(vocab_folder, text_file, *options, preset=preset)
    whole = train(config, tmp_path / "whole")
    assert whole.tokens == 5 * 9 * 32, "9 rows of 32 tokens fit into 300 tokens"
    store = build_store([text_file], vocab_folder / "spm.model", tmp_path / "tokens.hdf")
    train(config, tmp_path / "parts", stop_after=2)
    parts = train(
        config_of(vocab_folder, text_file, *options, f"data.store={store.path}", preset=preset), tmp_path / "parts"
    )
    assert same(weights(whole.model), weights(parts.model))
    assert table(tmp_path / "whole") == table(tmp_path / "parts")


def test_validation_is_the_perplexity_of_packed_rows(vocab_folder, text_file, tmp_path):
    """Exact for an autoregressive model, so both agree; what is left over after the last row is told."""
    run = tmp_path / "run"
    more = ["trainer.ema=0", "trainer.max_steps=2", "trainer.val_check_interval=2"]
    made = train(config_of(vocab_folder, text_file, *ROWS, *more, preset="demo_ar:tiny:fp32"), run)
    model = LanguageModel.load(made.model)
    documents = model.vocab.encode_batch(list(read_lines([text_file])))
    packing = Packing(32, insert_special=False)
    packed = pack(documents, packing, bos_id=model.vocab.bos_id, eos_id=model.vocab.eos_id)
    found, [line] = evaluate_packed(model, packed), table(run)
    assert found.nelbo / found.tokens == pytest.approx(float(line["val_dev/nll"]), rel=1e-5)
    assert int(float(line["val_dev/left_over"])) == packed.left_over > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["family={name: masked}"], "family 'masked' does not predict; expected family.score_eos=true"),
        (["family={name: block, block_size: 5}"], "32 tokens, BOS and EOS counted; expected a multiple of .* 5"),
        (["data.too_long=crop"], "'crop' with data.wrap true"),
        (["data.wrap=false"], "data.insert_valid_special false: it is for packed rows"),
    ],
)
def test_rows_that_do_not_fit_are_refused(vocab_folder, text_file, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(config_of(vocab_folder, text_file, *ROWS, *changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_sentence_a_row_is_the_default():
    assert not DataConfig().wrap


def test_a_packed_row_of_one_document_is_framed_as_the_sentence(vocab):
    module = TrainingModule(random_model(vocab, {"name": "autoregressive"}), TrainConfig(), None)
    pieces = torch.tensor([[3, 4, 5, 6, 7, 8]])
    row = torch.tensor([[vocab.bos_id, 3, 4, 5, 6, 7, 8, vocab.eos_id]])
    sentence = TokenBatch(pieces, torch.tensor([6]), ("a",), Position(1, 1), 0)
    packed = TokenBatch(row, torch.tensor([8]), ("a",), Position(1, 1), 0, framed=True)
    assert torch.equal(module.framed(packed).ids, module.framed(sentence).ids)
    assert torch.equal(module.framed(packed).layout.position, module.framed(sentence).layout.position)
