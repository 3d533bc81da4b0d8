"""Draw from an autoregressive model: each next piece from the network, until it says EOS."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diffusion_lm.layout import Sentences
from diffusion_lm.sampling.base import Sampler
from diffusion_lm.sampling.samples import Samples, categorical, generators


class LeftToRight(Sampler):
    """Of at most as many pieces as asked for; a sentence that has not ended then is counted as unfinished."""

    def draw(self, lengths: Sequence[int], *, seed: int, first: int) -> Samples:
        special, device = self.family.special, self.model.device
        own = generators(len(lengths), seed, first)
        rows: list[list[int]] = [[] for _ in lengths]
        active = list(range(len(lengths)))
        unfinished = passes = 0
        while active:
            sentences = Sentences.of([rows[index] for index in active], bos_id=special.bos_id, eos_id=special.eos_id)
            sentences = sentences.to(device)
            # The next piece stands where the frame has its EOS, which a causal network does not see from the position before.
            select = sentences.is_eos.nonzero()[:, 0]
            log_probs = self.family.predict(self.model.network, sentences.ids, sentences.layout, select=select)
            uniform = torch.cat([torch.rand(1, generator=own[index], dtype=torch.float64) for index in active])
            passes += len(active)
            going = []
            for index, token in zip(active, categorical(log_probs, uniform.to(device)).tolist()):
                if token == special.eos_id:
                    continue
                if len(rows[index]) == lengths[index]:
                    unfinished += 1
                    continue
                rows[index].append(token)
                going.append(index)
            active = going
        return Samples(rows, passes, unfinished)
