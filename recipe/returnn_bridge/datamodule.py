"""The Lightning data module: an endless training stream with a resumable position, and named validation sets.

    data = ReturnnDataModule(train_opts, {"dev": dev_opts, "devtrain": devtrain_opts}, num_tokens=10240)
    trainer.fit(module, datamodule=data)                # the module calls data.consumed(batch) after each step
    data.valid_names[dataloader_idx]                    # "dev", "devtrain"

The stream never ends, so Lightning sees one epoch. Therefore a validation interval may be longer than a RETURNN
sub-epoch, and the ranks of a DDP run cannot differ in their number of batches. Set Lightning's check_val_every_n_epoch
to None.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from returnn_bridge.batching import Position, ReturnnBatches, TokenBatch
from returnn_bridge.datasets import check_corpora, plain_opts
from returnn_bridge.packed_batches import PackedBatches
from returnn_bridge.packing import Packing


@dataclass(frozen=True)
class PackedRows:
    """How documents are packed into rows, and the ids that are inserted."""

    train: Packing
    valid: Packing
    bos_id: int
    eos_id: int

    def batches(self, opts: Mapping[str, Any], packing: Packing, stream: Mapping[str, Any]) -> PackedBatches:
        """The packed rows of a dataset."""
        return PackedBatches(opts, packing=packing, bos_id=self.bos_id, eos_id=self.eos_id, **stream)


class ReturnnDataModule(lightning.LightningDataModule):
    """Training and validation batches from RETURNN dataset dicts.

    In a distributed run each rank trains on a different shard of each sub-epoch; every rank validates on all sentences.

    Args:
        train_opts: RETURNN dataset dict of the training data.
        valid_opts: RETURNN dataset dicts of the validation sets, by name.
        num_tokens: V, the number of pieces of the model's vocabulary.
        batch_size, max_seqs: RETURNN's batching rule, for training and validation.
        max_seq_length: longer training sentences are dropped and counted; validation keeps every sentence whole.
        num_workers: 0 reads in the training process, 1 in a separate one (more would each load the corpus index).
        data_key: the dataset's stream of ids.
        store: token store of the training text.
        crop: a seed; random windows of longer training sentences are used instead of dropping them.
        valid_crop: a seed; validation uses random windows of longer sentences too, the same ones every time.
        packed: settings of packed rows, instead of one sentence a row, for training and validation.
    """

    def __init__(
        self,
        train_opts: Mapping[str, Any],
        valid_opts: Mapping[str, Mapping[str, Any]],
        *,
        num_tokens: int,
        batch_size: int = 32768,
        max_seqs: int = 256,
        max_seq_length: int | None = None,
        num_workers: int = 0,
        data_key: str = "data",
        store: str | None = None,
        crop: int | None = None,
        valid_crop: int | None = None,
        packed: PackedRows | None = None,
    ) -> None:
        super().__init__()
        if num_workers not in (0, 1):
            raise ValueError(f"num_workers {num_workers}: expected 0 or 1")
        self.train_opts = plain_opts(train_opts)
        self.valid_opts = {name: plain_opts(opts) for name, opts in valid_opts.items()}
        self.max_seq_length = max_seq_length
        self.num_workers, self.store, self.crop, self.valid_crop = num_workers, store, crop, valid_crop
        self.packed = packed
        self.rule: dict[str, Any] = {
            "num_tokens": num_tokens,
            "batch_size": batch_size,
            "max_seqs": max_seqs,
            "data_key": data_key,
        }
        self.position = Position(1, 0)
        """The position after the last batch that training consumed."""

    @property
    def valid_names(self) -> tuple[str, ...]:
        """The validation sets in the order of their loaders."""
        return tuple(self.valid_opts)

    def prepare_data(self) -> None:
        """Check all text files, once per node, so that a bad line ends the run at its start and not days later.

        The training text of a token store is not checked again, because building the store did that.
        """
        for opts in (*([] if self.store else [self.train_opts]), *self.valid_opts.values()):
            check_corpora(opts)

    def train_dataloader(self) -> DataLoader[TokenBatch]:
        """An endless loader that starts after the last consumed batch."""
        stream: dict[str, Any] = {
            "endless": True,
            "start": self.position,
            "shard": _rank_and_world(),
            "store": self.store,
            **self.rule,
        }
        if self.packed is None:
            batches = ReturnnBatches(self.train_opts, max_seq_length=self.max_seq_length, crop=self.crop, **stream)
        else:
            batches = self.packed.batches(self.train_opts, self.packed.train, stream)
        if self.num_workers == 0:
            return DataLoader(batches, batch_size=None)
        # Not fork, because updates of reference counts would copy the pages of the corpus index, and threads do not
        # survive a fork.
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=1,
            multiprocessing_context="spawn",
            prefetch_factor=8,
            worker_init_fn=_leave_signals_to_training,
        )

    def val_dataloader(self) -> list[DataLoader[TokenBatch]]:
        """One finite loader per validation set, with the same batches every time."""
        if self.packed is not None:
            rows = [self.packed.batches(opts, self.packed.valid, self.rule) for opts in self.valid_opts.values()]
            return [DataLoader(batches, batch_size=None) for batches in rows]
        limit = None if self.valid_crop is None else self.max_seq_length
        rule = {"max_seq_length": limit, "crop": self.valid_crop, **self.rule}
        return [DataLoader(ReturnnBatches(opts, **rule), batch_size=None) for opts in self.valid_opts.values()]

    def consumed(self, batch: TokenBatch) -> None:
        """Record that training has used `batch`: later checkpoints continue after it, not after prefetched batches."""
        self.position = batch.position

    def state_dict(self) -> dict[str, Any]:
        """The position of every rank. This is a collective call: in a distributed run all ranks have to make it."""
        position = [self.position.sub_epoch, self.position.seqs_done]
        if self.position.tokens_done:
            position.append(self.position.tokens_done)
        _, world = _rank_and_world()
        positions: list[Any] = [position]
        if world > 1:
            positions = [None] * world
            torch.distributed.all_gather_object(positions, position)
        return {"positions": positions}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the last batch that was consumed when the state was saved."""
        rank, world = _rank_and_world()
        positions = state_dict["positions"]
        if len(positions) != world:
            raise ValueError(
                f"checkpoint with the data positions of {len(positions)} processes;"
                f" expected {world}, as many as this run has"
            )
        self.position = Position(*positions[rank])


def _leave_signals_to_training(_: int) -> None:
    """Ignore SIGTERM and SIGINT in the data loader process.

    Slurm and a terminal signal every process. If the reader ended, Lightning would report a failure while the training
    process saves its checkpoint.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _rank_and_world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
