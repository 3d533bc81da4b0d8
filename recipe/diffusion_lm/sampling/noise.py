"""Draw sentences from models with uniform noise, by the reverse process from the largest time back to text.

    drawn = AncestralNoise(model, steps=128).draw_all([9, 12], seed=1)

From t to s < t a position is drawn from p(z_s | z_t), with the network's prediction instead of the clean token
(process.posterior). Every position is drawn in every step, so a token can change again later. The last step, from the
smallest time to clean text, is the same with alpha = 1; "greedy-tail" takes the most probable symbol there (Sahoo et
al., arXiv 2506.10892).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_lm.layout import Sentences
from diffusion_lm.model import LanguageModel
from diffusion_lm.process import Marginal, posterior
from diffusion_lm.sampling.base import Sampler, check_steps
from diffusion_lm.sampling.samples import Samples, categorical, generators


class AncestralNoise(Sampler):
    """The reverse process. steps: number of steps from the largest to the smallest time, ValueError below 1."""

    greedy_tail: ClassVar[bool] = False
    """Whether the last step takes the most probable symbol."""

    def __init__(self, model: LanguageModel, *, steps: int = 1000):
        super().__init__(model)
        self.steps = check_steps(steps)

    def draw(self, lengths: Sequence[int], *, seed: int, first: int) -> Samples:
        family, device = self.family, self.model.device
        special, process = family.special, family.process
        rows = [[family.symbols[0]] * length for length in lengths]
        sentences = Sentences.of(rows, bos_id=special.bos_id, eos_id=special.eos_id).to(device)
        layout, inner = sentences.layout, family.scored(sentences)
        select, one_time = inner.nonzero()[:, 0], torch.zeros_like(layout.row[inner])
        random = generators(len(lengths), seed, first)

        numbers = family.num_scored(layout).tolist()

        def uniform() -> Tensor:
            parts = [torch.rand(n, generator=generator, dtype=torch.float64) for n, generator in zip(numbers, random)]
            return torch.cat(parts).to(device)

        low, high = family.time_range
        times = torch.linspace(high, low, self.steps + 1, dtype=torch.float64, device=device)
        now = process.marginal(times[:1])
        z = sentences.ids.clone()
        # Start from noise alone, which is the prior of the bound (process.prior_divergence).
        z[select] = categorical(now.beta_pi.log().expand(len(select), -1), uniform())
        for number, time in enumerate(times):
            last = number == self.steps
            before = clean_marginal(now) if last else process.marginal(times[number + 1 : number + 2])
            level = family.level_of_time(time.repeat(len(lengths))).float()
            log_x_hat = family.predict(self.model.network, z, layout, level=level, select=select)
            x_hat = F.pad(log_x_hat.exp(), (0, special.num_inputs - log_x_hat.shape[1]))
            weights = posterior(now, before, x_hat, z[select], one_time)
            greedy = last and self.greedy_tail
            z[select] = weights.argmax(-1) if greedy else categorical(weights.log(), uniform())
            now = before
        tokens = [part.tolist()[1 : 1 + n] for part, n in zip(z.cpu().split(layout.lengths.tolist()), numbers)]
        if family.scores_end:  # EOS is drawn too; the first one ends the sentence
            tokens = [row[: row.index(special.eos_id)] if special.eos_id in row else row for row in tokens]
        return Samples(tokens, (self.steps + 1) * len(lengths), 0)


class GreedyTail(AncestralNoise):
    """The reverse process, with the most probable symbol in the last step."""

    greedy_tail = True


def clean_marginal(like: Marginal) -> Marginal:
    """The marginal at time 0, where every token is kept; shapes as in `like`."""
    return Marginal(torch.ones_like(like.alpha), torch.zeros_like(like.beta_pi), torch.zeros_like(like.rate_in))
