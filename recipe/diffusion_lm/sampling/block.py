"""Draw sentences from a block model: block by block from left to right, until a sentence ends.

    drawn = FirstHitting(model).draw_all([20] * 64, seed=1)                                # one network run per token
    drawn = AncestralBlocks(model, steps=100, nucleus_p=0.9).draw_all([20] * 64, seed=1)   # on a grid of times

A new block consists of masks after the finished text. The first-hitting sampler reveals one masked position at a time,
chosen uniformly. A network without time conditioning does not need the time of the reveal (Zheng et al., arXiv
2409.02908), so a block of k masks takes exactly k runs. The ancestral sampler reveals all positions of a time step at
once, and only runs the steps that reveal something. With `cached`, a finished block is read once more, clean, for its
keys and values; otherwise every run reads the whole text again. Both give the same sentences.

An EOS ends the sentence at any position of its block, unless samples of a fixed length are asked for: these may hold
several documents with EOS between them, as the packed rows that a model was trained on. The random numbers of a
sentence depend only on the seed and the index of the sentence.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_lm.backbones.attention import KeyValueCache
from diffusion_lm.layout import Layout
from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling.base import Sampler, check_steps
from diffusion_lm.sampling.samples import Samples, categorical, generators


class BlockSampler(Sampler):
    """Base of the samplers that draw block by block, up to the given number of pieces.

    nucleus_p: draw from the most probable symbols with this total probability; ValueError outside (0, 1].
    cached: keep keys and values of finished blocks. fixed_length: draw exactly the given number of tokens, EOS among
    them.
    """

    def __init__(
        self, model: LanguageModel, *, nucleus_p: float = 1.0, cached: bool = True, fixed_length: bool = False
    ):
        super().__init__(model)
        if not 0 < nucleus_p <= 1:
            raise ValueError(f"nucleus_p {nucleus_p}: expected 0 < p <= 1")
        self.nucleus_p, self.cached, self.fixed_length = nucleus_p, cached, fixed_length

    @abstractmethod
    def moments(self, keys: Tensor) -> Tensor:
        """[R, size] step in which each position is revealed, from uniform keys [R, size], which are inf where nothing
        is revealed.
        """

    def draw(self, lengths: Sequence[int], *, seed: int, first: int) -> Samples:
        return _Run(self, lengths, generators(len(lengths), seed, first)).all_blocks()


class FirstHitting(BlockSampler):
    """Reveals one position at a time, in a uniformly random order."""

    def moments(self, keys: Tensor) -> Tensor:
        return keys.argsort(dim=1, stable=True).argsort(dim=1)


class AncestralBlocks(BlockSampler):
    """Reveals positions at the times of the schedule. steps: number of time steps per block, ValueError below 1."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        steps: int = 1000,
        nucleus_p: float = 1.0,
        cached: bool = True,
        fixed_length: bool = False,
    ):
        super().__init__(model, nucleus_p=nucleus_p, cached=cached, fixed_length=fixed_length)
        self.steps = check_steps(steps)

    def moments(self, keys: Tensor) -> Tensor:
        times = torch.linspace(1.0, 0.0, self.steps + 1, dtype=torch.float64, device=keys.device)
        rho = self.family.noise.mask_probability(times)
        # Decreases from step to step; positions still masked at the end are revealed in the last step.
        still_masked = rho[1:] / rho[0]
        after = torch.searchsorted(still_masked.flip(0), keys.clamp(max=1.0).contiguous(), right=True)
        return (self.steps - after).clamp(max=self.steps - 1)


def nucleus(log_probs: Tensor, p: float) -> Tensor:
    """[M, V] log_probs with -inf for all but the most probable symbols with a total of at most p.

    The best one is kept; not normalised.
    """
    ordered, order = log_probs.double().sort(dim=-1, descending=True)
    beyond = ordered.exp().cumsum(-1) > p
    beyond[:, 0] = False
    return log_probs.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), -torch.inf)


