"""Flex attention: all flat positions form one row, and only tiles with at least one visible pair are computed.

    check_attention("flex", head_width=64, accelerator="cuda")      # before training, which needs the backward pass
    network.configure(attention="flex")
    attention = FlexAttention.of(layout, "causal")
    out, key_value = attention.attend(qkv, rotation)                # the interface of attention.PaddedAttention

Rows are not spread over [rows, longest], so attention computes no padding either. A position sees at most two intervals
of flat positions: its row or a part of it, and for blocks a part of the clean row. The tiles of TILE x TILE pairs that
are needed follow from the intervals, without enumerating the pairs (four billion for a doubled batch of 32768 tokens).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from diffusion_lm.backbones.attention import KeyValue, PaddedAttention, filled_up, rotate
from diffusion_lm.layout import Layout
from diffusion_lm.visibility import Blocks, Visibility

TILE = 128  # positions; torch's kernels are tuned for this size
LEAST_WIDTH = 16  # smallest head width for which Triton multiplies matrices
LEAST_CAPABILITY = (7, 0)  # lowest compute capability of a GPU that Triton supports

Interval = tuple[Tensor, Tensor]  # ([N] first visible flat position, [N] end of the visible interval, exclusive)


@dataclass(frozen=True)
class FlexAttention:
    """Attention over one flat sequence of N positions, restricted by a block mask."""

    mask: BlockMask
    """[1, 1, N, N] which query sees which key."""

    @classmethod
    def of(cls, layout: Layout, visibility: Visibility) -> FlexAttention:
        """The visibility rules of `PaddedAttention.of`. Built once for all layers, without synchronising the device."""
        intervals = _intervals(layout, visibility)
        count = len(intervals[0][0])

        def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            parts = [(key >= begin[query]) & (key < end[query]) for begin, end in intervals]
            return functools.reduce(torch.logical_or, parts)

        touched, covered = _tiles(intervals, count)
        mask = BlockMask.from_kv_blocks(
            *_listed(touched & ~covered),
            *_listed(covered),
            BLOCK_SIZE=TILE,
            mask_mod=visible,
            seq_lengths=(count, count),
        )
        return cls(mask)

    def attend(
        self, qkv: Tensor, rotation: tuple[Tensor, Tensor], past: KeyValue | None = None, selected: Tensor | None = None
    ) -> tuple[Tensor, KeyValue]:
        """The interface of `PaddedAttention.attend`; `past` must be None, only SDPA reads a key-value cache."""
        assert past is None, "only PaddedAttention reads keys of finished blocks"
        filled, qkv = len(qkv), rotate(qkv[: len(rotation[0])], rotation)
        query, key, value = qkv.permute(1, 2, 0, 3)[:, None]
        # A compiled block already compiles this call; on a CPU, which only tests use, it runs uncompiled.
        alone = qkv.device.type != "cpu" and not torch.compiler.is_compiling()
        out = (_compiled() if alone else flex_attention)(query, key, value, block_mask=self.mask)
        flat = out[0].transpose(0, 1).flatten(1)
        return filled_up(flat if selected is None else flat.index_select(0, selected), filled, selected), (key, value)


Attention = type[PaddedAttention] | type[FlexAttention]
ATTENTIONS: dict[str, Attention] = {"sdpa": PaddedAttention, "flex": FlexAttention}


def check_attention(name: str, *, head_width: int | None, accelerator: str) -> None:
    """Raise ValueError if training cannot use the attention `name` here; the message says what would help.

    accelerator: Lightning's name. torch's flex attention has a backward pass on CUDA only, compiled by Triton.
    """
    if ATTENTIONS[name] is not FlexAttention:
        return
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        found = "" if torch.cuda.is_available() else " and no GPU here"
        raise ValueError(
            f"trainer.attention {name!r} with trainer.accelerator {accelerator!r}{found}: "
            "it has a backward pass on CUDA only; expected a GPU, or trainer.attention=sdpa"
        )
    if (capability := torch.cuda.get_device_capability()) < LEAST_CAPABILITY:
        raise ValueError(
            f"trainer.attention {name!r} on a GPU of compute capability {'.'.join(map(str, capability))}: "
            f"expected at least {'.'.join(map(str, LEAST_CAPABILITY))}, or trainer.attention=sdpa"
        )
    if head_width is not None and head_width < LEAST_WIDTH:
        raise ValueError(
            f"trainer.attention {name!r} with heads of width {head_width} (model.hidden_size / model.num_heads): "
            f"expected at least {LEAST_WIDTH}, or trainer.attention=sdpa"
        )


@functools.cache
def _compiled() -> Any:
    """Flex attention, compiled at the first call and again when sizes change.

    With fullgraph a failed compilation is an error; without it torch would compute all N x N pairs. dynamic=True is not
    set because torch would tie the number of tiles to another size that happens to be equal in the first batch.
    """
    return torch.compile(flex_attention, fullgraph=True)


def _intervals(layout: Layout, visibility: Visibility) -> list[Interval]:
    """The intervals of flat positions that each position sees; for blocks 2 N positions, the noisy ones first."""
    index = torch.arange(len(layout.row), device=layout.row.device)
    start = index - layout.position
    end = start + layout.lengths[layout.row]
    if isinstance(visibility, Blocks):
        block = start + layout.position // visibility.size * visibility.size
        block_end = torch.minimum(block + visibility.size, end)
        clean = start + len(index)
        same_block = torch.cat([block, index]), torch.cat([block_end, index])  # empty for clean positions
        before = torch.cat([clean, clean]), torch.cat([block, block_end]) + len(index)
        return [same_block, before]
    return [(start, index + 1 if visibility == "causal" else end)]


def _tiles(intervals: Sequence[Interval], count: int) -> tuple[Tensor, Tensor]:
    """Two [T, T] masks over (query tile, key tile): whether any pair of a tile is visible, and whether all pairs are.

    A tile counts as fully visible only if a single interval of each of its queries spans it.
    """
    tiles = -(-count // TILE)
    query_tile = torch.arange(count, device=intervals[0][0].device) // TILE
    touched, covered = query_tile.new_zeros(2, tiles, tiles + 1).unbind()
    for begin, end in intervals:
        _add(touched, query_tile, begin // TILE, (end + TILE - 1) // TILE, end > begin)
        first, stop = (begin + TILE - 1) // TILE, end // TILE
        _add(covered, query_tile, first, stop, stop > first)
    return touched.cumsum(1)[:, :-1] > 0, covered.cumsum(1)[:, :-1] == TILE


def _add(steps: Tensor, row: Tensor, first: Tensor, stop: Tensor, real: Tensor) -> None:
    """Difference array: add 1 at column `first` and -1 at `stop` in row `row` of `steps` [T, T + 1], where `real`.

    A cumulative sum over the columns then gives, for each tile, the number of intervals [first, stop) that contain
    it.
    """
    for column, step in ((first, real.long()), (stop, -real.long())):
        steps.view(-1).index_add_(0, row * steps.shape[1] + column, step)


def _listed(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """[T, T] bool -> [1, 1, T] number of True in each row, and [1, 1, T, T] their columns, followed by the others."""
    columns = tiles.int().argsort(dim=1, descending=True, stable=True)
    return tiles.sum(1, dtype=torch.int32)[None, None], columns.int()[None, None]
