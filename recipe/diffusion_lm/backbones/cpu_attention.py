"""Attention of sentences on a CPU, in groups of rows of similar length that fit into the processor's cache.

    if by_sentences(layout, visibility): attention = GroupedRows.of(layout, visibility)
    out, key_value = attention.attend(qkv, rotation)        # as `PaddedAttention.attend`

Spread over [rows, longest], half of the positions of a batch of sentences are padding, and every step of attention goes
through memory. The backward pass of torch's CPU kernel also takes 2 to 7 times as long as matrix products at these
lengths. Here rows are sorted by length and processed in groups with almost no padding, with a backward pass written by
hand. A slot is a position of the padded form of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffusion_lm.backbones.attention import KeyValue, apply_rotary
from diffusion_lm.layout import Layout
from diffusion_lm.visibility import Blocks, Visibility, doubled_mask

LONGEST = 256  # most slots of a row (noisy and clean ones for blocks): the backward pass keeps their probabilities
SLOTS = 512  # slots of a group at a hidden size of 768; inversely proportional to the hidden size
STEP = 4  # widths are multiples of this, because oneDNN compiles and keeps a kernel for every new shape


@dataclass(frozen=True)
class Group:
    """Rows that are processed together, spread over [rows, width] slots."""

    rows: int
    """Number of rows."""
    width: int
    """Slots of a row, padding included."""
    take: Tensor
    """[rows * width] flat position at each slot; in the padding the last one of the row."""
    padding: Tensor | None
    """Indices of the slots that are padding; None if there are none."""
    bias: Tensor | None
    """[rows or 1, 1, width or 1, width] 0 where a key is visible, -inf elsewhere; None if all are visible."""
    start: int
    """Index of the group's first slot among the slots of all groups."""

    @property
    def slots(self) -> slice:
        """The group's slots among those of all groups."""
        return slice(self.start, self.start + self.rows * self.width)


def by_sentences(layout: Layout, visibility: Visibility) -> bool:
    """Whether `GroupedRows` is the faster attention for these rows: short ones on a CPU."""
    width = layout.longest * (2 if isinstance(visibility, Blocks) else 1)
    return layout.lengths.device.type == "cpu" and 0 < width <= LONGEST


