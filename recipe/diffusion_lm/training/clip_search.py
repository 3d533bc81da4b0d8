"""Search for the interval of times to train a block model on: the one whose loss has the least variance.

    clips = search_clip(model.family.clippable, model.network, batches, widths=[0.5, 0.6, 0.7, 0.8, 0.9], delta=0.05)
    family = model.family.clippable.with_interval(clips[0].low, clips[0].high, resample=False)

The method is that of Arriola et al. (arXiv 2503.09573, section 4). Gradients of small blocks are noisy: a block with
few masked tokens gives little signal, and one with few visible tokens is far from what a sampler sees. Losses over a
part of the times are no bounds, so intervals are compared by variance only; `nelbo` does not depend on the interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families.base import ClippableFamily, Denoiser, sum_over_rows
from diffusion_lm.layout import Sentences


class Clip(NamedTuple):
    """A candidate interval and the variance of its training loss."""

    low: float
    """Smallest time."""
    high: float
    """Largest time."""
    variance: float
    """Variance over sentences of a block's mean loss per token (nats^2), pooled over block numbers."""


def candidates(sampling_eps: float, widths: Sequence[float], delta: float) -> list[tuple[float, float]]:
    """The full interval [eps, 1], and for each width the intervals within [0, 1] that start at multiples of delta.

    No interval starts below eps = `sampling_eps`.
    """
    intervals = [(sampling_eps, 1.0)]
    for width in widths:
        number = int((1 - width) / delta + 1e-9) + 1
        # Rounded, so that 3 * 0.1 is 0.3 and the end of the last interval no more than 1.
        intervals += [
            (max(round(i * delta, 9), sampling_eps), min(round(i * delta + width, 9), 1.0)) for i in range(number)
        ]
    return list(dict.fromkeys(intervals))


def search_clip(
    family: ClippableFamily,
    network: Denoiser,
    batches: Iterable[tuple[Sentences, NoiseDraw]],
    widths: Sequence[float],
    delta: float,
) -> list[Clip]:
    """All candidate intervals with the variance of their loss, lowest first.

    Every candidate runs the network once per batch, on the same noise. ValueError for block size 1 (no time is drawn),
    impossible widths, or batches without two blocks of the same number.
    """
    if family.exact:
        raise ValueError("clip search with family.block_size 1, where every token is masked; expected larger blocks")
    if not widths or any(not family.sampling_eps < width <= 1 for width in widths) or not 0 < delta <= 1:
        raise ValueError(
            f"clip search over widths {list(widths)} with delta {delta}: "
            "expected widths above sampling_eps, at most 1, and 0 < delta <= 1"
        )
    intervals = candidates(family.sampling_eps, widths, delta)
    clipped = [family.with_interval(low, high, resample=False).clippable for low, high in intervals]
    losses: list[list[Tensor]] = [[] for _ in intervals]
    numbers: list[Tensor] = []
    with torch.no_grad():
        for sentences, draw in batches:
            for measured, candidate in zip(losses, clipped):
                assert candidate is not None, "the family stays clippable with another interval"
                terms = candidate.training_terms(network, sentences, draw)
                total = sum_over_rows(terms.loss, terms.block, len(terms.scored))
                measured.append((total / terms.scored.clamp(min=1)).cpu())
            numbers.append(terms.number.cpu())
    if not numbers:
        raise ValueError("clip search without a batch; expected at least one")
    number = torch.cat(numbers)
    clips = [Clip(low, high, _variance(torch.cat(values), number)) for (low, high), values in zip(intervals, losses)]
    return sorted(clips, key=lambda clip: clip.variance)


def _variance(values: Tensor, number: Tensor) -> float:
    """Pooled variance of values [M] within the groups of equal block number [M]."""
    count = torch.bincount(number).double()
    freedom = float((count - 1).clamp(min=0).sum())
    if not freedom:
        raise ValueError("clip search over a single sentence; expected several, whose blocks can be compared")
    mean = sum_over_rows(values, number, len(count)) / count.clamp(min=1)
    return float((values - mean[number]).square().sum()) / freedom
