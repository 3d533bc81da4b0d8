"""Flex attention: all flat positions as one row, of which only the tiles are computed in which somebody sees somebody.

    check_attention("flex", head_width=64, accelerator="cuda")      # before a training, which needs the backward pass
    network.configure(attention="flex")
    seen = FlexAttention.of(layout, "causal")
    out, key_value = seen.attend(qkv, rotation)                                     # as that of attention.PaddedAttention

Nothing is spread over [rows, longest], so padding is not computed in attention either. A position sees at most two intervals of flat
places: its own row or a part of it, and for blocks a part of the clean row. That says which tiles of TILE x TILE pairs are needed without
looking at the pairs, of which a batch of 32768 tokens, doubled, has four billion.
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

TILE = 128  # positions; what torch's kernels are tuned for
LEAST_WIDTH = 16  # of a head, below which Triton multiplies no matrices
LEAST_CAPABILITY = (7, 0)  # of a GPU, for Triton

Interval = tuple[Tensor, Tensor]  # [N] first flat place that each position sees, [N] the one behind the last


@dataclass(frozen=True)
class FlexAttention:
    """Who sees whom in one flat run of N positions."""

    mask: BlockMask  # [1, 1, N, N]

    @classmethod
    def of(cls, layout: Layout, visibility: Visibility) -> FlexAttention:
        """The rules of `PaddedAttention.of`. Built once and shared by all layers; nobody waits for the device."""
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
        self, qkv: Tensor, rotation: tuple[Tensor, Tensor], past: KeyValue | None = None, chosen: Tensor | None = None
    ) -> tuple[Tensor, KeyValue]:
        """As `PaddedAttention.attend`, which alone reads a past: it is None here."""
        assert past is None, "keys of finished blocks are for SDPA"
        filled, qkv = len(qkv), rotate(qkv[: len(rotation[0])], rotation)
        query, key, value = qkv.permute(1, 2, 0, 3)[:, None]
        # Inside a compiled block it is compiled as a part of that; on a CPU, for tests, it runs as it is.
        alone = qkv.device.type != "cpu" and not torch.compiler.is_compiling()
        out = (_compiled() if alone else flex_attention)(query, key, value, block_mask=self.mask)
        flat = out[0].transpose(0, 1).flatten(1)
        return filled_up(flat if chosen is None else flat.index_select(0, chosen), filled, chosen), (key, value)


Attention = type[PaddedAttention] | type[FlexAttention]
ATTENTIONS: dict[str, Attention] = {"sdpa": PaddedAttention, "flex": FlexAttention}


def check_attention(name: str, *, head_width: int | None, accelerator: str) -> None:
    """ValueError where a training can not use this attention, saying how it could.

    accelerator: Lightning's name. torch's flex attention has no backward pass but the one for CUDA that Triton compiles.
    """
    if ATTENTIONS[name] is not FlexAttention:
        return
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        found = "" if torch.cuda.is_available() else " and no GPU here"
        raise ValueError(
            f"trainer.attention {name!r} with trainer.accelerator {accelerator!r}{found}: it has a backward pass on CUDA only; "
            "expected a GPU, or trainer.attention=sdpa"
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
    """Compiled when it is first used, and again where sizes turn out to change. fullgraph: an error, and not all N x N pairs, if that fails.

    Not dynamic=True: torch would tie the number of tiles to another size that happens to be the same in the first batch.
    """
    return torch.compile(flex_attention, fullgraph=True)


def _intervals(layout: Layout, visibility: Visibility) -> list[Interval]:
    """The flat places that each of N positions sees, of which there are 2 N for blocks: noisy ones, then clean ones."""
    place = torch.arange(len(layout.row), device=layout.row.device)
    start = place - layout.position
    end = start + layout.lengths[layout.row]
    if isinstance(visibility, Blocks):
        block = start + layout.position // visibility.size * visibility.size
        block_end = torch.minimum(block + visibility.size, end)
        clean = start + len(place)
        own = torch.cat([block, place]), torch.cat([block_end, place])  # of a clean position: nothing
        before = torch.cat([clean, clean]), torch.cat([block, block_end]) + len(place)
        return [own, before]
    return [(start, place + 1 if visibility == "causal" else end)]


def _tiles(intervals: Sequence[Interval], count: int) -> tuple[Tensor, Tensor]:
    """[T, T] which tiles of keys some position of a tile of queries sees anything of, and which all of them see whole (by one interval)."""
    tiles = -(-count // TILE)
    own = torch.arange(count, device=intervals[0][0].device) // TILE
    touched, covered = own.new_zeros(2, tiles, tiles + 1).unbind()
    for begin, end in intervals:
        _add(touched, own, begin // TILE, (end + TILE - 1) // TILE, end > begin)
        first, behind = (begin + TILE - 1) // TILE, end // TILE
        _add(covered, own, first, behind, behind > first)
    return touched.cumsum(1)[:, :-1] > 0, covered.cumsum(1)[:, :-1] == TILE


def _add(steps: Tensor, row: Tensor, first: Tensor, behind: Tensor, real: Tensor) -> None:
    """Difference array: add 1 at column `first` and -1 at column `behind` of row `row` of `steps` [T, T + 1], for entries with `real`.

    A cumulative sum over the columns then counts, for each tile, the intervals from `first` to before `behind` that it is in.
    """
    for column, step in ((first, real.long()), (behind, -real.long())):
        steps.view(-1).index_add_(0, row * steps.shape[1] + column, step)


def _listed(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """[T, T] bool -> [1, 1, T] how many there are in each row and [1, 1, T, T] their columns, the others behind."""
    columns = tiles.int().argsort(dim=1, descending=True, stable=True)
    return tiles.sum(1, dtype=torch.int32)[None, None], columns.int()[None, None]
