"""The diffusion transformer of MDLM (DiT, arXiv 2406.07524, after Peebles & Xie, arXiv 2212.09748), without padding.

    config = DiTConfig(hidden_size=768, num_blocks=12, num_heads=12)
    network = DiT(config, num_inputs=V + 1, num_outputs=V + 1, visibility="bidirectional")
    logits = network(ids, layout, sigma, select)        # [M, num_outputs] for the M selected flat positions

Blocks are pre-norm, with rotary attention and a tanh-GELU MLP; each block's scale, shift and gate are computed from the
noise embedding, if there is one (adaLN-zero). A causal network (the autoregressive baseline) has no adaLN. Norms and
rotary embedding are computed in float32.
A block network (BD3-LM, arXiv 2503.09573) reads noisy and clean ids side by side at the same rotary positions and
returns logits of the noisy ones; `extend` reads one block after a `KeyValueCache` and computes the same function.
Parameters with adaLN: blocks * (12 d^2 + 13 d + 6 d c) + 2 V' d + V' + d + 2 c d + 2 d + 256 c + c + c^2 + c.

In shape comments N is the number of flat positions with padding (cpu.py), d the hidden size, c `cond_dim` and B the
number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion_lm.backbones.attention import KeyValue, KeyValueCache, PaddedAttention, Rotary
from diffusion_lm.backbones.base import DEFAULT, MOST_BLOCKS, MOST_WIDTH, Backbone, NetworkConfig
from diffusion_lm.backbones.cpu import add_product, dropout, padded_selection, padding, spread_rows
from diffusion_lm.backbones.cpu_attention import GroupedRows, by_sentences
from diffusion_lm.backbones.flex import ATTENTIONS, Attention, FlexAttention
from diffusion_lm.device import to_device
from diffusion_lm.layout import Layout
from diffusion_lm.visibility import Blocks, Visibility

FREQUENCIES = 256  # number of sinusoids in the noise embedding
AnyAttention = PaddedAttention | FlexAttention | GroupedRows


@dataclass(frozen=True)
class DiTConfig(NetworkConfig):
    """Size of the network: the section `model` for `network: dit`."""

    hidden_size: int = 768
    """Width of the residual stream."""
    num_blocks: int = 12
    """Number of transformer blocks."""
    num_heads: int = 12
    """Number of attention heads; it divides the width."""
    cond_dim: int = 128
    """Width of the noise embedding."""
    dropout: float = 0.1
    """Dropout probability on the output of each attention and MLP branch."""
    adaln: bool = True
    """Whether the noise level sets scale, shift and gate of each block; a causal network never has adaLN."""
    network: str = field(default=DEFAULT, kw_only=True)
    """Name of this kind of network, see backbones/__init__.py."""

    def __post_init__(self) -> None:
        limits = {"hidden_size": MOST_WIDTH, "num_blocks": MOST_BLOCKS, "num_heads": MOST_WIDTH, "cond_dim": MOST_WIDTH}
        for name, most in limits.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"model.{name} {getattr(self, name)}: expected a number between 1 and {most}")
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"model.hidden_size {self.hidden_size} with model.num_heads {self.num_heads}: "
                "expected an even width per head"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout {self.dropout}: expected a value in [0, 1)")

    @property
    def min_tensors(self) -> int:
        return self.num_blocks

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_heads


class DiT(Backbone):
    """The network: flat ids [N] to logits [M, num_outputs] of selected positions."""

    def __init__(self, config: DiTConfig, *, num_inputs: int, num_outputs: int, visibility: Visibility):
        super().__init__(config, num_inputs=num_inputs, num_outputs=num_outputs, visibility=visibility)
        width = config.hidden_size
        conditioned = config.adaln and visibility != "causal"
        self._attention: Attention = PaddedAttention
        self._recompute = False
        self.embedding = nn.Embedding(num_inputs, width)
        nn.init.kaiming_uniform_(self.embedding.weight, a=math.sqrt(5))
        self.noise = NoiseEmbedding(config.cond_dim) if conditioned else None
        self.blocks = nn.ModuleList(Block(config, conditioned) for _ in range(config.num_blocks))
        self.final_norm = LayerNorm(width)
        self.final_modulation = _zero_linear(config.cond_dim, 2 * width) if conditioned else None
        self.head = _zero_linear(width, num_outputs)
        self.rotary = Rotary(config.head_width)

    def forward(
        self,
        ids: Tensor,
        layout: Layout,
        sigma: Tensor | None = None,
        select: Tensor | None = None,
        context: Tensor | None = None,
        blend: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """See `Backbone.forward`. Noise level 0 for all rows (sigma None) is much cheaper than a level per row."""
        if isinstance(self.visibility, Blocks) != (context is not None):
            raise ValueError(
                f"a network with visibility {self.visibility!r} and {'no ' if context is None else ''}clean ids: "
                "expected them for a network of blocks, and only there"
            )
        device = self.embedding.weight.device
        layout = layout.to(device)
        ids = to_device(ids, device)
        sigma, select, context = (None if x is None else to_device(x, device) for x in (sigma, select, context))
        count, row, position = len(ids), layout.row, layout.position
        if context is not None:  # noisy ids, then clean ones
            ids, row, position = torch.cat([ids, context]), row.repeat(2), position.repeat(2)
        condition = self._condition(sigma, device)  # [B or 1, c]
        extra = padding(len(ids), device)
        row_of = None if sigma is None else F.pad(row, (0, extra))  # [N]
        x = self.embedding(F.pad(ids, (0, extra)))  # [N, d]
        if blend is not None:
            positions, weights = (to_device(part, device) for part in blend)
            x = x.index_copy(0, positions, (weights @ self.embedding.weight[: weights.shape[1]]).to(x.dtype))
        attention, rotation = self._attention_of(layout), self.rotary(position)
        wanted, selected = padded_selection(count, select, ids)
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):  # the last block computes the selected positions alone: x [M, d]
            inputs = (block, x, attention, rotation, condition, row_of, None, selected if number == last else None)
            recompute = self._recompute and torch.is_grad_enabled()
            x = checkpoint(_output, *inputs, use_reentrant=False) if recompute else _output(*inputs)
        return self._logits(x, wanted, condition, _select(row_of, selected))

    def configure(self, *, attention: str = "sdpa", recompute: bool = False) -> None:
        self._attention, self._recompute = ATTENTIONS[attention], recompute

    def extend(
        self, ids: Tensor, layout: Layout, past: KeyValueCache | None = None, select: Tensor | None = None
    ) -> tuple[Tensor, KeyValueCache]:
        """See `Backbone.extend`. Always by `PaddedAttention`, because one block per row leaves hardly any padding."""
        past = past or KeyValueCache()
        count, rows = len(ids), len(layout.lengths)
        condition = self._condition(None, ids.device)  # [1, c]
        x = self.embedding(F.pad(ids, (0, padding(count, ids.device))))  # [N, d]
        mask = None
        if not layout.equal:
            before = torch.ones(rows, past.length, dtype=torch.bool, device=ids.device)
            mask = torch.cat([before, layout.valid], dim=1)[:, None, None, :]  # [B, 1, 1, past + longest]
        attention = PaddedAttention(rows, layout.longest, None if layout.equal else layout.slot, mask)
        rotation = self.rotary(layout.position + past.length)
        wanted, selected = padded_selection(count, select, ids)
        layers: list[KeyValue] = []
        for block, known in zip(self.blocks, past.layers or (None,) * len(self.blocks)):
            last = len(layers) == len(self.blocks) - 1
            x, key_value = block(x, attention, rotation, condition, None, known, selected=selected if last else None)
            layers.append(key_value)
        return self._logits(x, wanted, condition, None), KeyValueCache(tuple(layers))

    def after_preload(self, names: Collection[str]) -> None:
        """Open the gates if blocks came from a network without adaLN; the initial gates of 0 would hide them."""
        if any(name.startswith("blocks.") for name in names) and not any("modulation" in name for name in names):
            self.open_gates()

    def open_gates(self) -> None:
        """Set each block's gates to 1 instead of 0, so that blocks of a network without adaLN compute what they did."""
        for block in self.blocks:
            assert isinstance(block, Block)
            if block.modulation is not None:
                for part in (2, 5):  # the gates among shift, scale, gate of attention and of MLP
                    nn.init.ones_(block.modulation.bias.data.chunk(6)[part])

    def _attention_of(self, layout: Layout) -> AnyAttention:
        # Not for compiled blocks: groups differ from batch to batch, and torch would compile each of them.
        if self._attention is PaddedAttention and not self.compiled and by_sentences(layout, self.visibility):
            return GroupedRows.of(layout, self.visibility, self.embedding.embedding_dim)
        return self._attention.of(layout, self.visibility)

    def _condition(self, sigma: Tensor | None, device: torch.device) -> Tensor | None:
        """Conditioning vectors [B, c] of the noise levels `sigma` [B], or [1, c] of level 0 for None."""
        if self.noise is None and sigma is not None:
            raise ValueError(
                "this network has no noise embedding (model.adaln false); expected family.time_conditioning false"
            )
        if self.noise is None:
            return None
        level = torch.zeros(1, device=device) if sigma is None else sigma.float()
        return F.silu(self.noise(level))

    def _logits(self, x: Tensor, wanted: int, condition: Tensor | None, row: Tensor | None) -> Tensor:
        """x [M, d], row [M] -> logits [wanted, num_outputs] of the first `wanted` positions; the rest is padding."""
        x = self.final_norm(x)
        if self.final_modulation is not None:
            shift, scale = self.final_modulation(condition).chunk(2, dim=-1)
            x = _modulate(x, shift, scale, row)
        return self.head(x)[:wanted]


