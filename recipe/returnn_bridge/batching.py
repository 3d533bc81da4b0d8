"""Batches of token ids from a RETURNN dataset, formed by RETURNN's batching rule and resumable after every batch.

    opts = lm_dataset_dict(["train.txt.gz"], "vocab/spm.model")
    batches = ReturnnBatches(opts, num_tokens=10240, max_seq_length=128, endless=True)
    for batch in batches:
        train_on(batch.tokens, batch.valid)             # [B, L] each
        saved = batch.position                          # ReturnnBatches(..., start=saved) continues with the next batch

The rule: sentences come in dataset order, and a batch is closed before a sentence with which it would hold more than
`max_seqs` sentences or more than `batch_size` tokens, padding included. The batches are bit-equal to those of RETURNN's
length filter, batching and collation pipes (tested) at a quarter of their cost (benchmarks/data.py), because those
pipes build dicts of numbers for each sentence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from returnn_bridge.datasets import init_dataset, plain_opts
from returnn_bridge.token_store import TokenStore, check_kind, store_of
from returnn_bridge.unpacked_copy import unnamed_copies

_BLOCK = 128  # sequences that are requested from RETURNN at once
_LENGTHS_BLOCK = 1 << 14  # sentences whose length is read from a token store at once


@dataclass(frozen=True)
class Position:
    """A position in the data stream; everything before it is consumed."""

    sub_epoch: int
    """Counted from 1, as in RETURNN, which would silently use the order of 1 for 0."""
    seqs_done: int
    """Sequences of this sub-epoch (and shard) that were delivered or dropped."""
    tokens_done: int = field(default=0, repr=False)
    """Tokens of the next sequence that were delivered; only packed rows end within a sequence."""

    def __post_init__(self) -> None:
        if self.sub_epoch < 1 or self.seqs_done < 0 or self.tokens_done < 0:
            raise ValueError(
                f"data position {self}: expected sub_epoch >= 1 (RETURNN counts from 1) and seqs_done >= 0"
            )


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """A batch of sentences as piece ids.

    Padding positions hold the id 0, which is a piece too, so recognise them by `lengths` or `valid` and not by value.
    """

    tokens: Tensor
    """[B, L] int64"""
    lengths: Tensor
    """[B] int64"""
    seq_tags: tuple[str, ...]
    """[B]"""
    position: Position
    """Where the stream continues after this batch."""
    num_dropped: int
    """Over-long sentences that were dropped since the previous batch."""
    framed: bool = False
    """Whether the rows are packed ones, to which no BOS and EOS are to be added."""
    left_over: int = 0
    """Tokens after the last full row of a finite stream of packed rows, which are in no batch."""

    @property
    def valid(self) -> Tensor:
        """[B, L] bool: True at real tokens."""
        return torch.arange(self.tokens.shape[1], device=self.lengths.device) < self.lengths[:, None]

    def to(self, device: torch.device | str) -> TokenBatch:
        """A copy of the batch with its tensors on `device`."""
        return replace(self, tokens=self.tokens.to(device), lengths=self.lengths.to(device))


class ReturnnBatches(IterableDataset[TokenBatch]):
    """Batches of one RETURNN dataset, from `start` to the end of that sub-epoch or, when `endless`, without end.

    The dataset is opened when iteration starts, so that only the reading process holds its index. ValueError for a
    vocabulary size other than `num_tokens`, an id outside 0 .. V-1 and a sub-epoch without any batch.

    Args:
        opts: RETURNN dataset dict.
        num_tokens: V, the number of pieces of the model's vocabulary.
        batch_size: largest number of tokens in a batch, padding included; a single longer sentence forms a batch alone.
        max_seqs: largest number of sentences in a batch.
        max_seq_length: longer sentences are dropped and counted in `num_dropped`; None keeps all.
        shard: (index, count), the part of every sub-epoch to deliver.
        data_key: the dataset's stream of ids.
        store: token store of the same LmDataset (`dlm tokenize`), which gives the same batches without building
            RETURNN's index and without tokenising again.
        crop: a seed. Longer sentences are then not dropped: a window of max_seq_length tokens is delivered, at a start
            that depends on the seed, the tag and the sub-epoch only.
    """

    def __init__(
        self,
        opts: Mapping[str, Any],
        *,
        num_tokens: int,
        batch_size: int = 32768,
        max_seqs: int = 256,
        max_seq_length: int | None = None,
        endless: bool = False,
        start: Position = Position(1, 0),
        shard: tuple[int, int] = (0, 1),
        data_key: str = "data",
        store: str | None = None,
        crop: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("max_seqs", max_seqs), ("num_tokens", num_tokens)):
            if value < 1:
                raise ValueError(f"{name} {value}: expected at least 1")
        if max_seq_length is not None and max_seq_length < 1:
            raise ValueError(f"max_seq_length {max_seq_length}: expected at least 1, or None for no limit")
        if crop is not None and max_seq_length is None:
            raise ValueError("crop without max_seq_length; expected the length of the windows")
        if not 0 <= shard[0] < shard[1]:
            raise ValueError(f"shard {shard}: expected (index, count) with 0 <= index < count")
        self.opts, self.store = plain_opts(opts), store
        if store is not None:
            check_kind(self.opts, store)
        self.num_tokens, self.data_key = num_tokens, data_key
        self.batch_size, self.max_seqs, self.max_seq_length = batch_size, max_seqs, max_seq_length
        self.endless, self.start, self.shard, self.crop = endless, start, shard, crop
        # The open dataset while no iterator uses it, because loading a corpus again for each pass would take long.
        self._idle: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_idle": None}

    def __iter__(self) -> Iterator[TokenBatch]:
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise ValueError(
                f"{worker.num_workers} data loader workers would each deliver every sentence; expected 0 or 1"
            )
        dataset, self._idle = self._idle, None
        if dataset is None:
            dataset = self._open()
        try:
            yield from self._stream(dataset)
        finally:
            self._idle = dataset

    def _stream(self, dataset: Any) -> Iterator[TokenBatch]:
        """The batches from `start` on, of one sub-epoch or without end."""
        position = self.start
        while True:
            yield from self._sub_epoch(dataset, position)
            if not self.endless:
                break
            position = Position(position.sub_epoch + 1, 0)

    def _open(self) -> Any:
        if self.store is None:
            dataset = init_dataset(self.opts, num_tokens=self.num_tokens, data_key=self.data_key)
            dataset.set_sharding(shard_index=self.shard[0], num_shards=self.shard[1])
            return dataset
        store = store_of(self.opts, self.store)
        if store.num_pieces != self.num_tokens:
            raise ValueError(
                f"{self.store}: {store.num_pieces} pieces; expected the {self.num_tokens} of the model's vocabulary"
            )
        return store

    def _sub_epoch(self, dataset: Any, start: Position) -> Iterator[TokenBatch]:
        """The batches from `start` to the end of its sub-epoch."""
        if isinstance(dataset, TokenStore):
            order = dataset.order(start.sub_epoch, self.opts, shard=self.shard)
            check_position(start, len(order))
            order = order[start.seqs_done :]
            for indices, position, dropped in self._groups(_lengths(dataset, order), start):
                members = order[indices]
                tags = self.tags(members)
                ids, sizes = self._cropped(dataset.gather(members), dataset.lengths(members), tags, start.sub_epoch)
                yield self._collate(ids, sizes, tags, position, dropped)
            return
        read: dict[int, tuple[np.ndarray, str]] = {}  # sentences by index that are in no batch yet

        def lengths() -> Iterator[int]:
            for index, sequence in enumerate(sequences(dataset, start, self.data_key)):
                read[index] = sequence
                yield len(sequence[0])

        for indices, position, dropped in self._groups(lengths(), start):
            taken = [read[index] for index in indices]
            for index in [index for index in read if index <= indices[-1]]:  # includes dropped over-long sentences
                del read[index]
            flat, sizes = np.concatenate([ids for ids, _ in taken]), np.array([len(ids) for ids, _ in taken])
            tags = [tag for _, tag in taken]
            flat, sizes = self._cropped(flat, sizes, tags, start.sub_epoch)
            yield self._collate(flat, sizes, tags, position, dropped)

    def _groups(self, lengths: Iterable[int], start: Position) -> Iterator[tuple[list[int], Position, int]]:
        """Apply RETURNN's batching rule to sentence lengths.

        Yields for each batch the indices in `lengths` of its sentences, the position after it and the number of
        over-long sentences that were dropped before it.
        """
        members: list[int] = []
        longest = 0  # largest length in `members`
        dropped = since_last = 0  # over-long sentences before the last member, and after it
        longest_allowed = self.max_seq_length if self.max_seq_length is not None else np.iinfo(np.int64).max
        for index, length in enumerate(lengths):
            if length > longest_allowed:
                if self.crop is None:
                    since_last += 1
                    continue
                length = int(longest_allowed)
            if members and (
                len(members) >= self.max_seqs or max(longest, length) * (len(members) + 1) > self.batch_size
            ):
                # The position is directly after the last member, so a resumed run meets the over-long sentences that
                # follow it again and counts them then.
                yield members, Position(start.sub_epoch, start.seqs_done + members[-1] + 1), dropped
                members, longest, dropped = [], 0, 0
            members.append(index)
            longest = max(longest, length)
            dropped, since_last = dropped + since_last, 0
        if not members:
            raise ValueError(
                f"sub-epoch {start.sub_epoch} of {self.opts['class']} (shard {self.shard[0] + 1} of {self.shard[1]}):"
                f" no sentence to deliver, {since_last} are longer than max_seq_length {self.max_seq_length};"
                " expected a smaller partition_epoch or a higher limit"
            )
        # The end of a sub-epoch is written as the start of the next one, so that each position has one representation.
        yield members, Position(start.sub_epoch + 1, 0), dropped + since_last

    def _cropped(
        self, flat: np.ndarray, lengths: np.ndarray, tags: list[str], sub_epoch: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(ids, lengths) with each over-long sentence replaced by its window, if `crop` is set."""
        limit = self.max_seq_length
        if self.crop is None or limit is None or not len(lengths) or lengths.max() <= limit:
            return flat, lengths
        rows = np.split(flat, np.cumsum(lengths)[:-1])
        for row in np.flatnonzero(lengths > limit):
            key = hashlib.blake2b(f"{self.crop}/{sub_epoch}/{tags[row]}".encode(), digest_size=8).digest()
            first = int.from_bytes(key, "big") % (len(rows[row]) - limit + 1)
            rows[row] = rows[row][first : first + limit]
        return np.concatenate(rows), np.minimum(lengths, limit)

    def _collate(
        self, flat: np.ndarray, lengths: np.ndarray, tags: list[str], position: Position, num_dropped: int
    ) -> TokenBatch:
        flat, lengths = flat.astype(np.int64, copy=False), lengths.astype(np.int64, copy=False)
        self.check_ids(flat, lengths, tags)
        valid = np.arange(lengths.max()) < lengths[:, None]
        tokens = np.zeros(valid.shape, dtype=np.int64)
        tokens[valid] = flat
        return TokenBatch(torch.from_numpy(tokens), torch.from_numpy(lengths), tuple(tags), position, num_dropped)

    def check_ids(self, flat: np.ndarray, lengths: np.ndarray, tags: Sequence[str]) -> None:
        """ValueError naming the first sentence with an id outside 0 .. num_tokens - 1."""
        if not flat.size or 0 <= flat.min() <= flat.max() < self.num_tokens:
            return
        for ids, tag in zip(np.split(flat, np.cumsum(lengths)[:-1]), tags):
            if len(ids) and not 0 <= ids.min() <= ids.max() < self.num_tokens:
                raise ValueError(
                    f"{tag}: token ids {ids.min()} .. {ids.max()};"
                    f" expected 0 .. {self.num_tokens - 1}, the model's pieces"
                )

    def tags(self, sentences: np.ndarray) -> list[str]:
        """The tags that an LmDataset gives to the sentences with these numbers."""
        return [f"{self.opts.get('tag_prefix') or 'line-'}{number}" for number in sentences]


