"""Draw sentences from an autoregressive model, piece by piece, until EOS is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diffusion_lm.layout import Sentences
from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling.base import Sampler
from diffusion_lm.sampling.samples import Samples, categorical, generators


class LeftToRight(Sampler):
    """Draws up to the given number of pieces; a sentence without EOS by then counts as unfinished.

    fixed_length: draw exactly the given number of tokens, EOS among them, as in a packed row.
    """

    def __init__(self, model: LanguageModel, *, fixed_length: bool = False):
        super().__init__(model)
        self.fixed_length = fixed_length

    def draw(self, lengths: Sequence[int], *, seed: int, first: int) -> Samples:
        special, device = self.family.special, self.model.device
        random = generators(len(lengths), seed, first)
        rows: list[list[int]] = [[] for _ in lengths]
        active = list(range(len(lengths)))
        unfinished = passes = 0
        while active:
            sentences = Sentences.of([rows[index] for index in active], bos_id=special.bos_id, eos_id=special.eos_id)
            sentences = sentences.to(device)
            # The next piece is predicted at the position of EOS, whose id a causal network does not see for this.
            select = sentences.is_eos.nonzero()[:, 0]
            log_probs = self.family.predict(self.model.network, sentences.ids, sentences.layout, select=select)
            uniform = torch.cat([torch.rand(1, generator=random[index], dtype=torch.float64) for index in active])
            passes += len(active)
            going = []
            for index, token in zip(active, categorical(log_probs, uniform.to(device)).tolist()):
                if self.fixed_length:
                    rows[index].append(token)
                    going += [index] if len(rows[index]) < lengths[index] else []
                    continue
                if token == special.eos_id:
                    continue
                if len(rows[index]) == lengths[index]:
                    unfinished += 1
                    continue
                rows[index].append(token)
                going.append(index)
            active = going
        return Samples(rows, passes, unfinished)
