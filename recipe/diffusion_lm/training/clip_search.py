"""Which times to train a block model on: the interval whose loss varies least (Arriola et al., arXiv 2503.09573, section 4).

    found = search_clip(model.family.clippable, model.network, batches, widths=[0.5, 0.6, 0.7, 0.8, 0.9], delta=0.05)
    family = model.family.clippable.with_interval(found[0].low, found[0].high, resample=False)

Gradients of small blocks are noisy: with few masked tokens a block's loss says little, with few visible ones it is far from what the sampler
meets. Losses on a part of the times are no bounds and are compared by their variance only; `nelbo` never looks at the interval.
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
    """A candidate and how much its training loss varies."""

    low: float
    high: float
    variance: float  # of a block's mean loss per token (nats^2), over sentences, at the same place in them


def candidates(sampling_eps: float, widths: Sequence[float], delta: float) -> list[tuple[float, float]]:
    """All of the times, and for each width the intervals that start at 0, delta, 2 delta ... and end within 1; at least eps."""
    found = [(sampling_eps, 1.0)]
    for width in widths:
        number = int((1 - width) / delta + 1e-9) + 1
        # Rounded, so that 3 * 0.1 is 0.3 and the end of the last interval no more than 1.
        found += [
            (max(round(i * delta, 9), sampling_eps), min(round(i * delta + width, 9), 1.0)) for i in range(number)
        ]
    return list(dict.fromkeys(found))


def search_clip(
    family: ClippableFamily,
    network: Denoiser,
    batches: Iterable[tuple[Sentences, NoiseDraw]],
    widths: Sequence[float],
    delta: float,
) -> list[Clip]:
    """Every candidate interval with the variance of its loss, the best first. All see the same noise, one run each a batch.

    ValueError for block size 1 (nothing is drawn), impossible widths, or batches without two blocks at the same place.
    """
    if family.exact:
        raise ValueError("clip search with family.block_size 1, where every token is masked; expected larger blocks")
    if not widths or any(not family.sampling_eps < width <= 1 for width in widths) or not 0 < delta <= 1:
        raise ValueError(
            f"clip search over widths {list(widths)} with delta {delta}: expected widths above sampling_eps, at most 1, and 0 < delta <= 1"
        )
    intervals = candidates(family.sampling_eps, widths, delta)
    clipped = [family.with_interval(low, high, resample=False).clippable for low, high in intervals]
    losses: list[list[Tensor]] = [[] for _ in intervals]
    places: list[Tensor] = []
    with torch.no_grad():
        for sentences, draw in batches:
            for own, candidate in zip(losses, clipped):
                assert candidate is not None, "the same family"
                terms = candidate.training_terms(network, sentences, draw)
                total = sum_over_rows(terms.loss, terms.block, len(terms.scored))
                own.append((total / terms.scored.clamp(min=1)).cpu())
            places.append(terms.number.cpu())
    if not places:
        raise ValueError("clip search without a batch; expected at least one")
    place = torch.cat(places)
    found = [Clip(low, high, _variance(torch.cat(own), place)) for (low, high), own in zip(intervals, losses)]
    return sorted(found, key=lambda clip: clip.variance)


def _variance(values: Tensor, place: Tensor) -> float:
    """Pooled variance of values [M] within the groups of equal place [M]."""
    count = torch.bincount(place).double()
    freedom = float((count - 1).clamp(min=0).sum())
    if not freedom:
        raise ValueError("clip search over a single sentence; expected several, whose blocks can be compared")
    mean = sum_over_rows(values, place, len(count)) / count.clamp(min=1)
    return float((values - mean[place]).square().sum()) / freedom