def _lengths(store: TokenStore, order: np.ndarray) -> Iterator[int]:
    """The number of tokens of each sentence, read in blocks because a sub-epoch may have millions of sentences."""
    for start in range(0, len(order), _LENGTHS_BLOCK):
        yield from store.lengths(order[start : start + _LENGTHS_BLOCK]).tolist()


def check_position(position: Position, count: int) -> None:
    """ValueError if a sub-epoch of `count` sequences ends before the position."""
    if position.seqs_done and position.seqs_done >= count:
        raise ValueError(
            f"data position {position}, but this sub-epoch has {count} sequences;"
            " expected the corpus, partition_epoch and shards with which the position was saved"
        )


def sequences(dataset: Any, start: Position, data_key: str) -> Iterator[tuple[np.ndarray, str]]:
    """(ids, tag) of the sequences of a sub-epoch in RETURNN's order, without the first `start.seqs_done`."""
    # A MetaDataset that was read to its end in one block still holds that block and then cannot give its num_seqs,
    # so it is emptied first.
    with unnamed_copies():
        dataset.init_seq_order(epoch=None)
        dataset.init_seq_order(epoch=start.sub_epoch)
    count = dataset.num_seqs
    skip = start.seqs_done
    check_position(start, count)
    if skip and type(dataset).__name__ == "LmDataset":
        # LmDataset cannot start in the middle, but it accepts an explicit order; skipped sentences are not tokenised.
        dataset.init_seq_order(epoch=start.sub_epoch, seq_order=dataset.get_current_seq_order()[skip:])
        count, skip = dataset.num_seqs, 0
    for index, (ids, tag) in enumerate(_read(dataset, count, data_key)):
        if index >= skip:
            yield ids, tag


def _read(dataset: Any, count: int, data_key: str) -> Iterator[tuple[np.ndarray, str]]:
    """(ids, tag) of the first `count` sequences of the current order."""
    from returnn.datasets.cached2 import CachedDataset2

    if not isinstance(dataset, CachedDataset2):  # HDFDataset
        for index in range(count):
            dataset.load_seqs(index, index + 1)
            yield dataset.get_data(index, data_key), dataset.get_tag(index)
        return
    # Read in blocks, because get_tag and each single load sum up RETURNN's number dicts, which costs as much as
    # tokenising the sentence.
    for start in range(0, count, _BLOCK):
        dataset.load_seqs(start, min(start + _BLOCK, count))
        for seq in dataset.added_data:
            yield seq.features[data_key], seq.seq_tag
