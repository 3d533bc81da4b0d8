"""Real batches, and our training step on them: forward, backward, clipping, optimiser, weight average.

    batches = some_batches(text, vocab_folder)
    step = OurStep(network_size("256x4"), Vocab.load(vocab_folder))
    loss = step(batches[0])

The step is that of training/lightning_module.py, without Lightning's trainer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from diffusion_lm.backbones.dit import DiT, DiTConfig
from diffusion_lm.draws import NoiseDraw, draw_noise
from diffusion_lm.families import build_family
from diffusion_lm.layout import Sentences
from diffusion_lm.model import special_ids
from diffusion_lm.training.averaging import ExponentialMovingAverage
from returnn_bridge.batching import ReturnnBatches, TokenBatch
from returnn_bridge.datasets import lm_dataset_dict
from returnn_bridge.vocab import Vocab

POOL = 100  # batches from which those that are measured are taken, evenly: a bin of 1000 sentences is sorted by length
OPTIMISER: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}  # MDLM's
LONGEST = 128  # framed
CLIP, EMA = 1.0, 0.9999

Step = Callable[[TokenBatch], float]


def network_size(name: str, *, dropout: float = 0.1) -> DiTConfig:
    """The network of a name WIDTHxBLOCKS, with heads of width 64."""
    width, blocks = map(int, name.split("x"))
    return DiTConfig(hidden_size=width, num_blocks=blocks, num_heads=width // 64, dropout=dropout)


def some_batches(
    text: Path, vocab: Path, *, batch_size: int = 6000, max_seqs: int = 128, count: int = 8
) -> list[TokenBatch]:
    """Training batches, spread over all lengths."""
    batches = ReturnnBatches(
        lm_dataset_dict([text], vocab, seq_ordering="laplace:.1000"),
        num_tokens=Vocab.load(vocab).num_pieces,
        batch_size=batch_size,
        max_seqs=max_seqs,
        max_seq_length=LONGEST - 2,
    )
    pool = list(islice(batches, POOL))
    return [pool[(2 * number + 1) * len(pool) // (2 * count)] for number in range(min(count, len(pool)))]


def asked_batches(options: argparse.Namespace, count: int) -> list[TokenBatch]:
    """The `some_batches` that the command line options select."""
    return some_batches(
        options.text, options.vocab, batch_size=options.batch_size, max_seqs=options.max_seqs, count=count
    )


class OurStep:
    """Our masked language model with optimiser and weight average, in bf16."""

    def __init__(
        self,
        size: DiTConfig,
        vocab: Vocab,
        *,
        time_conditioning: bool = True,
        precision: str = "bf16",
        lr: float = 3e-4,
    ):
        self.vocab, self.precision = vocab, precision
        self.family = build_family({"name": "masked", "time_conditioning": time_conditioning}, special_ids(vocab))
        self.network = DiT(
            size, num_inputs=vocab.num_inputs, num_outputs=self.family.num_outputs, visibility=self.family.visibility
        )
        self.optimizer = torch.optim.AdamW(self.network.parameters(), **OPTIMISER, lr=lr, fused=True)
        self.average = ExponentialMovingAverage(self.network, EMA)
        self.generator = torch.Generator().manual_seed(1)

    def framed(self, batch: TokenBatch, part: slice = slice(None)) -> Sentences:
        tokens, lengths = batch.tokens[part], batch.lengths[part]
        return Sentences.of_padded(tokens, lengths, bos_id=self.vocab.bos_id, eos_id=self.vocab.eos_id)

    def loss(self, sentences: Sentences, draw: NoiseDraw) -> torch.Tensor:
        """Mean loss of the batch in nats per scored token."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            terms = self.family.training_loss(self.network, sentences, draw)
            return terms.loss.sum() / terms.weight

    def __call__(self, batch: TokenBatch, draw: NoiseDraw | None = None, *, rows: int = 0) -> float:
        """One optimiser step, with gradients accumulated over the `token_slices` of the batch."""
        self.optimizer.zero_grad()
        total, parts = 0.0, token_slices(batch, rows)
        for part in parts:
            sentences = self.framed(batch, part)
            noise = draw or draw_noise(sentences.layout.lengths, self.generator, stratified=self.family.stratified)
            loss = self.loss(sentences, noise) / len(parts)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP, foreach=True)
        self.optimizer.step()
        self.average.update(self.network)
        return total


def row_slices(batch: TokenBatch, rows: int) -> list[slice]:
    """Split a batch into parts of `rows` sentences for padded steps; 0 does not split."""
    count = len(batch.lengths)
    return [slice(start, start + (rows or count)) for start in range(0, count, rows or count)]


def token_slices(batch: TokenBatch, rows: int) -> list[slice]:
    """Split a batch into parts with as many positions as `rows` padded sentences have; 0 does not split."""
    if not rows:
        return row_slices(batch, 0)
    ends = torch.cumsum(batch.lengths + 2, 0)
    places = rows * (batch.tokens.shape[1] + 2)
    parts, start = [], 0
    while start < len(ends):
        done = int(ends[start - 1]) if start else 0
        stop = int(
            torch.searchsorted(ends, done + places, right=True)
        )  # a row has fewer places than `rows` of the longest
        parts.append(slice(start, stop))
        start = stop
    return parts


def alternate(steps: Sequence[Step], batches: Sequence[TokenBatch], repeats: int) -> list[list[float]]:
    """Median seconds of each step on each batch over `repeats` alternating runs, after one warm-up round."""
    times: list[list[list[float]]] = [[[] for _ in batches] for _ in steps]
    for turn in range(repeats + 1):
        for number, batch in enumerate(batches):
            for step, own in zip(steps, times):
                began = perf_counter()
                step(batch)
                if turn:
                    own[number].append(perf_counter() - began)
    return [[median(seconds) for seconds in own] for own in times]


def num_tokens(batches: Sequence[TokenBatch]) -> int:
    """The number of pieces, without padding, BOS and EOS."""
    return sum(int(batch.lengths.sum()) for batch in batches)


def filled(batches: Sequence[TokenBatch]) -> float:
    """The share of positions of padded framed batches that hold a token."""
    places = sum(batch.tokens.shape[0] * (batch.tokens.shape[1] + 2) for batch in batches)
    return (num_tokens(batches) + 2 * sum(len(batch.lengths) for batch in batches)) / places
