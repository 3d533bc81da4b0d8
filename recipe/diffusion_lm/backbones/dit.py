"""The reference diffusion transformer (DiT of MDLM, arXiv 2406.07524, after Peebles & Xie, arXiv 2212.09748) on padding-free rows.

    network = DiT(BackboneConfig(hidden_size=768, num_blocks=12, num_heads=12), num_inputs=V + 1, num_outputs=V + 1, visibility="bidirectional")
    logits = network(ids, layout, sigma, select)        # [M, num_outputs] for the M selected flat positions

Pre-norm blocks with rotary attention and tanh-GELU MLP; with a noise embedding each block's scale, shift and gate come from it
(adaLN-zero). A causal network (the autoregressive baseline) is the same without adaLN. Norms and rotary are computed in float32.
A network of blocks (BD3-LM, arXiv 2503.09573) reads noisy ids and clean ones side by side, both at the same rotary positions, and answers
for the noisy ones; `extend` reads one more block behind a `Past` of finished ones, which is the same function.
Parameters with adaLN: blocks * (12 d^2 + 13 d + 6 d c) + 2 V' d + V' + d + 2 c d + 2 d + 256 c + c + c^2 + c.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion_lm.backbones.attention import KeyValue, Past, Rotary, Seen
from diffusion_lm.backbones.cpu import dropout
from diffusion_lm.backbones.cpu_attention import RowGroups, by_sentences
from diffusion_lm.backbones.flex import Attention, FlatSeen
from diffusion_lm.device import sent
from diffusion_lm.layout import Layout
from diffusion_lm.visibility import Blocks, Visibility

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

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_heads


class DiT(nn.Module):
    """Flat ids [N] in, logits of selected positions out."""

    def __init__(self, config: BackboneConfig, *, num_inputs: int, num_outputs: int, visibility: Visibility):
        super().__init__()
        width = config.hidden_size
        self.visibility = visibility
        self.recompute = (
            False  # in training, run each block again in the backward pass instead of keeping what it needs
        )
        self.attention: Attention = Seen  # or FlatSeen: the same function, see flex.py
        self.compiled = False
        conditioned = config.adaln and visibility != "causal"
        self.embedding = nn.Embedding(num_inputs, width)
        nn.init.kaiming_uniform_(self.embedding.weight, a=math.sqrt(5))
        self.noise = NoiseEmbedding(config.cond_dim) if conditioned else None
        self.blocks = nn.ModuleList(Block(config, conditioned) for _ in range(config.num_blocks))
        self.final_norm = LayerNorm(width)
        self.final_modulation = _zero_linear(config.cond_dim, 2 * width) if conditioned else None
        self.head = _zero_linear(width, num_outputs)
        self.rotary = Rotary(config.head_width)

    def open_gates(self) -> None:
        """Start each block with gate 1 instead of 0: with weights of a network without adaLN it then computes what that one did."""
        for block in self.blocks:
            assert isinstance(block, Block)
            if block.modulation is not None:
                for part in (2, 5):  # of shift, scale, gate for attention and MLP
                    nn.init.ones_(block.modulation.bias.data.chunk(6)[part])

    def forward(
        self,
        ids: Tensor,
        layout: Layout,
        sigma: Tensor | None = None,
        select: Tensor | None = None,
        context: Tensor | None = None,
        blend: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """ids [N]; sigma [B] noise level of each row, None = level 0 for all; select [M] flat positions, None = all; all on any device.

        context [N]: the clean ids, for a network of blocks and for no other (ValueError). blend: (flat positions [M], weights [M, n] of ids
        0 .. n - 1) where the input is a mixture of symbols and `ids` is not looked at.
        Returns logits [M, num_outputs], bfloat16 under autocast. One shared noise level (sigma None) is much cheaper than one per row.
        """
        if isinstance(self.visibility, Blocks) != (context is not None):
            raise ValueError(
                f"a network with visibility {self.visibility!r} and {'no ' if context is None else ''}clean ids: "
                "expected them for a network of blocks, and only there"
            )
        device = self.embedding.weight.device
        layout = layout.to(device)
        ids = sent(ids, device)
        sigma, select, context = (value if value is None else sent(value, device) for value in (sigma, select, context))
        count, row, position = len(ids), layout.row, layout.position
        if context is not None:
            ids, row, position = torch.cat([ids, context]), row.repeat(2), position.repeat(2)
        condition = self._condition(sigma, ids.device)
        extra = _filling(len(ids), ids.device)
        row_of = None if sigma is None else F.pad(row, (0, extra))
        x = self.embedding(F.pad(ids, (0, extra)))
        if blend is not None:
            positions, weights = (sent(value, device) for value in blend)
            x = x.index_copy(0, positions, (weights @ self.embedding.weight[: weights.shape[1]]).to(x.dtype))
        seen, rotation = self._seen(layout), self.rotary(position)
        wanted, chosen = _chosen(count, select, ids)
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            inputs = (block, x, seen, rotation, condition, row_of, None, chosen if number == last else None)
            recompute = self.recompute and torch.is_grad_enabled()
            x = checkpoint(_output, *inputs, use_reentrant=False) if recompute else _output(*inputs)
        return self._logits(x, wanted, condition, _of_rows(row_of, chosen))

    def compile_blocks(self) -> None:
        """torch.compile, block by block: one compilation serves all of them, and any number of rows."""
        self.compiled = True
        for block in self.blocks:
            block.compile(dynamic=True)

    def _seen(self, layout: Layout) -> Seen | FlatSeen | RowGroups:
        # Groups differ from batch to batch, and each would be compiled.
        if self.attention is Seen and not self.compiled and by_sentences(layout, self.visibility):
            return RowGroups.of(layout, self.visibility, self.embedding.embedding_dim)
        return self.attention.of(layout, self.visibility)

    def extend(
        self, ids: Tensor, layout: Layout, past: Past | None = None, select: Tensor | None = None
    ) -> tuple[Tensor, Past]:
        """Read the next block of each row of a network of blocks: ids [N], which see each other and the finished blocks in `past`.

        layout: of these blocks alone; select as in `forward`. Always by `Seen`, whatever `attention` is: blocks of a row each have hardly any
        padding. Returns (logits [M, num_outputs], the past with this block added, which is right for rows whose block is clean and whole).
        """
        past = past or Past()
        count, rows = len(ids), len(layout.lengths)
        condition = self._condition(None, ids.device)
        x = self.embedding(F.pad(ids, (0, _filling(count, ids.device))))
        mask = None
        if not layout.equal:
            before = torch.ones(rows, past.length, dtype=torch.bool, device=ids.device)
            mask = torch.cat([before, layout.valid], dim=1)[:, None, None, :]
        seen = Seen(rows, layout.longest, None if layout.equal else layout.slot, mask)
        rotation = self.rotary(layout.position + past.length)
        wanted, chosen = _chosen(count, select, ids)
        layers: list[KeyValue] = []
        for block, known in zip(self.blocks, past.layers or (None,) * len(self.blocks)):
            last = len(layers) == len(self.blocks) - 1
            x, key_value = block(x, seen, rotation, condition, None, known, chosen=chosen if last else None)
            layers.append(key_value)
        return self._logits(x, wanted, condition, None), Past(tuple(layers))

    def _condition(self, sigma: Tensor | None, device: torch.device) -> Tensor | None:
        if self.noise is None and sigma is not None:
            raise ValueError(
                "this network has no noise embedding (model.adaln false); expected family.time_conditioning false"
            )
        if self.noise is None:
            return None
        level = torch.zeros(1, device=device) if sigma is None else sigma.float()
        return F.silu(self.noise(level))

    def _logits(self, x: Tensor, wanted: int, condition: Tensor | None, row: Tensor | None) -> Tensor:
        """x [M, d] -> logits [wanted, num_outputs] of the first ones; row [M]."""
        x = self.final_norm(x)
        if self.final_modulation is not None:
            shift, scale = self.final_modulation(condition).chunk(2, dim=-1)
            x = _modulated(x, shift, scale, row)
        return self.head(x)[:wanted]


def _output(block: nn.Module, *inputs: object) -> Tensor:
    """A block without its keys and values, which only a sampler wants."""
    output: Tensor = block(*inputs)[0]
    return output


class Block(nn.Module):
    def __init__(self, config: BackboneConfig, conditioned: bool):
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
        seen: Seen | FlatSeen | RowGroups,
        rotation: tuple[Tensor, Tensor],
        condition: Tensor | None,
        row: Tensor | None,
        past: KeyValue | None = None,
        chosen: Tensor | None = None,
    ) -> tuple[Tensor, KeyValue | None]:
        """x [N, d] -> the same of the next layer, at the flat positions `chosen` [M] if given, and the keys and values that it used."""
        if self.modulation is None:
            attended, key_value = self._attention(self.norm_attention(x), seen, rotation, past, chosen)
            x = _of_rows(x, chosen) + self._dropped(attended)
            return x + self._dropped(self._mlp(self.norm_mlp(x))), key_value
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition).chunk(6, dim=-1)
        later = _of_rows(row, chosen)
        normed = _modulated(self.norm_attention(x), shift_a, scale_a, row)
        attended, key_value = self._attention(normed, seen, rotation, past, chosen)
        x = _added(_of_rows(x, chosen), self._dropped(attended), gate_a, later)
        mixed = self._mlp(_modulated(self.norm_mlp(x), shift_m, scale_m, later))
        return _added(x, self._dropped(mixed), gate_m, later), key_value

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)

    def _mlp(self, x: Tensor) -> Tensor:
        return self.mlp_out(F.gelu(self.mlp_in(x), approximate="tanh"))

    def _attention(
        self,
        x: Tensor,
        seen: Seen | FlatSeen | RowGroups,
        rotation: tuple[Tensor, Tensor],
        past: KeyValue | None,
        chosen: Tensor | None,
    ) -> tuple[Tensor, KeyValue | None]:
        """x [N, d] -> [N or M, d]; keys and values of `past` stand before those of x."""
        qkv = self.qkv(x).view(len(x), 3, self.num_heads, -1)
        out, key_value = seen.attend(qkv, rotation, past, chosen)
        return self.attention_out(out), key_value


class LayerNorm(nn.Module):
    """Weight only, no bias, computed in float32."""

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


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _filling(count: int, device: torch.device) -> int:
    """Positions to add on a CPU so that counts repeat: oneDNN compiles and keeps a kernel for every new shape (gigabytes in an hour)."""
    return -count % 256 if device.type == "cpu" and count > 256 else 0


def _chosen(count: int, select: Tensor | None, ids: Tensor) -> tuple[int, Tensor | None]:
    """How many positions are asked for, and which, filled up: what follows the last attention is computed for them alone.

    None: all `count` that there are, and whatever fills them up.
    """
    if select is None and count == len(ids):
        return count, None
    chosen = torch.arange(count, device=ids.device) if select is None else select
    return len(chosen), F.pad(chosen, (0, _filling(len(chosen), ids.device)))


def _of_rows(x: Any, chosen: Tensor | None) -> Any:
    """x at the chosen places of its first dimension, or as it is (None too)."""
    return x if x is None or chosen is None else x.index_select(0, chosen)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor, row: Tensor | None) -> Tensor:
    """x [N, d] of rows whose shift and scale are [B, d], or [1, d] of all rows (row None)."""
    return _plus_product(_at(shift, row, x), x, _at(1 + scale, row, x))


def _added(x: Tensor, y: Tensor, gate: Tensor, row: Tensor | None) -> Tensor:
    """x and y [N, d], the gate as shift and scale in `_modulated`."""
    return _plus_product(x, y, _at(gate, row, x))


def _at(modulation: Tensor, row: Tensor | None, x: Tensor) -> Tensor:
    """[B, d] -> [N, d], or [1, d] as it is. On a CPU in the type of x: kernels there convert a whole tensor before they mix types."""
    modulation = modulation.to(x.dtype) if x.device.type == "cpu" else modulation
    return modulation if row is None else modulation.index_select(0, row)


def _plus_product(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """x + y * z"""
    return torch.addcmul(x, y.to(x.dtype), z) if x.device.type == "cpu" else x + y * z
