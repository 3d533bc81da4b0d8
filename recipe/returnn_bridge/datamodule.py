"""Lightning's view of the data: an endless training stream with a resumable position, and named validation sets.

    data = ReturnnDataModule(train_opts, {"dev": dev_opts, "devtrain": devtrain_opts}, num_tokens=10240, max_seq_length=128)
    trainer.fit(module, datamodule=data)                # the module calls data.consumed(batch) once a batch is used up
    data.valid_names[dataloader_idx]                    # "dev", "devtrain"

The stream never ends, so Lightning sees one epoch: a validation interval longer than a RETURNN sub-epoch still comes round, and
the ranks of a DDP run can not differ in their number of batches. Set Lightning's check_val_every_n_epoch to None.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from returnn_bridge.batching import Position, ReturnnBatches, TokenBatch
from returnn_bridge.datasets import check_corpora, plain_opts


class ReturnnDataModule(lightning.LightningDataModule):
    """Training and validation batches from RETURNN dataset dicts.

    batch_size, max_seqs: RETURNN's batching rule, for both. max_seq_length: longer training sentences are dropped and counted,
    or with `crop` (a seed) random windows of them are used;
    validation keeps every sentence. num_workers: 0 reads in the training process, 1 in one process beside it (more would each load
    the corpus index). store: a token store of the training text. In a distributed run each rank trains on its own part of each
    sub-epoch; every rank validates on all sentences.
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
    ) -> None:
        super().__init__()
        if num_workers not in (0, 1):
            raise ValueError(f"num_workers {num_workers}: expected 0 or 1")
        self.train_opts = plain_opts(train_opts)
        self.valid_opts = {name: plain_opts(opts) for name, opts in valid_opts.items()}
        self.max_seq_length = max_seq_length
        self.num_workers, self.store, self.crop = num_workers, store, crop
        self.rule: dict[str, Any] = {
            "num_tokens": num_tokens,
            "batch_size": batch_size,
            "max_seqs": max_seqs,
            "data_key": data_key,
        }
        self.position = Position(1, 0)  # after the last batch that training consumed

    @property
    def valid_names(self) -> tuple[str, ...]:
        """The validation sets in the order of their loaders."""
        return tuple(self.valid_opts)

    def prepare_data(self) -> None:
        """Once per node: all text files are read through, so that a bad line ends the run now and not days later.

        Those of a token store were read through when it was made.
        """
        for opts in (*([] if self.store else [self.train_opts]), *self.valid_opts.values()):
            check_corpora(opts)

    def train_dataloader(self) -> DataLoader[TokenBatch]:
        """Endless; starts after the last consumed batch."""
        batches = ReturnnBatches(
            self.train_opts,
            max_seq_length=self.max_seq_length,
            endless=True,
            start=self.position,
            shard=_rank_and_world(),
            store=self.store,
            crop=self.crop,
            **self.rule,
        )
        if self.num_workers == 0:
            return DataLoader(batches, batch_size=None)
        # Not fork: the reference counts of the corpus index would copy its pages, and threads do not survive it.
        return DataLoader(
            batches,
            batch_size=None,
            num_workers=1,
            multiprocessing_context="spawn",
            prefetch_factor=8,
            worker_init_fn=_leave_signals_to_training,
        )

    def val_dataloader(self) -> list[DataLoader[TokenBatch]]:
        """One finite loader a validation set, the same batches every time."""
        return [DataLoader(ReturnnBatches(opts, **self.rule), batch_size=None) for opts in self.valid_opts.values()]

    def consumed(self, batch: TokenBatch) -> None:
        """Training has used `batch` up: a checkpoint from now on continues after it. Batches read ahead do not count."""
        self.position = batch.position

    def state_dict(self) -> dict[str, Any]:
        """The position of every rank. In a distributed run all ranks have to call this together."""
        own = [self.position.sub_epoch, self.position.seqs_done]
        _, world = _rank_and_world()
        positions: list[Any] = [own]
        if world > 1:
            positions = [None] * world
            torch.distributed.all_gather_object(positions, own)
        return {"positions": positions}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the batch that was the last one consumed when the state was taken."""
        rank, world = _rank_and_world()
        positions = state_dict["positions"]
        if len(positions) != world:
            raise ValueError(
                f"checkpoint with the data positions of {len(positions)} processes; expected {world}, as many as this run has"
            )
        self.position = Position(*positions[rank])


def _leave_signals_to_training(_: int) -> None:
    """Slurm and a terminal signal every process: a reader that dies of it would look like a failure of the training that is saving."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _rank_and_world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
