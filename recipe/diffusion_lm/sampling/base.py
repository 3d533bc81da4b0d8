"""The base class of samplers, which draw sentences from a model.

    class MySampler(Sampler):
        def __init__(self, model: LanguageModel, *, steps: int = 1000): ...    # keyword arguments are the options
        def draw(self, lengths, *, seed, first): ...

    SAMPLERS["masks"].add("mine", MySampler)      # the registry is in sampling/__init__.py
    build_sampler(model, "mine", steps=64).draw_all([9, 12, 17], seed=1)

A sampler uses the network and members of `model.family` (predict, scored, noise or process, level_of_time).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from diffusion_lm.layout import Layout
from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling.samples import Samples, generators


class Sampler(ABC):
    """Draws sentences from one model. The keyword arguments of a subclass's constructor are its options."""

    def __init__(self, model: LanguageModel):
        self.model, self.family = model, model.family

    @abstractmethod
    def draw(self, lengths: Sequence[int], *, seed: int, first: int) -> Samples:
        """Draw one sentence for each of `lengths` (at least 1 each), as one batch.

        Args:
            lengths: numbers of pieces; for a model that draws the end of a sentence too, the largest numbers allowed.
            seed: seed of all random numbers.
            first: index of the first sentence. A sentence depends only on the seed and its index, not on the batch.
        """

    def draw_all(self, lengths: Sequence[int], *, seed: int = 1, batch_size: int = 64) -> Samples:
        """Draw one sentence for each of `lengths`, in batches. ValueError for a length or batch size below 1."""
        if any(length < 1 for length in lengths) or batch_size < 1:
            raise ValueError(
                f"sampling lengths {sorted(lengths)[:3]}, batch size {batch_size}: expected numbers of at least 1"
            )
        with torch.inference_mode():
            parts = [
                self.draw(lengths[start : start + batch_size], seed=seed, first=start)
                for start in range(0, len(lengths), batch_size)
            ]
        tokens = [row for part in parts for row in part.tokens]
        return Samples(tokens, sum(part.passes for part in parts), sum(part.unfinished for part in parts))

    @classmethod
    def options(cls) -> Mapping[str, inspect.Parameter]:
        """The options by name; a required one has `inspect.Parameter.empty` as its default."""
        parameters = inspect.signature(cls).parameters
        return {name: item for name, item in parameters.items() if item.kind is inspect.Parameter.KEYWORD_ONLY}


def check_steps(steps: int) -> int:
    """Return the number of steps; ValueError if it is below 1."""
    if steps < 1:
        raise ValueError(f"sampling steps {steps}: expected at least 1")
    return steps


def uniform_numbers(layout: Layout, count: int, seed: int, first: int, purpose: str = "sample") -> Tensor:
    """[N, count] uniform float64 numbers; those of a row depend on (seed, purpose, row index, row length) alone."""
    lengths = layout.lengths.tolist()
    of_rows = generators(len(lengths), seed, first, purpose)
    parts = [torch.rand(n, count, generator=generator, dtype=torch.float64) for n, generator in zip(lengths, of_rows)]
    return torch.cat(parts) if parts else torch.empty(0, count, dtype=torch.float64)
