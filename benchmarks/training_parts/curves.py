"""`training.py curves`: losses of padding-free training and of an independent padded network, with equal noise."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_lm.draws import NoiseDraw, draw_noise
from returnn_bridge.batching import TokenBatch
from returnn_bridge.vocab import Vocab
from training_parts.steps import CLIP, OPTIMISER, OurStep, asked_batches, network_size

Weights = Mapping[str, Tensor]


def curves(options: argparse.Namespace) -> None:
    """Train both in turn, in float32 without dropout; print the largest difference and write the plot."""
    from matplotlib import pyplot

    torch.manual_seed(1)
    vocab = Vocab.load(options.vocab)
    batches = asked_batches(options, options.steps)
    size = network_size(options.size, dropout=0.0)
    ours = OurStep(size, vocab, precision="32", lr=options.lr)
    padded = PaddedStep(ours, heads=size.num_heads, lr=options.lr)
    losses: list[tuple[float, float]] = []
    for number in range(options.steps):
        batch = batches[number % len(batches)]
        draw = draw_noise(batch.lengths + 2, torch.Generator().manual_seed(number), stratified=True)
        losses.append((ours(batch, draw), padded(batch, draw)))
    packed, dense = zip(*losses)
    worst = max(abs(a - b) / abs(b) for a, b in losses)
    print(
        f"{options.steps} steps of {options.size}: loss {packed[0]:.3f} to {packed[-1]:.3f} nats a token, padding-free"
    )
    print(f"largest relative difference of the loss at a step, padding-free to padded: {worst:.1e}")
    figure, panel = pyplot.subplots(figsize=(6, 3.6))
    panel.plot(dense, label="padded", lw=4, alpha=0.4)
    panel.plot(packed, label="padding-free", lw=1, color="black")
    panel.set(xlabel="step", ylabel="training loss, nats a token")
    panel.legend()
    figure.tight_layout()
    figure.savefig(options.plot)
    print(f"{options.plot} written")


class PaddedStep:
    """Train a copy of the weights on padded rows. Only the noise shares code with the padding-free path."""

    def __init__(self, ours: OurStep, *, heads: int, lr: float):
        self.heads, self.vocab = heads, ours.vocab
        self.weights = {name: nn.Parameter(value.detach().clone()) for name, value in ours.network.named_parameters()}
        self.optimizer = torch.optim.AdamW(self.weights.values(), **OPTIMISER, lr=lr)

    def __call__(self, batch: TokenBatch, draw: NoiseDraw) -> float:
        vocab, (rows, longest) = self.vocab, batch.tokens.shape
        place = torch.arange(longest + 2)[None]
        valid = place < batch.lengths[:, None] + 2
        ids = F.pad(batch.tokens, (1, 1), value=vocab.eos_id).masked_fill(~valid, vocab.eos_id)
        ids[:, 0] = vocab.bos_id
        ids = torch.where(place == batch.lengths[:, None] + 1, vocab.eos_id, ids)
        keep = torch.full(valid.shape, 2.0)
        keep[valid] = draw.keep
        t = 1e-3 + (1 - 1e-3) * draw.time
        rho = (1 - 1e-3) * t  # of the loglinear schedule
        inner = (place > 0) & (place <= batch.lengths[:, None])
        masked = (keep < rho[:, None]) & inner
        logits = dense_logits(
            self.weights, ids.masked_fill(masked, vocab.mask_id), valid, -torch.log1p(-rho), self.heads
        )
        logits[..., [vocab.mask_id, vocab.bos_id, vocab.eos_id]] = -1e9
        nats = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(rows, -1)
        loss = (torch.where(masked, nats, 0.0) / t[:, None]).sum() / batch.lengths.sum()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights.values(), CLIP)
        self.optimizer.step()
        return loss.item()


def dense_logits(weights: Weights, ids: Tensor, valid: Tensor, sigma: Tensor, heads: int) -> Tensor:
    """Logits [B, L, outputs] from ids, valid [B, L] and sigma [B]; no token attends to padding."""
    rows, longest = ids.shape
    x = weights["embedding.weight"][ids]
    width = x.shape[-1]
    frequency = torch.exp(-math.log(10000) * torch.arange(128) / 128)
    angle = sigma[:, None] * frequency
    level = linear(weights, "noise.first", torch.cat([angle.cos(), angle.sin()], -1))
    level = F.silu(linear(weights, "noise.second", F.silu(level)))[:, None]
    half = width // heads // 2
    turn = torch.arange(longest)[:, None] * 10000.0 ** (-torch.arange(half) / half)
    cos, sin = turn.cos().repeat(1, 2), turn.sin().repeat(1, 2)

    def rotated(x: Tensor) -> Tensor:
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    number = 0
    while f"blocks.{number}.qkv.weight" in weights:
        name = f"blocks.{number}"
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = linear(weights, f"{name}.modulation", level).chunk(6, -1)
        h = F.layer_norm(x, (width,), weights[f"{name}.norm_attention.weight"]) * (1 + scale_a) + shift_a
        query, key, value = linear(weights, f"{name}.qkv", h).view(rows, longest, 3, heads, -1).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(rotated(query), rotated(key), value, attn_mask=valid[:, None, None])
        x = x + gate_a * linear(weights, f"{name}.attention_out", h.transpose(1, 2).flatten(2))
        h = F.layer_norm(x, (width,), weights[f"{name}.norm_mlp.weight"]) * (1 + scale_m) + shift_m
        x = x + gate_m * linear(
            weights, f"{name}.mlp_out", F.gelu(linear(weights, f"{name}.mlp_in", h), approximate="tanh")
        )
        number += 1
    shift, scale = linear(weights, "final_modulation", level).chunk(2, -1)
    return linear(weights, "head", F.layer_norm(x, (width,), weights["final_norm.weight"]) * (1 + scale) + shift)


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))
