"""Draw sentences from a masked model by its reverse process in time steps.

    drawn = Cached(model, steps=1000).draw_all([12] * 64, seed=1)

A masked model defines p(pieces | their number): all pieces start masked between a visible BOS and EOS. From t to s < t
a masked position is revealed with probability (rho(t) - rho(s)) / rho(t), independently of its token, which is then
drawn from the network's prediction (Sahoo et al., arXiv 2406.07524). One uniform number therefore determines the step
in which a position is revealed, and predictions are only needed in those steps. "ddpm_cache" and "analytic" make only
these passes (at most one per token, with or without time conditioning), "ddpm" makes one in every step; with the same
seed they draw the same tokens. The analytic step of SEDD (Lou et al., arXiv 2310.16834), with the score that SUBS
implies, has the same distribution (tests/sampling/test_sampling.py). It differs only at the end, where it draws the
remaining masks while the others take the most probable symbol.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling.base import Sampler, check_steps, uniform_numbers
from diffusion_lm.sampling.samples import Samples, categorical
from returnn_bridge.registry import Registry

LAST_TIME = 1e-5
"""Time at which the reverse process ends; noise removal fills the remaining masks."""


class MaskedSampler(Sampler):
    """The reverse process of a masked model, from only masks at t = 1 to `LAST_TIME` in equal steps of t.

    steps: number of steps, ValueError below 1. noise_removal: whether to fill masks that remain after the last step.
    """

    every_step: ClassVar[bool] = False
    """Run the network in every step, even if nothing is revealed, as the method was published."""
    draws_last: ClassVar[bool] = False
    """Noise removal draws from the prediction instead of taking the most probable symbol."""

    def __init__(self, model: LanguageModel, *, steps: int = 1000, noise_removal: bool = True):
        super().__init__(model)
        self.mask = self.family.special.mask_id
        self.steps, self.noise_removal = check_steps(steps), noise_removal
        self.times = torch.linspace(1.0, LAST_TIME, steps + 1, dtype=torch.float64)
        rho = self.family.noise.mask_probability(self.times)
        self.still_masked = rho / rho[0]  # probability that a position is not revealed by times[i]

    def draw(self, lengths: Sequence[int], *, seed: int, first: int) -> Samples:
        sentences = self._framed([[self.mask] * length for length in lengths])
        ids = sentences.ids.masked_fill(self.family.scored(sentences), self.mask)  # EOS too, if it is scored
        return self._reveal(Sentences(ids, sentences.layout), seed, first)

    def fill(self, rows: Sequence[Sequence[int]], *, seed: int, first: int) -> Samples:
        """Draw the masked positions of partly known sentences: piece ids, with the mask id at positions to draw."""
        return self._reveal(self._framed(rows), seed, first)

    def _framed(self, rows: Sequence[Sequence[int]]) -> Sentences:
        special = self.family.special
        return Sentences.of(rows, bos_id=special.bos_id, eos_id=special.eos_id).to(self.model.device)

    def _reveal(self, sentences: Sentences, seed: int, first: int) -> Samples:
        """Draw the masked positions; row i uses the random numbers of sentence `first` + i."""
        special, layout = self.family.special, sentences.layout
        ids = sentences.ids.clone()
        keys = uniform_numbers(layout, 2, seed, first).to(ids.device)
        after = torch.searchsorted(self.still_masked[1:].flip(0).to(ids.device), keys[:, 0].contiguous(), right=True)
        reveal = (self.steps - after).masked_fill(ids != self.mask, -1)  # step of each position; `steps` if none
        passes = 0
        due_steps = sorted(set(reveal.tolist()) - {-1, self.steps})
        for step in range(self.steps) if self.every_step else due_steps:
            passes += self._step(ids, layout, reveal == step, keys[:, 1], float(self.times[step]), best=False)
        if self.noise_removal:
            last = reveal == self.steps
            passes += self._step(ids, layout, last, keys[:, 1], LAST_TIME, best=not self.draws_last)
        tokens = [part.tolist()[1:] for part in ids.cpu().split(layout.lengths.tolist())]
        if self.family.scores_end:  # EOS is drawn too; the first one ends the sentence
            tokens = [row[: row.index(special.eos_id)] if special.eos_id in row else row for row in tokens]
        else:
            tokens = [row[:-1] for row in tokens]
        return Samples(tokens, passes, sum(self.mask in row for row in tokens))

    def _step(self, ids: Tensor, layout: Layout, due: Tensor, keys: Tensor, time: float, *, best: bool) -> int:
        """Draw tokens for the positions in `due` [N] and write them into `ids`.

        Returns the number of rows in the network run.
        """
        wanted = (ids == self.mask) if self.every_step else due
        rows = torch.zeros(len(layout.lengths), dtype=torch.bool, device=ids.device)
        rows[layout.row[wanted]] = True
        if not rows.any():
            return 0
        inside = rows[layout.row]
        part = Layout(layout.lengths[rows])
        level = self.family.level_of_time(torch.full((len(part.lengths),), time, device=ids.device))
        select = wanted[inside].nonzero()[:, 0]
        log_probs = self.family.predict(self.model.network, ids[inside], part, level=level, select=select)[due[wanted]]
        ids[due] = log_probs.argmax(-1) if best else categorical(log_probs, keys[due])
        return int(rows.sum())


class Cached(MaskedSampler):
    """Sampler "ddpm_cache": runs the network only in steps that reveal something."""


class EveryStep(MaskedSampler):
    """Sampler "ddpm": runs the network in every step, as published."""

    every_step = True


class Analytic(MaskedSampler):
    """Sampler "analytic": draws the masks that remain at the end; the others take the most probable symbol."""

    draws_last = True


PREDICTORS: Registry[type[MaskedSampler]] = Registry(
    "predictor", {"ddpm_cache": Cached, "ddpm": EveryStep, "analytic": Analytic}
)
