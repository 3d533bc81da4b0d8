"""Drawn sentences and helpers for all samplers: categorical draws, sentence lengths, entropy.

    lengths = draw_lengths([9, 12, 17], 64, seed=1)        # 64 lengths of real sentences

Categorical draws invert the cumulative sum in float64, because the tail of float32 Gumbel noise is cut off, which acts
like a temperature below 1 (Zheng et al., arXiv 2409.02908).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lm.draws import step_seed
from returnn_bridge.vocab import Vocabulary


@dataclass(frozen=True)
class Samples:
    """Drawn sentences and their cost."""

    tokens: list[list[int]]
    """Piece ids, without BOS and EOS; in samples of a fixed length EOS stands between documents."""
    passes: int
    """Number of sentences in all network runs together."""
    unfinished: int
    """Number of sentences that reached their limit without EOS, or still have masks (without noise removal)."""


def draw_lengths(known: Sequence[int], count: int, *, seed: int = 1) -> list[int]:
    """Draw `count` lengths from those of real sentences, ignoring empty ones. ValueError if all are empty."""
    choices = torch.tensor([length for length in known if length], dtype=torch.int64)
    if not len(choices):
        raise ValueError("no sentence to take a length from; expected text with at least one piece")
    generator = torch.Generator().manual_seed(step_seed(seed, "lengths", 0, 0))
    return choices[torch.randint(len(choices), (count,), generator=generator)].tolist()


def sample_entropy(samples: Sequence[Sequence[int]]) -> float:
    """Mean over sentences of the entropy of the pieces within a sentence, nats.

    Report it with generative perplexity, because repetitive samples lower both.
    """
    total = torch.zeros((), dtype=torch.float64)
    for tokens in samples:
        share = torch.tensor(list(Counter(tokens).values()), dtype=torch.float64) / max(1, len(tokens))
        total += torch.special.entr(share).sum()
    return float(total) / max(1, len(samples))


def text_of(tokens: Sequence[int], vocab: Vocabulary) -> str:
    """A sample as one line: documents that EOS separates, and lines that pieces of GPT-2's vocabulary separate."""
    documents: list[list[int]] = [[]]
    for token in tokens:
        if token == vocab.eos_id:
            documents.append([])
        else:
            documents[-1].append(token)
    return " ".join(line for document in documents if document for line in vocab.decode(document).splitlines())


def entropy_literal(samples: Sequence[Sequence[int]], texts: Sequence[str]) -> str:
    """The literal {tag: [(entropy, text)]} of samples (piece ids) and their texts, as i6's jobs read it.

    The entropy is that of the pieces within the sentence, nats.
    """
    entries = [(sample_entropy([tokens]), text) for tokens, text in zip(samples, texts, strict=True)]
    return "{\n" + "".join(f"'sample-{index}': [{entry!r}],\n" for index, entry in enumerate(entries, 1)) + "}\n"


def categorical(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """[M] symbols drawn with probabilities exp(log_probs) [M, V], from uniform numbers [M] in [0, 1), float64."""
    cumulative = log_probs.double().exp().cumsum(-1)
    total = cumulative[:, -1:]
    # Keep the value below the total even if the product is rounded up, so that a symbol with probability 0 is never
    # drawn.
    value = torch.minimum(uniform.double()[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, value, right=True)[:, 0]


def generators(count: int, seed: int, first: int, purpose: str = "sample") -> list[torch.Generator]:
    """One generator for each of `count` sentences, seeded by (seed, purpose, index of the sentence from `first`), so
    that batches do not matter.
    """
    return [torch.Generator().manual_seed(step_seed(seed, purpose, first + index, 0)) for index in range(count)]