class Block(nn.Module):
    """x + gate * attention(norm(x)), then the same with the MLP; without adaLN gates are 1, norms unmodulated."""

    def __init__(self, config: DiTConfig, conditioned: bool):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.norm_attention = LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.norm_mlp = LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)
        self.modulation = _zero_linear(config.cond_dim, 6 * width) if conditioned else None

    def forward(
        self,
        x: Tensor,
        attention: AnyAttention,
        rotation: tuple[Tensor, Tensor],
        condition: Tensor | None,
        row: Tensor | None,
        past: KeyValue | None = None,
        selected: Tensor | None = None,
    ) -> tuple[Tensor, KeyValue | None]:
        """x [N, d] -> (the block's output, [N, d] or [M, d] for `selected`, and the keys and values that were used).

        Args:
            x: [N, d] output of the previous block.
            attention: computes attention over the flat positions.
            rotation: cosine and sine of the positions (`Rotary`).
            condition: [B or 1, c] conditioning vectors; None without adaLN.
            row: [N] index into `condition` for each position; None if there is only one.
            past: keys and values of earlier positions.
            selected: [M] positions to compute the output for; None for all.
        """
        if self.modulation is None:
            attended, key_value = self._attend(self.norm_attention(x), attention, rotation, past, selected)
            x = _select(x, selected) + self._dropped(attended)
            return x + self._dropped(self._mlp(self.norm_mlp(x))), key_value
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition).chunk(6, dim=-1)  # [B or 1, d]
        row_chosen = _select(row, selected)
        normed = _modulate(self.norm_attention(x), shift_a, scale_a, row)
        attended, key_value = self._attend(normed, attention, rotation, past, selected)
        x = _add_gated(_select(x, selected), self._dropped(attended), gate_a, row_chosen)
        mixed = self._mlp(_modulate(self.norm_mlp(x), shift_m, scale_m, row_chosen))
        return _add_gated(x, self._dropped(mixed), gate_m, row_chosen), key_value

    def _attend(
        self,
        x: Tensor,
        attention: AnyAttention,
        rotation: tuple[Tensor, Tensor],
        past: KeyValue | None,
        selected: Tensor | None,
    ) -> tuple[Tensor, KeyValue | None]:
        """x [N, d] -> (attention output [N, d], or [M, d] for `selected`, and the keys and values)."""
        qkv = self.qkv(x).view(len(x), 3, self.num_heads, -1)  # [N, 3, heads, d / heads]
        out, key_value = attention.attend(qkv, rotation, past, selected)
        return self.attention_out(out), key_value

    def _mlp(self, x: Tensor) -> Tensor:
        return self.mlp_out(F.gelu(self.mlp_in(x), approximate="tanh"))

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class LayerNorm(nn.Module):
    """Layer norm with a weight and no bias, computed in float32."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.weight.shape, self.weight.float())


class NoiseEmbedding(nn.Module):
    """Noise level sigma (nats) [B] -> [B, cond_dim]: 128 cosines and 128 sines, then a two-layer MLP, in float32."""

    def __init__(self, cond_dim: int):
        super().__init__()
        self.first = nn.Linear(FREQUENCIES, cond_dim)
        self.second = nn.Linear(cond_dim, cond_dim)

    def forward(self, sigma: Tensor) -> Tensor:
        with torch.autocast(device_type=sigma.device.type, enabled=False):
            half = FREQUENCIES // 2
            frequency = torch.exp(-math.log(10000.0) * torch.arange(half, device=sigma.device) / half)
            angle = sigma[:, None] * frequency
            features = torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.first.weight.dtype)
            return self.second(F.silu(self.first(features)))


def _output(block: nn.Module, *inputs: object) -> Tensor:
    """A block's output without its keys and values, which only `extend` uses."""
    output: Tensor = block(*inputs)[0]
    return output


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _modulate(x: Tensor, shift: Tensor, scale: Tensor, row: Tensor | None) -> Tensor:
    """x [N, d] * (1 + scale) + shift, where scale and shift are [B, d] with indices `row` [N], or [1, d]."""
    return add_product(spread_rows(shift, row, x), x, spread_rows(1 + scale, row, x))


def _add_gated(x: Tensor, y: Tensor, gate: Tensor, row: Tensor | None) -> Tensor:
    """x + y * gate for x, y [N, d]; the gate has the shape of shift and scale in `_modulate`."""
    return add_product(x, y, spread_rows(gate, row, x))


@overload
def _select(x: Tensor, selected: Tensor | None) -> Tensor: ...
@overload
def _select(x: None, selected: Tensor | None) -> None: ...
def _select(x: Tensor | None, selected: Tensor | None) -> Tensor | None:
    """x at the indices `selected` of its first dimension; x unchanged if either is None."""
    return x if x is None or selected is None else x.index_select(0, selected)
