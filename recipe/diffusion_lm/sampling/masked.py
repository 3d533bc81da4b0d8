"""Draw sentences from a masked model: its reverse process, in steps of time.

    drawn = Cached(model, steps=1000).draw_all([12] * 64, seed=1)

A masked model draws p(pieces | their number): all pieces start masked between a visible BOS and EOS. On the way from t to s < t a masked
position is revealed with probability (rho(t) - rho(s)) / rho(t), whatever stands in it, and its token then follows the network
(Sahoo et al., arXiv 2406.07524). So one uniform number tells in which step a position is revealed, and a prediction is looked at only where
something is revealed: "ddpm_cache" and "analytic" make only those passes (at most one a token, time conditioning or not), "ddpm" one in
every step; with the same seed they draw the same. The analytic step of SEDD (Lou et al., arXiv 2310.16834), with the score that SUBS
implies, has the same law (tests/sampling/test_sampling.py); it differs at the end, where it draws what is still masked and the others take
the best.
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
"""Where the reverse process ends; what is masked then is left to noise removal."""


class MaskedSampler(Sampler):
    """The reverse process of a masked model, from all noise at t = 1 to `LAST_TIME` in equal steps of t.

    noise_removal: whether what is masked in the end is drawn too. ValueError for a number of steps below 1.
    """

    every_step: ClassVar[bool] = False
    """Run the network in every step, needed or not, as the method was published."""
    draws_last: ClassVar[bool] = False
    """Noise removal draws from the prediction instead of taking its best symbol."""

    def __init__(self, model: LanguageModel, *, steps: int = 1000, noise_removal: bool = True):
        super().__init__(model)
        self.mask = self.family.special.mask_id
        self.steps, self.noise_removal = check_steps(steps), noise_removal
        self.times = torch.linspace(1.0, LAST_TIME, steps + 1, dtype=torch.float64)
        rho = self.family.noise.mask_probability(self.times)
        self.still_masked = rho / rho[0]  # probability that a position is not revealed by times[i]

    def draw(self, lengths: Sequence[int], *, seed: int, first: int) -> Samples:
        sentences = self._framed([[self.mask] * length for length in lengths])
        ids = sentences.ids.masked_fill(self.family.scored(sentences), self.mask)  # the EOS too, where it is scored
        return self._reveal(Sentences(ids, sentences.layout), seed, first)

    def fill(self, rows: Sequence[Sequence[int]], *, seed: int, first: int) -> Samples:
        """Draw the masked positions of partly known sentences (piece ids, the mask's where to draw)."""
        return self._reveal(self._framed(rows), seed, first)

    def _framed(self, rows: Sequence[Sequence[int]]) -> Sentences:
        special = self.family.special
        return Sentences.of(rows, bos_id=special.bos_id, eos_id=special.eos_id).to(self.model.device)

    def _reveal(self, sentences: Sentences, seed: int, first: int) -> Samples:
        """Draw what is masked. Row i is number `first` + i of its stream of random numbers."""
        special, layout = self.family.special, sentences.layout
        ids = sentences.ids.clone()
        keys = uniform_numbers(layout, 2, seed, first).to(ids.device)
        after = torch.searchsorted(self.still_masked[1:].flip(0).to(ids.device), keys[:, 0].contiguous(), right=True)
        reveal = (self.steps - after).masked_fill(ids != self.mask, -1)  # the step of each position; `steps` = not yet
        passes = 0
        due_steps = sorted(set(reveal.tolist()) - {-1, self.steps})
        for step in range(self.steps) if self.every_step else due_steps:
            passes += self._step(ids, layout, reveal == step, keys[:, 1], float(self.times[step]), best=False)
        if self.noise_removal:
            last = reveal == self.steps
            passes += self._step(ids, layout, last, keys[:, 1], LAST_TIME, best=not self.draws_last)
        tokens = [part.tolist()[1:] for part in ids.cpu().split(layout.lengths.tolist())]
        if self.family.scores_end:  # the EOS is drawn too: it may come early and ends the sentence
            tokens = [row[: row.index(special.eos_id)] if special.eos_id in row else row for row in tokens]
        else:
            tokens = [row[:-1] for row in tokens]
        return Samples(tokens, passes, sum(self.mask in row for row in tokens))

    def _step(self, ids: Tensor, layout: Layout, due: Tensor, keys: Tensor, time: float, *, best: bool) -> int:
        """Put tokens at the positions in `due` [N] into `ids`; returns how many rows went through the network."""
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
    """Passes only where something is revealed: "ddpm_cache"."""


class EveryStep(MaskedSampler):
    """A pass in every step, as published: "ddpm"."""

    every_step = True


class Analytic(MaskedSampler):
    """What is masked in the end is drawn, where the others take the best symbol: "analytic"."""

    draws_last = True


PREDICTORS: Registry[type[MaskedSampler]] = Registry(
    "predictor", {"ddpm_cache": Cached, "ddpm": EveryStep, "analytic": Analytic}
)