@dataclass(frozen=True)
class GroupedRows:
    """Attention of all rows of a batch, group by group; visibility as in `PaddedAttention.of`."""

    groups: tuple[Group, ...]
    """Groups of rows, longest rows first."""
    slot: Tensor
    """[N] slot of each flat position among the slots of all groups."""
    num_slots: int
    """Number of slots of all groups."""

    @classmethod
    def of(cls, layout: Layout, visibility: Visibility, hidden_size: int = 768) -> GroupedRows:
        """Sort the rows by length and form groups. For blocks the flat positions are the noisy, then the clean ones."""
        order = layout.lengths.argsort(descending=True, stable=True)
        lengths, starts = layout.lengths[order], (layout.lengths.cumsum(0) - layout.lengths)[order]
        copies = 2 if isinstance(visibility, Blocks) else 1
        slot = torch.empty(copies * len(layout.row), dtype=torch.int64)
        groups: list[Group] = []
        first = start = 0
        while first < len(order):
            width = -(-int(lengths[first]) // STEP) * STEP
            rows = max(SLOTS * 768 // hidden_size // (copies * width), 1)
            members = slice(first, first + rows)
            rows = min(rows, 1 << (len(order) - first - 1).bit_length())
            real, take = _spread(lengths[members], starts[members], width)
            if copies == 2:
                take, real = torch.cat([take, take + len(layout.row)], dim=1), real.repeat(1, 2)
            slot[take[real]] = start + real.flatten().nonzero()[:, 0]
            # The last group is filled with copies of its last row; no flat position points to them.
            take, real = (torch.cat([part, part[-1:].expand(rows - len(part), -1)]) for part in (take, real))
            padded = not real.all()
            group = Group(
                rows=rows,
                width=copies * width,
                take=take.flatten(),
                padding=(~real).flatten().nonzero()[:, 0] if padded else None,
                bias=_bias(visibility, width, real if padded else None),
                start=start,
            )
            groups.append(group)
            start = group.slots.stop
            first = members.stop
        return cls(tuple(groups), slot, start)

    def attend(
        self, qkv: Tensor, rotation: tuple[Tensor, Tensor], past: KeyValue | None = None, selected: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """The interface of `PaddedAttention.attend`, but `past` must be None and no keys and values are returned."""
        assert past is None, "only PaddedAttention reads keys of finished blocks"
        out: Tensor = _Attended.apply(qkv, *rotation, self)
        return out if selected is None else out.index_select(0, selected), None


class _Attended(torch.autograd.Function):
    """qkv [N', 3, heads, w] -> softmax(q k^T / sqrt(w)) v [N', heads * w]; q, k rotated, the softmax in float32."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, seen: GroupedRows) -> Tensor:
        count, _, heads, head_width = qkv.shape
        spread = qkv.new_empty(seen.num_slots, heads, head_width)
        kept: list[Tensor] = []
        for group in seen.groups:
            shape = group.rows, group.width
            part = qkv.index_select(0, group.take).view(*shape, 3, heads, head_width).permute(2, 0, 3, 1, 4)
            rotated = torch.empty(2, group.rows, heads, group.width, head_width, dtype=qkv.dtype)
            apply_rotary(part[:2], *_angles(group, cos, sin), out=rotated)
            query, key = rotated.flatten(1, 2)
            value = part[2].contiguous().flatten(0, 1)
            scores = (query @ key.mT).float().mul_(head_width**-0.5)
            if group.bias is not None:
                scores.view(group.rows, heads, group.width, group.width).add_(group.bias)
            probability = scores.softmax(-1)
            attended = probability.to(value.dtype) @ value
            spread[group.slots].view(*shape, heads, head_width).copy_(_by_slot(attended, group))
            if ctx.needs_input_grad[0]:
                kept += [rotated, value, probability]
        ctx.save_for_backward(cos, sin, *kept)
        ctx.seen = seen
        # Padding positions get an arbitrary value; it is never read.
        return spread.flatten(1).index_select(0, F.pad(seen.slot, (0, count - len(seen.slot))))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        seen: GroupedRows = ctx.seen
        cos, sin, *kept = ctx.saved_tensors
        heads, _, head_width = kept[0].shape[2:]
        spread = gradient.new_empty(seen.num_slots, 3, heads, head_width)
        for number, group in enumerate(seen.groups):
            rotated, value, probability = kept[3 * number : 3 * number + 3]
            shape = group.rows, group.width
            query, key = rotated.flatten(1, 2)
            of_out = gradient.index_select(0, group.take)
            if group.padding is not None:
                of_out.index_fill_(0, group.padding, 0)
            of_out = of_out.view(*shape, heads, head_width).transpose(1, 2).flatten(0, 1)
            part = spread[group.slots].view(*shape, 3, heads, head_width).permute(2, 0, 3, 1, 4)
            part[2] = (probability.to(value.dtype).mT @ of_out).view(part[2].shape)
            of_scores = (of_out @ value.mT).float()
            of_scores = (of_scores - (of_scores * probability).sum(-1, keepdim=True)).mul_(probability)
            of_scores = of_scores.mul_(head_width**-0.5).to(value.dtype)
            cosine, sine = _angles(group, cos, sin)
            apply_rotary((of_scores @ key).view(part[0].shape), cosine, -sine, out=part[0])
            apply_rotary((of_scores.mT @ query).view(part[1].shape), cosine, -sine, out=part[1])
        count = len(seen.slot)
        of_qkv = spread.index_select(0, F.pad(seen.slot, (0, len(gradient) - count)))
        of_qkv[count:] = 0
        return of_qkv, None, None, None


def _spread(lengths: Tensor, starts: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Two tensors [R, width]: whether a slot holds a token, and its flat position (in padding the row's last)."""
    slot, lengths = torch.arange(width), lengths[:, None]
    return slot < lengths, starts[:, None] + torch.minimum(slot, lengths - 1)


def _by_slot(x: Tensor, group: Group) -> Tensor:
    """[rows * heads, width, w] -> [rows, width, heads, w]"""
    return x.unflatten(0, (group.rows, -1)).transpose(1, 2)


def _angles(group: Group, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine [width, w / 2] of the positions of the group's first and longest row, valid for all its rows."""
    longest = group.take[: group.width]
    return cos[:, 0, 0].index_select(0, longest), sin[:, 0, 0].index_select(0, longest)


def _bias(visibility: Visibility, longest: int, real: Tensor | None) -> Tensor | None:
    """`Group.bias` for rows of `longest` slots. real [rows, width]: whether a slot holds a token; None if all do."""
    seen: Tensor | None = None
    if isinstance(visibility, Blocks):
        seen = doubled_mask(longest, visibility.size)[None, None]
    elif visibility == "causal":  # a causal row never sees the padding at its end
        seen, real = torch.ones(longest, longest, dtype=torch.bool).tril()[None, None], None
    if real is not None:
        keys = real[:, None, None, :]
        seen = keys if seen is None else seen & keys
    return None if seen is None else torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)
