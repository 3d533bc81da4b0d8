"""Drawn sentences and what every sampler needs: draws from a distribution, lengths, the entropy of what came out.

Categorical draws invert the cumulative sum in float64: float32 Gumbel noise has a cut tail, which acts like a temperature below 1
(Zheng et al., arXiv 2409.02908).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lm.draws import step_seed


@dataclass(frozen=True)
class Samples:
    """Drawn sentences and their cost."""

    tokens: list[list[int]]
    """Piece ids, without BOS and EOS."""
    passes: int
    """Sentences that went through the network, summed over steps."""
    unfinished: int
    """Sentences that reached their limit without an EOS, or that keep a mask (noise removal off)."""


def draw_lengths(known: Sequence[int], count: int, *, seed: int = 1) -> list[int]:
    """`count` lengths drawn from those of real sentences; empty ones are left aside. ValueError if there is none."""
    choices = torch.tensor([length for length in known if length], dtype=torch.int64)
    if not len(choices):
        raise ValueError("no sentence to take a length from; expected text with at least one piece")
    generator = torch.Generator().manual_seed(step_seed(seed, "lengths", 0, 0))
    return choices[torch.randint(len(choices), (count,), generator=generator)].tolist()


def sample_entropy(samples: Sequence[Sequence[int]]) -> float:
    """Entropy of the pieces within a sentence (nats), mean over sentences. Low entropy flatters a generative perplexity: report both."""
    total = torch.zeros((), dtype=torch.float64)
    for tokens in samples:
        share = torch.tensor(list(Counter(tokens).values()), dtype=torch.float64) / max(1, len(tokens))
        total += torch.special.entr(share).sum()
    return float(total) / max(1, len(samples))


def one_line(text: str) -> str:
    """A sample as one line of a file; pieces of GPT-2's vocabulary may be line ends."""
    return " ".join(text.splitlines())


def categorical(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """[M] symbols with probabilities exp(log_probs) [M, V] for uniform numbers [M] in [0, 1), float64: the inverse of the cumulative sum."""
    cumulative = log_probs.double().exp().cumsum(-1)
    total = cumulative[:, -1:]
    # Below the total even when the product rounds up, so that a symbol of probability 0 is never hit.
    value = torch.minimum(uniform.double()[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, value, right=True)[:, 0]


def generators(count: int, seed: int, first: int, purpose: str = "sample") -> list[torch.Generator]:
    """One for each of `count` sentences, from (seed, its number): batches do not matter. Numbers begin at `first`."""
    return [torch.Generator().manual_seed(step_seed(seed, purpose, first + index, 0)) for index in range(count)]
