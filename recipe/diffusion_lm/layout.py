"""Batches without padding: the ids of all sentences in one flat tensor, and the lengths of the rows.

    sentences = Sentences.of([[5, 6, 7], [8, 9]], bos_id=1, eos_id=2)
    sentences.ids [N], sentences.layout.lengths [B], sentences.layout.row [N], sentences.layout.position [N]

All layers that work on single tokens (embedding, norms, linear layers, loss) run on the flat form, so they compute no
padding; only attention spreads the rows over [B, longest] and masks the padding. Positions restart at 0 in each row and
no token sees another row, so the result of a row does not depend on the other rows of its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffusion_lm.device import to_device


@dataclass(frozen=True)
class Layout:
    """Row and position of each of N flat positions in a batch of B rows."""

    lengths: Tensor
    """[B] int64 number of tokens of each row."""
    row: Tensor = field(init=False)
    """[N] row of each flat position."""
    position: Tensor = field(init=False)
    """[N] index of each flat position within its row, from 0."""
    longest: int = field(init=False)
    """Largest length; 0 for no rows."""
    equal: bool = field(init=False)
    """Whether all rows have the same length, so that attention needs neither spreading nor a mask."""

    def __post_init__(self) -> None:
        lengths = self.lengths
        device = lengths.device
        row = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)
        starts = torch.cumsum(lengths, 0) - lengths
        object.__setattr__(self, "row", row)
        object.__setattr__(self, "position", torch.arange(len(row), device=device) - starts[row])
        object.__setattr__(self, "longest", int(lengths.max()) if len(lengths) else 0)
        object.__setattr__(self, "equal", bool((lengths == self.longest).all()))

    def to(self, device: torch.device | str) -> Layout:
        """The layout on `device`; copied and not computed there, which would synchronise with the device."""
        if self.lengths.device == torch.device(device):
            return self
        moved = copy(self)
        for name in ("lengths", "row", "position"):
            object.__setattr__(moved, name, to_device(getattr(self, name), device))
        return moved

    @property
    def slot(self) -> Tensor:
        """[N] index of each flat position in the spread form [B * longest]."""
        return self.row * self.longest + self.position

    @property
    def valid(self) -> Tensor:
        """[B, longest] True where there is a token."""
        return torch.arange(self.longest, device=self.lengths.device)[None, :] < self.lengths[:, None]


@dataclass(frozen=True)
class Sentences:
    """Sentences with BOS and EOS, without padding."""

    ids: Tensor
    """[N] int64 ids of all rows, one after the other; a row is BOS, pieces, EOS."""
    layout: Layout
    """Row and position of each id."""

    @classmethod
    def of(cls, tokens: Sequence[Sequence[int]], *, bos_id: int, eos_id: int) -> Sentences:
        """Add BOS and EOS to lists of piece ids."""
        flat = [token for row in tokens for token in (bos_id, *row, eos_id)]
        lengths = torch.tensor([len(row) + 2 for row in tokens], dtype=torch.int64)
        return cls(torch.tensor(flat, dtype=torch.int64), Layout(lengths))

    @classmethod
    def of_padded(cls, tokens: Tensor, lengths: Tensor, *, bos_id: int, eos_id: int) -> Sentences:
        """Add BOS and EOS to a padded batch of tokens [B, L] with lengths [B]; padding is never read."""
        layout = Layout(lengths + 2)
        ids = tokens.new_full((len(layout.row),), eos_id)
        ids[layout.position == 0] = bos_id
        inner = (layout.position > 0) & (layout.position < layout.lengths[layout.row] - 1)
        ids[inner] = tokens[layout.row[inner], layout.position[inner] - 1]
        return cls(ids, layout)

    def to(self, device: torch.device | str) -> Sentences:
        """The sentences on `device`, copied without waiting."""
        if self.ids.device == torch.device(device):
            return self
        return Sentences(to_device(self.ids, device), self.layout.to(device))

    @property
    def is_bos(self) -> Tensor:
        """[N] True at the first position of each row."""
        return self.layout.position == 0

    @property
    def is_eos(self) -> Tensor:
        """[N] True at the last position of each row."""
        return self.layout.position == self.layout.lengths[self.layout.row] - 1
