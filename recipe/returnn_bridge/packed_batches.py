"""Batches of packed rows from a RETURNN dataset: documents one behind the other, cut into rows of equal length.

    rows = PackedBatches(opts, packing=Packing(1024), bos_id=1, eos_id=2, num_tokens=10240, endless=True)
    for batch in rows:
        train_on(batch.tokens)                          # [B, 1024], BOS and EOS included
        saved = batch.position                          # PackedBatches(..., start=saved) continues with the next batch

The rows are those of `pack` (packing.py). An endless stream runs on from one sub-epoch into the next, so that no token
is lost; a finite one leaves out the tokens after its last full row, and counts them. Documents come in the order of the
dataset: with the order "default" neighbours in the text are neighbours in a row, with "random" they are strangers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from returnn_bridge.batching import Position, ReturnnBatches, TokenBatch, check_position, sequences
from returnn_bridge.packing import Packing
from returnn_bridge.token_store import TokenStore

_BLOCK = 1024  # documents that are read at once


class PackedBatches(ReturnnBatches):
    """Batches of at most `max_seqs` packed rows and, unless a row alone has more, at most `batch_size` tokens.

    A finite stream ends with a smaller batch. ValueError if it does not fill one row; else as for ReturnnBatches.

    Args:
        opts: RETURNN dataset dict.
        packing: length of the rows and what is inserted.
        bos_id, eos_id: the ids that are inserted.
        rule: further arguments of ReturnnBatches, except max_seq_length and crop.
    """

    def __init__(
        self, opts: Mapping[str, Any], *, packing: Packing, bos_id: int, eos_id: int, num_tokens: int, **rule: Any
    ) -> None:
        super().__init__(opts, num_tokens=num_tokens, **rule)
        if self.max_seq_length is not None:
            raise ValueError("max_seq_length with packed rows, which documents of any length fill; expected None")
        self.packing, self.bos_id, self.eos_id = packing, bos_id, eos_id

    def _stream(self, dataset: Any) -> Iterator[TokenBatch]:
        width = self.packing.width
        rows = max(1, min(self.max_seqs, self.batch_size // self.packing.length))
        waiting = _Waiting(self.start)
        held: TokenBatch | None = None  # not yet delivered, because only the last batch knows what is left over
        for block in self._blocks(dataset):
            waiting.add(block)
            while len(waiting.ids) >= rows * width:
                if held is not None:
                    yield held
                held = self._batch(waiting, rows)
        whole, left_over = divmod(len(waiting.ids), width)
        if whole:
            if held is not None:
                yield held
            held = self._batch(waiting, whole)
        if held is None:
            raise ValueError(
                f"sub-epoch {self.start.sub_epoch} of {self.opts['class']} (shard {self.shard[0] + 1} of "
                f"{self.shard[1]}): {left_over} tokens do not fill a packed row of {self.packing.length}; "
                "expected more text, or one sentence a row (data.wrap=false)"
            )
        yield replace(held, position=Position(self.start.sub_epoch + 1, 0), left_over=left_over)

    def _batch(self, waiting: _Waiting, rows: int) -> TokenBatch:
        """The next rows as a batch; a row has the tag of the document that it begins in."""
        width = self.packing.width
        tags = waiting.tags_at(np.arange(rows) * width)
        tokens = waiting.take(rows * width).reshape(rows, width)
        if self.packing.insert_special:
            bos, eos = (np.full((rows, 1), index, np.int64) for index in (self.bos_id, self.eos_id))
            tokens = np.hstack([bos, tokens, eos])
        lengths = torch.full((rows,), self.packing.length, dtype=torch.int64)
        return TokenBatch(torch.from_numpy(tokens), lengths, tags, waiting.position, 0, framed=True)

    def _blocks(self, dataset: Any) -> Iterator[_Documents]:
        """Documents from `start` on, of one sub-epoch or without end."""
        start = self.start
        while True:
            blocks = self._of_sub_epoch(dataset, start)
            block = next(blocks, None)
            if block is None:
                raise ValueError(
                    f"sub-epoch {start.sub_epoch} of {self.opts['class']} (shard {self.shard[0] + 1} of "
                    f"{self.shard[1]}): no document; expected a smaller partition_epoch"
                )
            while block is not None:
                ids, lengths, tags = block
                block = next(blocks, None)
                # The end of a sub-epoch is written as the start of the next one, as in ReturnnBatches.
                ended = block is None
                after = Position(start.sub_epoch + ended, 0 if ended else start.seqs_done + len(tags))
                self.check_ids(ids, lengths, tags)
                if self.packing.insert_eos:
                    ids, lengths = np.insert(ids, np.cumsum(lengths), self.eos_id), lengths + 1
                yield _Documents(ids, lengths, tags, start, after)
                start = after
            if not self.endless:
                return

    def _of_sub_epoch(
        self, dataset: Any, start: Position
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], list[str]]]:
        """(ids, lengths, tags) of blocks of documents."""
        if isinstance(dataset, TokenStore):
            order = dataset.order(start.sub_epoch, self.opts, shard=self.shard)
            check_position(start, len(order))
            for first in range(start.seqs_done, len(order), _BLOCK):
                members = order[first : first + _BLOCK]
                yield dataset.gather(members), dataset.lengths(members), self.tags(members)
            return
        documents = sequences(dataset, start, self.data_key)
        while block := list(islice(documents, _BLOCK)):
            lengths = np.array([len(ids) for ids, _ in block], np.int64)
            yield np.concatenate([ids for ids, _ in block]).astype(np.int64), lengths, [tag for _, tag in block]


@dataclass(frozen=True)
class _Documents:
    """Documents that follow each other in a sub-epoch."""

    ids: NDArray[np.int64]
    """[tokens] of all of them, inserted EOS included."""
    lengths: NDArray[np.int64]
    """[documents]"""
    tags: list[str]
    """[documents]"""
    start: Position
    """Where the first one begins."""
    after: Position
    """Where the document after the last one begins."""


class _Waiting:
    """Tokens that are read but in no row yet, and where each of them comes from."""

    def __init__(self, start: Position):
        self.ids = np.zeros(0, np.int64)
        self._ends = np.zeros(0, np.int64)  # where each document ends in `ids`
        self._places: list[tuple[int, int]] = []  # sub-epoch and index of each document
        self._tags: list[str] = []
        self._taken = 0  # tokens of the first document that earlier rows hold
        self._skip = start.tokens_done  # the same at the start, before that document is read
        self._after = start

    def add(self, block: _Documents) -> None:
        """Append a block of documents."""
        self._ends = np.concatenate([self._ends, len(self.ids) + np.cumsum(block.lengths)])
        self.ids = np.concatenate([self.ids, block.ids])
        self._places += [(block.start.sub_epoch, block.start.seqs_done + index) for index in range(len(block.tags))]
        self._tags += block.tags
        self._after = block.after
        if self._skip and self._skip >= block.lengths[0]:
            raise ValueError(
                f"data position {block.start}, token {self._skip}: {block.tags[0]} has {block.lengths[0]} tokens; "
                "expected the corpus with which the position was saved"
            )
        self.take(self._skip)
        self._skip = 0

    def tags_at(self, offsets: NDArray[np.int64]) -> tuple[str, ...]:
        """The tags of the documents that hold the tokens at these offsets."""
        return tuple(self._tags[index] for index in np.searchsorted(self._ends, offsets, side="right"))

    def take(self, count: int) -> NDArray[np.int64]:
        """Remove the first tokens and return them."""
        taken, self.ids = self.ids[:count].copy(), self.ids[count:]
        over = int(np.searchsorted(self._ends, count, side="right"))  # documents that end within them
        begin = int(self._ends[over - 1]) if over else -self._taken  # of the document that is now the first
        self._taken = count - begin if over < len(self._ends) else 0
        self._ends = self._ends[over:] - count
        del self._places[:over], self._tags[:over]
        return taken

    @property
    def position(self) -> Position:
        """Where the first waiting token lies; where the next document begins if none waits."""
        return Position(*self._places[0], self._taken) if self._places else self._after
