"""The reference diffusion transformer (DiT of MDLM, arXiv 2406.07524, after Peebles & Xie, arXiv 2212.09748) on padding-free rows.

    network = DiT(BackboneConfig(hidden_size=768, num_blocks=12, num_heads=12), num_inputs=V + 1, num_outputs=V + 1, visibility="bidirectional")
    logits = network(ids, layout, sigma, select)        # [M, num_outputs] for the M selected flat positions

Pre-norm blocks with rotary attention and tanh-GELU MLP; with a noise embedding each block's scale, shift and gate come from it
(adaLN-zero). A causal network (the autoregressive baseline) is the same without adaLN. Norms, rotary and logits are computed in float32.
Parameters with adaLN: blocks * (12 d^2 + 13 d + 6 d c) + 2 V' d + V' + d + 2 c d + 2 d + 256 c + c + c^2 + c.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_lm.layout import Layout

Visibility = Literal["bidirectional", "causal"]
FREQUENCIES = 256  # sinusoids of the noise embedding


@dataclass(frozen=True)
class BackboneConfig:
    """Size of the network."""

    hidden_size: int = 768
    num_blocks: int = 12
    num_heads: int = 12
    cond_dim: int = 128  # width of the noise embedding
    dropout: float = 0.1  # on the residual branches
    adaln: bool = True  # scale, shift and gate of each block from the noise level; a causal network never has it

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_blocks", "num_heads", "cond_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} {getattr(self, name)}: expected at least 1")
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"model.hidden_size {self.hidden_size} with model.num_heads {self.num_heads}: expected an even width per head"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout {self.dropout}: expected a value in [0, 1)")


class DiT(nn.Module):
    """Flat ids [N] in, logits of selected positions out."""

    def __init__(self, config: BackboneConfig, *, num_inputs: int, num_outputs: int, visibility: Visibility):
        super().__init__()
        width = config.hidden_size
        self.visibility = visibility
        conditioned = config.adaln and visibility == "bidirectional"
        self.embedding = nn.Embedding(num_inputs, width)
        nn.init.kaiming_uniform_(self.embedding.weight, a=math.sqrt(5))
        self.noise = NoiseEmbedding(config.cond_dim) if conditioned else None
        self.blocks = nn.ModuleList(Block(config, visibility, conditioned) for _ in range(config.num_blocks))
        self.final_norm = LayerNorm(width)
        self.final_modulation = _zero_linear(config.cond_dim, 2 * width) if conditioned else None
        self.head = _zero_linear(width, num_outputs)
        self.rotary = Rotary(width // config.num_heads)

    def open_gates(self) -> None:
        """Start each block with gate 1 instead of 0: with weights of a network without adaLN it then computes what that one did."""
        for block in self.blocks:
            assert isinstance(block, Block)
            if block.modulation is not None:
                for part in (2, 5):  # of shift, scale, gate for attention and MLP
                    nn.init.ones_(block.modulation.bias.data.chunk(6)[part])

    def forward(self, ids: Tensor, layout: Layout, sigma: Tensor | None = None, select: Tensor | None = None) -> Tensor:
        """ids [N]; sigma [B] noise level of each row, None = level 0 for all; select [M] flat positions, None = all.

        Returns logits [M, num_outputs], float32. One shared noise level (sigma None) is much cheaper than one per row.
        """
        condition = None
        if self.noise is None and sigma is not None:
            raise ValueError(
                "this network has no noise embedding (model.adaln false); expected family.time_conditioning false"
            )
        if self.noise is not None:
            level = ids.new_zeros(1, dtype=torch.float32) if sigma is None else sigma.float()
            condition = F.silu(self.noise(level))
        row = None if sigma is None else F.pad(layout.row, (0, _filling(len(ids), ids.device)))
        count = len(ids)
        extra = _filling(count, ids.device)
        x = self.embedding(F.pad(ids, (0, extra)))
        rotation = self.rotary(layout)
        spread = None if layout.equal else layout.slot
        for block in self.blocks:
            x = block(x, layout, spread, rotation, condition, row)
        chosen = torch.arange(count, device=ids.device) if select is None else select
        chosen = F.pad(chosen, (0, _filling(len(chosen), ids.device)))
        x = self.final_norm(x[chosen])
        if self.final_modulation is not None:
            shift, scale = _per_position(self.final_modulation(condition), None if row is None else row[chosen], 2)
            x = x * (1 + scale) + shift
        return self.head(x)[: count if select is None else len(select)].float()


class Block(nn.Module):
    def __init__(self, config: BackboneConfig, visibility: Visibility, conditioned: bool):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.causal = visibility == "causal"
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
        layout: Layout,
        spread: Tensor | None,
        rotation: tuple[Tensor, Tensor],
        condition: Tensor | None,
        row: Tensor | None,
    ) -> Tensor:
        if self.modulation is None:
            x = x + self._dropped(self._attention(self.norm_attention(x), layout, spread, rotation))
            return x + self._dropped(self._mlp(self.norm_mlp(x)))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = _per_position(self.modulation(condition), row, 6)
        attended = self._attention(self.norm_attention(x) * (1 + scale_a) + shift_a, layout, spread, rotation)
        x = x + gate_a * self._dropped(attended)
        return x + gate_m * self._dropped(self._mlp(self.norm_mlp(x) * (1 + scale_m) + shift_m))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.mlp_out(F.gelu(self.mlp_in(x), approximate="tanh"))

    def _attention(self, x: Tensor, layout: Layout, spread: Tensor | None, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """x [N, d] -> [N, d]; each position sees its own row only (and, if causal, not what follows)."""
        rows, longest, width = len(layout.lengths), layout.longest, x.shape[-1]
        count = len(layout.row)
        qkv = self.qkv(x)[:count].view(count, 3, self.num_heads, width // self.num_heads)
        rotated = _rotate(qkv[:, :2], rotation)
        qkv = torch.cat([rotated, qkv[:, 2:]], dim=1)
        if spread is not None:
            qkv = qkv.new_zeros(rows * longest, *qkv.shape[1:]).index_copy(0, spread, qkv)
        query, key, value = qkv.view(rows, longest, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        # A causal row never sees the padding behind it, so only the bidirectional one needs a key-padding mask.
        mask = None if spread is None or self.causal else layout.valid[:, None, None, :]
        out = _attend(query, key, value, mask, self.causal)
        out = out.transpose(1, 2).reshape(rows * longest, width)
        out = out if spread is None else out[spread]
        return self.attention_out(F.pad(out, (0, 0, 0, len(x) - count)))


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(w)) v for [B, heads, L, w]; mask [B, 1, 1, L] True where a key exists."""
    longest = query.shape[2]
    if query.device.type != "cpu" or longest > 128:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    # Written out for sentences on a CPU: the backward pass of torch's CPU kernel is 3 to 7 times slower at these lengths.
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    if causal:
        later = torch.ones(longest, longest, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores.softmax(-1).to(value.dtype) @ value


class LayerNorm(nn.Module):
    """Weight only, no bias, computed in float32."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.weight.shape, self.weight.float())


class Rotary(nn.Module):
    """Rotary position embedding, base 10000, half-split convention (Su et al., arXiv 2104.09864)."""

    def __init__(self, head_width: int):
        super().__init__()
        inverse = 10000.0 ** (-torch.arange(0, head_width, 2).float() / head_width)
        self.register_buffer("inverse", inverse, persistent=False)
        self.inverse: Tensor

    def forward(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """cos, sin of every flat position: [N, 1, 1, head_width / 2]."""
        angle = layout.position.to(self.inverse.dtype)[:, None] * self.inverse
        return angle.cos()[:, None, None], angle.sin()[:, None, None]


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotation
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


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


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _filling(count: int, device: torch.device) -> int:
    """Positions to add on a CPU so that counts repeat: oneDNN compiles and keeps a kernel for every new shape (gigabytes in an hour)."""
    return -count % 256 if device.type == "cpu" and count > 256 else 0


def _per_position(modulation: Tensor, row: Tensor | None, parts: int) -> tuple[Tensor, ...]:
    """[B or 1, parts * d] -> `parts` tensors [N or 1, d]."""
    return (modulation if row is None else modulation.index_select(0, row)).chunk(parts, dim=-1)
