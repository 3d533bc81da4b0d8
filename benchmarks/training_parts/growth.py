"""`training.py grow`: seconds and memory of a training step by network size, each in a separate process."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from diffusion_lm.presets import build
from returnn_bridge.batching import Position, TokenBatch
from returnn_bridge.vocab import Vocab
from training_parts.steps import OurStep, alternate, some_batches

PRESETS = {
    "tiny": "librispeech_masked:tiny",
    "small": "librispeech_masked",
    "medium": "librispeech_masked:medium",
}


def grow(options: argparse.Namespace) -> None:
    """Print a Markdown table and write the plot."""
    print(
        "| network | parameters | tokens a step | seconds a 1,000 tokens | peak memory, GB |\n|---|---:|---:|---:|---:|"
    )
    found: list[dict[str, Any]] = []
    for name in options.network:
        command = [sys.executable, sys.argv[0], "grow-one", "--text", options.text, "--vocab", options.vocab]
        command += ["--threads", options.threads, "--tokens", options.tokens, "--repeats", options.repeats]
        done = subprocess.run([*map(str, command), name], check=True, stdout=subprocess.PIPE, text=True)
        entry = json.loads(done.stdout.splitlines()[-1])
        found.append(entry)
        print(
            f"| {name} | {entry['parameters'] / 1e6:,.1f} M | {entry['tokens']:,} |"
            f" {entry['seconds']:.2f} | {entry['memory']:.2f} |",
            flush=True,
        )
    draw(found, options.network, options.plot)
    print(f"\n{options.plot} written")


def draw(found: Sequence[dict[str, Any]], names: Sequence[str], out: Path) -> None:
    """Plot seconds and memory against the number of parameters."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for panel, key, label in zip(panels, ("seconds", "memory"), ("seconds a step and 1,000 tokens", "peak memory, GB")):
        sizes, values = [entry["parameters"] for entry in found], [entry[key] for entry in found]
        panel.plot(sizes, values, marker="o")
        for name, size, value in zip(names, sizes, values):
            panel.annotate(name, (size, value), textcoords="offset points", xytext=(-4, 6), ha="right")
        panel.set(xscale="log", yscale="log", xlabel="parameters", ylabel=label)
        panel.margins(0.15)
        panel.grid(True, which="major", alpha=0.3)
    figure.savefig(out)


def grow_one(options: argparse.Namespace) -> None:
    """One line of JSON. Memory is that of the process: PyTorch, weights, gradients, moments, average, activations."""
    torch.manual_seed(1)
    vocab = Vocab.load(options.vocab)
    batch = first_rows(some_batches(options.text, options.vocab, count=8)[4], options.tokens)
    step = OurStep(build(PRESETS[options.name]).model, vocab)
    tokens = int(batch.lengths.sum())
    ((seconds,),) = alternate([step], [batch], options.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    parameters = sum(value.numel() for value in step.network.parameters())
    entry = {"parameters": parameters, "tokens": tokens, "seconds": seconds / tokens * 1000, "memory": peak / 1e9}
    print(json.dumps(entry))


def first_rows(batch: TokenBatch, tokens: int) -> TokenBatch:
    """The first sentences of a batch, up to a total number of tokens."""
    count = max(1, int((batch.lengths.cumsum(0) <= tokens).sum()))
    lengths = batch.lengths[:count]
    return TokenBatch(batch.tokens[:count, : int(lengths.max())], lengths, batch.seq_tags[:count], Position(1, 0), 0)
