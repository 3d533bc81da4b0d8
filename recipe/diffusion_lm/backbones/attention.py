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
    """Attention by torch's scaled_dot_product_attention on a padded batch [rows, width]."""

    rows: int
    """Number of rows of the padded batch."""
    width: int
    """Positions of a row, padding included."""
    slot: Tensor | None
    """[N] index of each flat position in [rows * width]; None if the two are the same."""
    mask: Tensor | None
    """[rows or 1, 1, width or 1, keys] True where a key is visible; None if all are."""
    causal: bool = False
    """Whether a position sees only itself and the positions before it."""

    @classmethod
    def of(cls, layout: Layout, visibility: Visibility) -> PaddedAttention:
        """Attention in which a position sees its row and, if causal, nothing after itself.

        For blocks the flat ids are the noisy ones followed by the clean ones (`doubled_mask`).
        """
        rows, longest, causal = len(layout.lengths), layout.longest, visibility == "causal"
        if isinstance(visibility, Blocks):
            doubled = doubled_mask(longest, visibility.size, layout.lengths.device)[None, None]
            if not layout.equal:
                # No row of the mask is empty: every position sees BOS, in the same block or as a clean key.
                doubled = doubled & layout.valid.repeat(1, 2)[:, None, None, :]
            slot = layout.row * 2 * longest + layout.position
            return cls(rows, 2 * longest, torch.cat([slot, slot + longest]), doubled)
        # A causal row never sees the padding at its end, so only the bidirectional one needs a key-padding mask.
        mask = None if layout.equal or causal else layout.valid[:, None, None, :]
        return cls(rows, longest, None if layout.equal else layout.slot, mask, causal)

    def attend(
        self, qkv: Tensor, rotation: tuple[Tensor, Tensor], past: KeyValue | None = None, selected: Tensor | None = None
    ) -> tuple[Tensor, KeyValue]:
        """qkv [N', 3, heads, w] -> (outputs [N', heads * w], the rotated keys and values that were used).

        Args:
            qkv: queries, keys and values; positions after the first N are padding, which takes no part in attention.
            rotation: cosine and sine of the N real positions.
            past: keys and values of earlier positions, put before those of `qkv`.
            selected: [M] flat positions whose outputs [M, heads * w] are returned instead of all N'.
        """
        filled, qkv = len(qkv), rotate(qkv[: len(rotation[0])], rotation)
        if self.slot is not None:
            qkv = qkv.new_zeros(self.rows * self.width, *qkv.shape[1:]).index_copy_(0, self.slot, qkv)
        query, key, value = qkv.view(self.rows, self.width, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask, is_causal=self.causal)
        out = out.transpose(1, 2).flatten(2).flatten(0, 1)
        index = self.slot if selected is None else selected if self.slot is None else self.slot[selected]
        return filled_up(out if index is None else out.index_select(0, index), filled, selected), (key, value)


def filled_up(out: Tensor, count: int, selected: Tensor | None) -> Tensor:
    """Pad `out` [N, d] with zeros to [count, d]; returned unchanged if positions were selected."""
    return out if selected is not None else F.pad(out, (0, 0, 0, count - len(out)))


@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of the finished blocks of B rows, all of the same length."""

    layers: tuple[KeyValue, ...] = ()
    """Keys and values of each layer; empty before the first block."""

    @property
    def length(self) -> int:
        """Number of cached positions of a row."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def of(self, rows: Tensor) -> KeyValueCache:
        """The cache of the rows with these indices [R], or of those that are True in a mask [B]."""
        return KeyValueCache(tuple((key[rows], value[rows]) for key, value in self.layers))


class Rotary(nn.Module):
    """Rotary position embedding, base 10000, half-split convention (Su et al., arXiv 2104.09864)."""

    def __init__(self, head_width: int):
        super().__init__()
        # On the CPU even where shapes are counted on the meta device, whose powers make torch import its compiler.
        inverse = 10000.0 ** (-torch.arange(0, head_width, 2, device="cpu").float() / head_width)
        self.register_buffer("inverse", inverse, persistent=False)
        self.inverse: Tensor

    def forward(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """position [N] -> (cosine, sine) of its angles, [N, 1, 1, head_width / 2] each."""
        angle = position.to(self.inverse.dtype)[:, None] * self.inverse
        return angle.cos()[:, None, None], angle.sin()[:, None, None]


def rotate(qkv: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """qkv [N, 3, heads, w] with queries and keys rotated in float32; values are unchanged."""
    rotated: Tensor = _Rotated.apply(qkv, *rotation)
    return rotated


class _Rotated(torch.autograd.Function):
    """Rotation of queries and keys; its backward pass rotates the gradient by the negative angles."""

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
    """Write to `out` x [..., w] rotated in float32 by angles whose `cos` and `sin` broadcast to [..., w / 2]."""
    half = x.shape[-1] // 2
    first, second = x.float().chunk(2, dim=-1)
    turned = (first * cos).addcmul_(second, sin, value=-1)
    out[..., :half] = turned
    out[..., half:] = torch.mul(second, cos, out=turned).addcmul_(first, sin)