class _Run:
    """Draws one batch of sentences; those that have not ended all have the same number of blocks."""

    def __init__(self, sampler: BlockSampler, limits: Sequence[int], random: Sequence[torch.Generator]):
        self.sampler, self.model, self.family = sampler, sampler.model, sampler.family
        self.limits, self.generators, self.device = limits, random, sampler.model.device
        assert self.family.block_size is not None, "samplers of blocks are for families that have them"
        self.size = self.family.block_size
        self.passes = 0

    def all_blocks(self) -> Samples:
        special, size = self.family.special, self.size
        done: list[list[int]] = [[] for _ in self.limits]
        unfinished = 0
        active = list(range(len(self.limits)))
        text = torch.full((len(active), 0), special.mask_id, device=self.device)  # finished blocks, BOS included
        past = KeyValueCache()
        while active:
            # BOS, the pieces and EOS. Without fill_last, the last block ends where the sentence ends.
            ends = 1 if self.sampler.fixed_length else 2
            room = torch.tensor([self.limits[index] + ends for index in active]) - text.shape[1]
            lengths = torch.full_like(room, size) if self.family.fill_last else room.clamp(max=size)
            block = self._one_block(active, text, past, Layout(lengths.to(self.device)))
            going = []
            for row, index in enumerate(active):
                tokens = block[row, : int(lengths[row])].tolist()
                tokens = tokens[1:] if not text.shape[1] else tokens
                if self.sampler.fixed_length:
                    done[index] = (done[index] + tokens)[: self.limits[index]]
                    if len(done[index]) < self.limits[index]:
                        going.append(row)
                    continue
                ended = special.eos_id in tokens
                done[index] += tokens[: tokens.index(special.eos_id)] if ended else tokens
                if len(done[index]) > self.limits[index]:  # no EOS at the last position where one was allowed
                    done[index], ended = done[index][: self.limits[index]], True
                    unfinished += 1
                if not ended:
                    going.append(row)
            keep = torch.tensor(going, dtype=torch.int64, device=self.device)
            active = [active[row] for row in going]
            text, finished = torch.cat([text[keep], block[keep]], dim=1), block[keep]
            if self.sampler.cached and active:
                whole = Layout(torch.full((len(active),), size, device=self.device))
                nothing = torch.empty(0, dtype=torch.int64, device=self.device)
                _, past = self.model.network.extend(finished.flatten(), whole, past.of(keep), nothing)
                self.passes += len(active)
        return Samples(done, self.passes, unfinished)

    def _one_block(self, active: list[int], text: Tensor, past: KeyValueCache, layout: Layout) -> Tensor:
        """[R, block size] the next block of each active sentence; a block that is shorter by `layout` [R] ends in
        masks.
        """
        special, size = self.family.special, self.size
        block = torch.full((len(active), size), special.mask_id, device=self.device)
        # [R, 2, size]: uniform numbers for the step of each reveal and for the token.
        keys = torch.stack(
            [torch.rand(2, size, generator=self.generators[index], dtype=torch.float64) for index in active]
        )
        keys = keys.to(self.device)
        exists = torch.arange(size, device=self.device) < layout.lengths[:, None]
        if not text.shape[1]:
            block[:, 0], exists[:, 0] = special.bos_id, False
        when = self.sampler.moments(keys[:, 0].masked_fill(~exists, torch.inf)).masked_fill(~exists, -1)
        for step in sorted(set(when.flatten().tolist()) - {-1}):
            due = when == step
            rows = due.any(1).nonzero()[:, 0]
            log_probs = self._predict(text[rows], block[rows], past.of(rows), Layout(layout.lengths[rows]), due[rows])
            if self.sampler.nucleus_p < 1:
                log_probs = nucleus(log_probs, self.sampler.nucleus_p)
            block[due] = categorical(log_probs, keys[:, 1][due])
            self.passes += len(rows)
        return block

    def _predict(self, text: Tensor, block: Tensor, past: KeyValueCache, layout: Layout, due: Tensor) -> Tensor:
        """log p of every symbol at the positions in `due` [R, size]: [M, outputs]."""
        exists = torch.arange(block.shape[1], device=self.device) < layout.lengths[:, None]
        if self.sampler.cached:
            logits, _ = self.model.network.extend(block[exists], layout, past, due[exists].nonzero()[:, 0])
            return self.family.log_probs(logits)
        before = torch.ones_like(text, dtype=torch.bool)
        ids = torch.cat([text, block], dim=1)[inside := torch.cat([before, exists], dim=1)]
        wanted = torch.cat([~before, due], dim=1)[inside].nonzero()[:, 0]
        # A block does not attend to its own clean ids, so masks are allowed there.
        return self.family.predict(self.model.network, ids, Layout(layout.lengths + text.shape[1]), select=wanted)
