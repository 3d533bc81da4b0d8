"""The data module: what training has consumed is what is saved, and validation is complete and always the same."""

from __future__ import annotations

import gzip
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from conftest import random_text
from returnn_bridge.batching import Position, TokenBatch
from returnn_bridge.datamodule import ReturnnDataModule
from returnn_bridge.datasets import lm_dataset_dict

RULE = {"batch_size": 400, "max_seqs": 24, "max_seq_length": 25}


@pytest.fixture
def options(text_file: Path, vocab_folder: Path, vocab: Any, tmp_path: Path) -> dict[str, Any]:
    """600 sentences in three sub-epochs; 40 and 30 for validation."""
    valid = {}
    for name, lines in (("dev", 40), ("devtrain", 30)):
        path = tmp_path / f"{name}.txt"
        path.write_text(random_text(lines, seed=lines))
        valid[name] = lm_dataset_dict([path], vocab_folder, seq_ordering="sorted_reverse")
    train = lm_dataset_dict([text_file], vocab_folder, partition_epoch=3, seq_ordering="laplace:.60")
    return {"train_opts": train, "valid_opts": valid, "num_tokens": vocab.num_pieces, **RULE}


def take(data: ReturnnDataModule, count: int) -> list[TokenBatch]:
    return list(itertools.islice(data.train_dataloader(), count))


def content(batch: TokenBatch) -> tuple:
    return batch.tokens.tolist(), batch.lengths.tolist(), batch.seq_tags, batch.position, batch.num_dropped


class Listener(lightning.LightningModule):
    """Keeps what it is given, and says so, as a training module does."""

    def __init__(self, data: ReturnnDataModule):
        super().__init__()
        self.data = data
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained: list[tuple] = []
        self.validated: list[tuple[str, tuple[str, ...]]] = []

    def training_step(self, batch: TokenBatch, index: int) -> torch.Tensor:
        self.trained.append(content(batch))
        return self.weight * batch.tokens[batch.valid].float().mean()

    def on_train_batch_end(self, outputs: Any, batch: TokenBatch, index: int) -> None:
        self.data.consumed(batch)

    def validation_step(self, batch: TokenBatch, index: int, dataloader_idx: int = 0) -> None:
        self.validated.append((self.data.valid_names[dataloader_idx], batch.seq_tags))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, steps: int, **options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_steps=steps,
        max_epochs=-1,
        check_val_every_n_epoch=None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


@pytest.mark.filterwarnings("ignore")
def test_resume_with_lightning_trains_on_the_batches_of_an_uninterrupted_run(options, tmp_path):
    whole = Listener(ReturnnDataModule(**options))
    trainer(tmp_path, 40, val_check_interval=100).fit(whole, datamodule=whole.data)
    assert whole.trained[-1][3].sub_epoch >= 2

    first = Listener(ReturnnDataModule(**options))
    stopped = trainer(tmp_path, 13, val_check_interval=100)
    stopped.fit(first, datamodule=first.data)
    stopped.save_checkpoint(tmp_path / "last.ckpt")
    second = Listener(ReturnnDataModule(**options))
    trainer(tmp_path, 40, val_check_interval=100).fit(
        second, datamodule=second.data, ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True
    )
    assert first.trained + second.trained == whole.trained


@pytest.mark.filterwarnings("ignore")
def test_validation_runs_although_the_interval_is_longer_than_a_sub_epoch(options, tmp_path):
    module = Listener(ReturnnDataModule(**options))
    per_sub_epoch = next(place for place, batch in enumerate(take(module.data, 99), 1) if batch.position.sub_epoch == 2)
    trainer(tmp_path, 2 * per_sub_epoch + 2, val_check_interval=per_sub_epoch + 1).fit(module, datamodule=module.data)
    half = len(module.validated) // 2
    assert module.validated[:half] == module.validated[half:]
    for name, lines in (("dev", 40), ("devtrain", 30)):
        tags = [tag for own, tags in module.validated[:half] if own == name for tag in tags]
        assert sorted(tags) == sorted(f"line-{index}" for index in range(lines))


def test_reading_ahead_does_not_move_the_position(options):
    data = ReturnnDataModule(**options)
    batches = take(data, 20)
    assert data.state_dict() == {"positions": [[1, 0]]}
    data.consumed(batches[4])
    other = ReturnnDataModule(**options)
    other.load_state_dict(data.state_dict())
    assert list(map(content, take(other, 15))) == list(map(content, batches[5:]))


