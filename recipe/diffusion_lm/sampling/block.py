"""Draw sentences from a block model: block by block from left to right, until a sentence ends.

    drawn = sample_blocks(model, [20] * 64, seed=1)                        # first-hitting: one run for every token
    drawn = sample_blocks(model, [20] * 64, steps=100, nucleus_p=0.9)      # ancestral on a grid of times

A block starts as masks behind finished text. First-hitting: the next position to be revealed is any of the masked ones alike, and which
moment it happens at is of no interest to a network that is not told (Zheng et al., arXiv 2409.02908), so a block of k masks takes exactly
k runs. Ancestral: positions of one step of the schedule's grid are revealed at once; only steps that reveal something are run. A finished
block is read once more, clean, for its keys and values (`cached`), or all of the text is read again in every run: the same sentences.

An EOS ends the sentence wherever it falls in its block. Each sentence has its own random numbers from (seed, its place).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_lm.backbones.attention import KeyValueCache
from diffusion_lm.families.block import BlockFamily
from diffusion_lm.layout import Layout
from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling.samples import Samples, categorical, generators


def sample_blocks(
    model: LanguageModel,
    limits: Sequence[int],
    *,
    steps: int | None = None,
    nucleus_p: float = 1.0,
    cached: bool = True,
    seed: int = 1,
    first: int = 0,
) -> Samples:
    """One sentence of at most that many pieces for each of `limits`, as one batch.

    steps: of the ancestral sampler, None = first-hitting; nucleus_p: draw from the most probable symbols with this much probability;
    first: number of the first sentence in its stream of random numbers. ValueError for another family or a value out of range.
    """
    family = model.family
    if not isinstance(family, BlockFamily):
        raise ValueError("this model does not draw blocks; expected a model of the block family")
    if any(limit < 1 for limit in limits):
        raise ValueError(f"sampling lengths {sorted(limits)[:3]}: expected numbers of at least 1")
    if steps is not None and steps < 1:
        raise ValueError(f"sampling steps {steps}: expected at least 1, or None for first-hitting")
    if not 0 < nucleus_p <= 1:
        raise ValueError(f"nucleus_p {nucleus_p}: expected 0 < p <= 1")
    return _Run(model, family, list(limits), steps, nucleus_p, cached, seed, first).all_blocks()


def draw_blocks(
    model: LanguageModel,
    limits: Sequence[int],
    predictor: str,
    steps: int,
    seed: int,
    first: int,
    nucleus_p: float = 1.0,
) -> Samples:
    """`sample_blocks` by the name of its sampler: "first-hitting", or "ancestral" in so many steps a block. ValueError for another."""
    if predictor not in ("first-hitting", "ancestral"):
        raise ValueError(f"predictor {predictor!r} of a block model; expected first-hitting or ancestral")
    own_steps = steps if predictor == "ancestral" else None
    return sample_blocks(model, limits, steps=own_steps, nucleus_p=nucleus_p, seed=seed, first=first)


def nucleus(log_probs: Tensor, p: float) -> Tensor:
    """[M, V] log_probs without all but the most probable symbols whose sum is at most p (never without the best one); not normalised."""
    ordered, order = log_probs.double().sort(dim=-1, descending=True)
    beyond = ordered.exp().cumsum(-1) > p
    beyond[:, 0] = False
    return log_probs.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), -torch.inf)


class _Run:
    """A batch of sentences on its way; `rows` are the ids of those that have not ended, all of the same number of blocks."""

    def __init__(
        self,
        model: LanguageModel,
        family: BlockFamily,
        limits: list[int],
        steps: int | None,
        nucleus_p: float,
        cached: bool,
        seed: int,
        first: int,
    ):
        self.model, self.family, self.limits = model, family, limits
        self.steps, self.nucleus_p, self.cached = steps, nucleus_p, cached
        self.device = model.device
        self.generators = generators(len(limits), seed, first)
        self.passes = 0

    def all_blocks(self) -> Samples:
        special, size = self.family.special, self.family.block_size
        done: list[list[int]] = [[] for _ in self.limits]
        unfinished = 0
        active = list(range(len(self.limits)))
        text = torch.full((len(active), 0), special.mask_id, device=self.device)  # finished blocks, BOS included
        past = KeyValueCache()
        with torch.inference_mode():
            while active:
                # BOS, the pieces and EOS; a model whose last block is as long as the sentence does not look beyond.
                room = torch.tensor([self.limits[place] + 2 for place in active]) - text.shape[1]
                lengths = torch.full_like(room, size) if self.family.fill_last else room.clamp(max=size)
                block = self._one_block(active, text, past, Layout(lengths.to(self.device)))
                going = []
                for index, place in enumerate(active):
                    tokens = block[index, : int(lengths[index])].tolist()
                    tokens = tokens[1:] if not text.shape[1] else tokens
                    ended = special.eos_id in tokens
                    done[place] += tokens[: tokens.index(special.eos_id)] if ended else tokens
                    if len(done[place]) > self.limits[place]:  # no EOS at the last place where one was allowed
                        done[place], ended = done[place][: self.limits[place]], True
                        unfinished += 1
                    if not ended:
                        going.append(index)
                keep = torch.tensor(going, dtype=torch.int64, device=self.device)
                active = [active[index] for index in going]
                text, finished = torch.cat([text[keep], block[keep]], dim=1), block[keep]
                if self.cached and active:
                    whole = Layout(torch.full((len(active),), size, device=self.device))
                    nothing = torch.empty(0, dtype=torch.int64, device=self.device)
                    _, past = self.model.network.extend(finished.flatten(), whole, past.of(keep), nothing)
                    self.passes += len(active)
        return Samples(done, self.passes, unfinished)

    def _one_block(self, active: list[int], text: Tensor, past: KeyValueCache, layout: Layout) -> Tensor:
        """[R, block size] the next block of each active sentence; a shorter one (layout: lengths [R]) ends in masks."""
        special, size = self.family.special, self.family.block_size
        block = torch.full((len(active), size), special.mask_id, device=self.device)
        # [R, 2, size]: when a position is revealed, and what its token is
        keys = torch.stack(
            [torch.rand(2, size, generator=self.generators[place], dtype=torch.float64) for place in active]
        )
        keys = keys.to(self.device)
        exists = torch.arange(size, device=self.device) < layout.lengths[:, None]
        if not text.shape[1]:
            block[:, 0], exists[:, 0] = special.bos_id, False
        when = self._moments(keys[:, 0].masked_fill(~exists, torch.inf)).masked_fill(~exists, -1)
        for step in sorted(set(when.flatten().tolist()) - {-1}):
            due = when == step
            rows = due.any(1).nonzero()[:, 0]
            log_probs = self._predict(text[rows], block[rows], past.of(rows), Layout(layout.lengths[rows]), due[rows])
            if self.nucleus_p < 1:
                log_probs = nucleus(log_probs, self.nucleus_p)
            block[due] = categorical(log_probs, keys[:, 1][due])
            self.passes += len(rows)
        return block

    def _moments(self, keys: Tensor) -> Tensor:
        """[R, size] the step in which each position is revealed, from uniform keys [R, size]; inf where there is nothing to reveal."""
        if self.steps is None:  # one after the other, in an order that is uniform
            return keys.argsort(dim=1, stable=True).argsort(dim=1)
        times = torch.linspace(1.0, 0.0, self.steps + 1, dtype=torch.float64, device=self.device)
        rho = self.family.noise.mask_probability(times)
        still_masked = (
            rho[1:] / rho[0]
        )  # falls from step to step; what is masked at the end is revealed in the last one
        after = torch.searchsorted(still_masked.flip(0), keys.clamp(max=1.0).contiguous(), right=True)
        return (self.steps - after).clamp(max=self.steps - 1)

    def _predict(self, text: Tensor, block: Tensor, past: KeyValueCache, layout: Layout, due: Tensor) -> Tensor:
        """log p of every symbol at the positions in `due` [R, size]: [M, outputs]."""
        exists = torch.arange(block.shape[1], device=self.device) < layout.lengths[:, None]
        if self.cached:
            logits, _ = self.model.network.extend(block[exists], layout, past, due[exists].nonzero()[:, 0])
            return self.family.log_probs(logits)
        before = torch.ones_like(text, dtype=torch.bool)
        ids = torch.cat([text, block], dim=1)[inside := torch.cat([before, exists], dim=1)]
        wanted = torch.cat([~before, due], dim=1)[inside].nonzero()[:, 0]
        # A block does not see its own clean side, so its masks may stand there.
        return self.family.predict(self.model.network, ids, Layout(layout.lengths + text.shape[1]), select=wanted)
