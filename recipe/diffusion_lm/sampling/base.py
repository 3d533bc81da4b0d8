"""What a sampler is: a way to draw sentences from a model, with options of its own.

    class MySampler(Sampler):
        def __init__(self, model: LanguageModel, *, steps: int = 1000): ...       # keyword arguments: the options
        def draw(self, lengths, *, seed, first): ...

    SAMPLERS["masks"].add("mine", MySampler)                                      # sampling/__init__.py, from a program of your own
    build_sampler(model, "mine", steps=64).draw_all([9, 12, 17], seed=1)

A sampler gets what it needs from the members of `model.family` (predict, scored, noise or process, level_of_time) and from the network.
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
        """One sentence for each of `lengths` (at least 1 each), as one batch.

        Args:
            lengths: number of pieces; of a model that draws the end of a sentence too, the most that it may have.
            seed: of all random numbers.
            first: number of the first sentence. A sentence depends on the seed and its own number alone, so batches do not matter.
        """

    def draw_all(self, lengths: Sequence[int], *, seed: int = 1, batch_size: int = 64) -> Samples:
        """One sentence for each of `lengths`, in batches. ValueError for a length or batch size below 1."""
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
        """Its options by name; `default` of one that must be given is `inspect.Parameter.empty`."""
        parameters = inspect.signature(cls).parameters
        return {name: item for name, item in parameters.items() if item.kind is inspect.Parameter.KEYWORD_ONLY}


def check_steps(steps: int) -> int:
    """The number of steps. ValueError below 1."""
    if steps < 1:
        raise ValueError(f"sampling steps {steps}: expected at least 1")
    return steps


def uniform_numbers(layout: Layout, count: int, seed: int, first: int, purpose: str = "sample") -> Tensor:
    """[N, count] uniform float64 numbers; those of a row depend on (seed, purpose, its number, its length) alone."""
    lengths = layout.lengths.tolist()
    own = generators(len(lengths), seed, first, purpose)
    parts = [torch.rand(n, count, generator=generator, dtype=torch.float64) for n, generator in zip(lengths, own)]
    return torch.cat(parts) if parts else torch.empty(0, count, dtype=torch.float64)