def test_a_worker_process_delivers_the_same_and_leaves_no_copy_of_the_text(
    options, text_file, vocab_folder, tmp_path, monkeypatch
):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    zipped = tmp_path / "train.txt.gz"
    zipped.write_bytes(gzip.compress(text_file.read_bytes()))
    options["train_opts"] = lm_dataset_dict([zipped], vocab_folder, partition_epoch=3, seq_ordering="laplace:.60")
    here, beside = ReturnnDataModule(**options), ReturnnDataModule(**options, num_workers=1)
    for data in (here, beside):
        data.position = Position(2, 17)
    assert list(map(content, take(beside, 12))) == list(map(content, take(here, 12)))
    assert not list((tmp_path / "tmp").glob("returnn_lm_dataset*"))


def test_validation_keeps_what_training_drops(options):
    options["max_seq_length"] = 10
    data = ReturnnDataModule(**options)
    assert sum(batch.num_dropped for batch in take(data, 10)) > 0
    for name, loader in zip(data.valid_names, data.val_dataloader(), strict=True):
        for _ in range(2):
            batches = list(loader)
            assert sum(len(batch.lengths) for batch in batches) == {"dev": 40, "devtrain": 30}[name]
            assert max(int(batch.lengths.max()) for batch in batches) > 10
            assert not any(batch.num_dropped for batch in batches)


def test_bad_text_ends_the_run_before_it_starts(options, tmp_path):
    (tmp_path / "dev.txt").write_text("one\n \n")
    with pytest.raises(ValueError, match="dev.txt:2: a line of blanks"):
        ReturnnDataModule(**options).prepare_data()


def test_a_checkpoint_of_another_number_of_processes_is_an_error(options):
    with pytest.raises(ValueError, match="positions of 2 processes; expected 1"):
        ReturnnDataModule(**options).load_state_dict({"positions": [[1, 0], [1, 0]]})


def test_more_than_one_worker_is_an_error(options):
    with pytest.raises(ValueError, match="num_workers 2: expected 0 or 1"):
        ReturnnDataModule(**options, num_workers=2)


def run_rank(options: dict[str, Any], rank: int, store: str) -> list[Any]:
    """The state after a few consumed batches (other ones on each rank), the batches, and the first batch after a resume."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        data, again = ReturnnDataModule(**options), ReturnnDataModule(**options)
        batches = take(data, 9)
        data.consumed(batches[2 + rank])
        state = data.state_dict()
        again.load_state_dict(state)
        return [state, [list(batch.seq_tags) for batch in batches], list(take(again, 1)[0].seq_tags)]
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_share_the_data_and_save_both_positions(options, tmp_path):
    script = "import json, sys; sys.path[:0] = json.loads(sys.argv[1]); from test_datamodule import run_rank; "
    script += "print(json.dumps(run_rank(*json.loads(sys.argv[2]))))"
    arguments = [json.dumps(sys.path), json.dumps([options, 1, str(tmp_path / "store")])]
    with subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True) as process:
        state, tags, follow = run_rank(options, 0, str(tmp_path / "store"))
        other_state, other_tags, other_follow = json.loads(process.communicate(timeout=100)[0])
    assert state == other_state
    assert len(state["positions"]) == 2
    first = {tag for batch in tags[:3] for tag in batch}
    assert first.isdisjoint(tag for batch in other_tags[:3] for tag in batch)
    assert follow == tags[3]
    assert other_follow == other_tags[4]


def test_validation_crops_the_same_windows_every_time_and_only_of_longer_texts(options):
    whole = [list(loader) for loader in ReturnnDataModule(**options).val_dataloader()]
    data = ReturnnDataModule(**options, valid_crop=3)
    first, again = ([list(map(content, loader)) for loader in data.val_dataloader()] for _ in range(2))
    assert first == again
    limit, cropped = RULE["max_seq_length"], 0
    for before, after in zip(whole, first):
        texts = {tag: row[:n] for b in before for tag, row, n in zip(b.seq_tags, b.tokens.tolist(), b.lengths.tolist())}
        windows = {tag: row[:n] for tokens, ns, tags, *_ in after for tag, row, n in zip(tags, tokens, ns)}
        assert texts.keys() == windows.keys()
        for tag, text in texts.items():
            size = min(limit, len(text))
            assert any(windows[tag] == text[at : at + size] for at in range(len(text) - size + 1))
            cropped += len(text) > limit
    assert cropped >= 5
