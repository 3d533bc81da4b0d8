"""Attention of padding-free rows: spreading over a padded batch, masks, rotary positions, the key-value cache.

    attention = PaddedAttention.of(layout, "causal")
    out, key_value = attention.attend(qkv, rotation)     # qkv [N, 3, heads, width of a head] -> [N, width]

`FlexAttention` (flex.py) and `GroupedRows` (cpu_attention.py) compute the same function with the same two calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diffusion_lm.layout import Layout
from diffusion_lm.visibility import Blocks, Visibility, doubled_mask

KeyValue = tuple[Tensor, Tensor]  # rotated keys and values of one layer, [B, heads, positions, width of a head] each


@dataclass(frozen=True)
class PaddedAttention:
    """How flat positions are spread for attention (torch's scaled_dot_product_attention), and who sees whom."""

    rows: int
    width: int  # positions of a row
    slot: Tensor | None  # [N] place of each flat position in [rows * width]; None: they are the same
    mask: Tensor | None  # [rows or 1, 1, width or 1, keys] True where a key is seen; None: all of them
    causal: bool = False

    @classmethod
    def of(cls, layout: Layout, visibility: Visibility) -> PaddedAttention:
        """Each position sees its own row (and, if causal, not what follows); for blocks flat ids are noisy ones, then clean ones."""
        rows, longest, causal = len(layout.lengths), layout.longest, visibility == "causal"
        if isinstance(visibility, Blocks):
            doubled = doubled_mask(longest, visibility.size, layout.lengths.device)[None, None]
            if not layout.equal:
                # Never an empty row: BOS is seen by all, in its own block or as a clean key.
                doubled = doubled & layout.valid.repeat(1, 2)[:, None, None, :]
            slot = layout.row * 2 * longest + layout.position
            return cls(rows, 2 * longest, torch.cat([slot, slot + longest]), doubled)
        # A causal row never sees the padding behind it, so only the bidirectional one needs a key-padding mask.
        mask = None if layout.equal or causal else layout.valid[:, None, None, :]
        return cls(rows, longest, None if layout.equal else layout.slot, mask, causal)

    def attend(
        self, qkv: Tensor, rotation: tuple[Tensor, Tensor], past: KeyValue | None = None, chosen: Tensor | None = None
    ) -> tuple[Tensor, KeyValue]:
        """qkv [N', 3, heads, w] -> [N', heads * w], of the flat positions `chosen` [M] only if given; and the rotated keys and values used.

        rotation: of N flat positions, the first ones; what fills up behind them sees nothing and is seen by none.
        past: keys and values that stand before those of qkv.
        """
        filled, qkv = len(qkv), rotate(qkv[: len(rotation[0])], rotation)
        if self.slot is not None:
            qkv = qkv.new_zeros(self.rows * self.width, *qkv.shape[1:]).index_copy_(0, self.slot, qkv)
        query, key, value = qkv.view(self.rows, self.width, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask, is_causal=self.causal)
        out = out.transpose(1, 2).flatten(2).flatten(0, 1)
        place = self.slot if chosen is None else chosen if self.slot is None else self.slot[chosen]
        return filled_up(out if place is None else out.index_select(0, place), filled, chosen), (key, value)


def filled_up(out: Tensor, count: int, chosen: Tensor | None) -> Tensor:
    """[N, d] -> [count, d], or as it is where positions were chosen."""
    return out if chosen is not None else F.pad(out, (0, 0, 0, count - len(out)))


@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of the finished blocks of B rows, all of the same length."""

    layers: tuple[KeyValue, ...] = ()

    @property
    def length(self) -> int:
        return self.layers[0][0].shape[2] if self.layers else 0

    def of(self, rows: Tensor) -> KeyValueCache:
        """That of the rows with these indices [R] (or True in [B])."""
        return KeyValueCache(tuple((key[rows], value[rows]) for key, value in self.layers))


class Rotary(nn.Module):
    """Rotary position embedding, base 10000, half-split convention (Su et al., arXiv 2104.09864)."""

    def __init__(self, head_width: int):
        super().__init__()
        inverse = 10000.0 ** (-torch.arange(0, head_width, 2).float() / head_width)
        self.register_buffer("inverse", inverse, persistent=False)
        self.inverse: Tensor

    def forward(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """cos, sin of every flat position [N]: [N, 1, 1, head_width / 2]."""
        angle = position.to(self.inverse.dtype)[:, None] * self.inverse
        return angle.cos()[:, None, None], angle.sin()[:, None, None]


def rotate(qkv: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """qkv [N, 3, heads, w] with queries and keys rotated, in float32; values as they are."""
    rotated: Tensor = _Rotated.apply(qkv, *rotation)
    return rotated


class _Rotated(torch.autograd.Function):
    """The gradient of a rotation is the rotation back."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(qkv, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(gradient, cos, -sin), None, None


def _rotated(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    out[:, 2] = qkv[:, 2]
    apply_rotary(qkv[:, :2], cos, sin, out=out[:, :2])
    return out


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor, *, out: Tensor) -> None:
    """x [..., w] rotated in float32 by angles whose cosine and sine are broadcast to [..., w / 2]."""
    half = x.shape[-1] // 2
    first, second = x.float().chunk(2, dim=-1)
    turned = (first * cos).addcmul_(second, sin, value=-1)
    out[..., :half] = turned
    out[..., half:] = torch.mul(second, cos, out=turned).addcmul_(first, sin)
