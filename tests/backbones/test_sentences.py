"""Attention of sentences on a CPU: torch's own on every row alone, whatever the groups; the padding takes no part."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diffusion_lm.backbones import cpu_attention as sentences
from diffusion_lm.backbones.attention import PaddedAttention, Rotary, rotate
from diffusion_lm.backbones.cpu_attention import GroupedRows, by_sentences
from diffusion_lm.layout import Layout
from diffusion_lm.visibility import Blocks, doubled_mask

HEADS, WIDTH = 3, 8
VISIBILITIES = ["bidirectional", "causal", Blocks(2)]
BATCHES = [[5], [4, 4, 4], [3, 7, 2, 7, 5, 12, 1]]


def alone(qkv, layout, visibility):
    """[N, 3, heads, w], rotated -> [N, heads * w] row by row."""
    count, out = len(layout.row), torch.empty(len(qkv), HEADS * WIDTH, dtype=qkv.dtype)
    for row in range(len(layout.lengths)):
        places = (layout.row == row).nonzero()[:, 0]
        mask = None
        if isinstance(visibility, Blocks):
            mask = doubled_mask(len(places), visibility.size)
            places = torch.cat([places, places + count])
        query, key, value = qkv[places].permute(1, 2, 0, 3)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=visibility == "causal")
        out = out.index_copy(0, places, attended.transpose(0, 1).flatten(1))
    return out


def batch_of(lengths, visibility, *, filling=0):
    layout = Layout(torch.tensor(lengths))
    copies = 2 if isinstance(visibility, Blocks) else 1
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(copies * len(layout.row) + filling, 3, HEADS, WIDTH, generator=generator).requires_grad_()
    return layout, qkv, Rotary(WIDTH)(layout.position.repeat(copies))


@pytest.mark.parametrize("places", [1, 20, 10_000])
@pytest.mark.parametrize("lengths", BATCHES, ids=str)
@pytest.mark.parametrize("visibility", VISIBILITIES, ids=str)
def test_it_is_torch_attention_of_each_row(visibility, lengths, places, monkeypatch):
    monkeypatch.setattr(sentences, "SLOTS", places)
    layout, qkv, rotation = batch_of(lengths, visibility)
    seen = GroupedRows.of(layout, visibility)
    assert (len(seen.groups) == len(lengths)) or places > 1
    found, expected = seen.attend(qkv, rotation)[0], alone(rotate(qkv, rotation), layout, visibility)
    assert torch.allclose(found, expected, atol=1e-6)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    (own,) = torch.autograd.grad((found * weights).sum(), qkv)
    (other,) = torch.autograd.grad((expected * weights).sum(), qkv)
    assert torch.allclose(own, other, atol=1e-5)


@pytest.mark.parametrize("visibility", VISIBILITIES, ids=str)
def test_what_fills_up_takes_no_part_and_chosen_positions_are_those_of_all(visibility):
    layout, qkv, rotation = batch_of(BATCHES[-1], visibility, filling=6)
    chosen = torch.tensor([3, 0, 11, 0])
    for seen in (GroupedRows.of(layout, visibility), PaddedAttention.of(layout, visibility)):
        out = seen.attend(qkv, rotation)[0]
        assert len(out) == len(qkv)
        (gradient,) = torch.autograd.grad(out[: len(qkv) - 6].square().sum(), qkv, retain_graph=True)
        assert gradient[-6:].abs().max() == 0
        part = seen.attend(qkv, rotation, selected=chosen)[0]
        assert torch.equal(part, out[chosen])
        (of_part,) = torch.autograd.grad(part.sum(), qkv)
        (of_all,) = torch.autograd.grad(out[chosen].sum(), qkv)
        assert torch.allclose(of_part, of_all, atol=1e-6)


@pytest.mark.parametrize("visibility", ["bidirectional", Blocks(4)], ids=str)
def test_each_position_has_its_place_and_shapes_of_groups_repeat(visibility):
    generator = torch.Generator().manual_seed(1)
    copies = 2 if isinstance(visibility, Blocks) else 1
    shapes = set()
    for _ in range(30):
        layout = Layout(torch.randint(1, 61, (200,), generator=generator))
        seen = GroupedRows.of(layout, visibility)
        source = torch.full((seen.num_slots,), -1)
        source[seen.slot] = torch.arange(len(seen.slot))
        taken = torch.cat([group.take for group in seen.groups])
        assert torch.equal(source[source >= 0].sort().values, torch.arange(copies * len(layout.row)))
        assert torch.equal(taken[source >= 0], source[source >= 0])
        assert all(group.rows * group.width <= sentences.SLOTS for group in seen.groups)
        assert seen.num_slots < 1.2 * len(source[source >= 0])
        shapes |= {(group.rows, group.width) for group in seen.groups[:-1]}
    assert len(shapes) <= 60 / sentences.STEP


def test_longer_rows_and_other_devices_are_for_torch():
    assert by_sentences(Layout(torch.tensor([3, 256])), "causal")
    assert not by_sentences(Layout(torch.tensor([3, 257])), "causal")
    assert not by_sentences(Layout(torch.tensor([3, 129])), Blocks(4))
    assert not by_sentences(Layout(torch.tensor([3])).to("meta"), "causal")
