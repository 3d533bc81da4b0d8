"""`training.py profile`: share of the measured bf16 matrix rate that a training step reaches, and time by operator."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from time import perf_counter

import torch
from torch.profiler import ProfilerActivity, profile

from diffusion_lm.backbones.dit import Block
from diffusion_lm.layout import Layout
from returnn_bridge.batching import TokenBatch
from returnn_bridge.vocab import Vocab
from training_parts.steps import OurStep, alternate, asked_batches, network_size

# Names of operators, in the order of the table; the first group that has a part of the name takes it.
GROUPS = {
    "attention": ("bmm", "baddbmm", "aten::_softmax", "scaled_dot_product"),
    "matrix products": ("aten::mm", "aten::addmm", "mkldnn_linear"),
    "loss over the vocabulary": ("log_softmax", "_TargetLogProbs", "aten::gather", "aten::scatter"),
    "layer norm": ("layer_norm",),
    "optimiser, clipping, average": ("adamw", "lerp", "norm_", "_foreach"),
    "GELU": ("gelu",),
    "dropout's random numbers": ("bernoulli", "random_", "aten::ge"),
    "copies, conversions, gathers": ("copy", "cat", "index", "fill", "zero", "embedding", "empty"),
    "other elementwise": ("mul", "add", "sum", "masked", "div", "sub", "neg", "silu"),
}


def share(options: argparse.Namespace) -> None:
    """Print two Markdown tables: the share of each network size, then the time of each operator group."""
    torch.manual_seed(1)
    vocab = Vocab.load(options.vocab)
    batches = asked_batches(options, options.batches)
    tables: list[dict[str, float]] = []
    print(
        "| network | GFLOP a step | seconds a step | GFLOP/s | matrix rate, GFLOP/s | share |\n"
        "|---|---:|---:|---:|---:|---:|"
    )
    for name in options.size:
        step = OurStep(network_size(name), vocab)
        before = matrix_rate()
        (seconds,) = alternate([step], batches, options.repeats)
        rate = (before + matrix_rate()) / 2
        work = sum(step_flops(step, batch) for batch in batches)
        reached = work / sum(seconds)
        print(
            f"| {name} | {work / len(batches) / 1e9:,.0f} | {sum(seconds) / len(batches):.2f} | {reached / 1e9:.0f} "
            f"| {rate / 1e9:.0f} | {reached / rate:.0%} |",
            flush=True,
        )
        tables.append(groups(step, batches))
    print("\n| share of the time | " + " | ".join(options.size) + " |\n|---|" + "---:|" * len(tables))
    for group in [*GROUPS, "everything else"]:
        print(f"| {group} | " + " | ".join(f"{table[group]:.0%}" for table in tables) + " |")


def matrix_rate() -> float:
    """The highest FLOP/s of several products of two large bf16 matrices."""
    size, best = 2048, float("inf")
    a, b = torch.randn(2, size, size).bfloat16()
    for _ in range(8):
        began = perf_counter()
        a @ b
        best = min(best, perf_counter() - began)
    return 2 * size**3 / best


def step_flops(step: OurStep, batch: TokenBatch) -> float:
    """FLOP that a step needs: matrix products forward and twice backward, 6 per weight and token.

    Every framed token counts for the weights of the blocks; only masked tokens (half of the pieces on average) count
    for the layers after the last attention and for the head. Attention within rows: 12 d per pair of tokens and block.
    """
    network, layout = step.network, Layout(batch.lengths + 2)
    first, width, blocks = network.blocks[0], network.head.in_features, len(network.blocks)
    assert isinstance(first, Block)
    behind = first.attention_out.weight.numel() + first.mlp_in.weight.numel() + first.mlp_out.weight.numel()
    tokens, masked = len(layout.row), int(batch.lengths.sum()) / 2
    per_token = blocks * first.qkv.weight.numel() + (blocks - 1) * behind
    pairs = int((layout.lengths**2).sum())
    work = per_token * tokens + (behind + network.head.weight.numel()) * masked
    if first.modulation is not None:
        work += blocks * first.modulation.weight.numel() * len(layout.lengths)
    return 6.0 * work + 12.0 * width * blocks * pairs


def groups(step: OurStep, batches: Sequence[TokenBatch]) -> dict[str, float]:
    """Share of the time that each group of operators takes by itself."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        for batch in batches:
            step(batch)
    result = dict.fromkeys([*GROUPS, "everything else"], 0.0)
    for event in seen.key_averages():
        group = next((g for g, parts in GROUPS.items() if any(part in event.key for part in parts)), "everything else")
        result[group] += event.self_cpu_time_total
    total = sum(result.values())
    return {group: value / total for group, value in result.items()}
